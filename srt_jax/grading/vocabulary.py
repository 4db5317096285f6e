"""The characters, commands and words that the tokeniser and the parser know."""

import re

UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ",
    "∙": "\\cdot ", "∗": "*", "÷": "\\div ", "⁄": "/", "∕": "/", "√": "\\sqrt ", "∛": "\\sqrt[3]", "π": "\\pi ",
    "∞": "\\infty ", "°": "^\\circ ", "º": "^\\circ ", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ",
    "≠": "\\ne ", "≈": "\\approx ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "∓": "\\mp ",
    "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5",
    "⁶": "^6", "⁷": "^7", "⁸": "^8", "⁹": "^9", "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4", "₅": "_5",
    "₆": "_6", "₇": "_7", "₈": "_8", "₉": "_9", "½": "\\frac12 ", "⅓": "\\frac13 ", "⅔": "\\frac23 ",
    "¼": "\\frac14 ", "¾": "\\frac34 ", "…": "\\ldots ", "’": "'", "′": "'", "“": "\"", "”": "\"", "θ": "\\theta ",
    "α": "\\alpha ", "β": "\\beta ", "λ": "\\lambda ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ",
    "⌉": "\\rceil ", "％": "%", "，": ",", "（": "(", "）": ")",
})  # fmt: skip
# Commands that change only the layout or style of the text after them.
STYLE = {
    "displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "noindent", "left", "right",
    "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr", "middle",
    "bf", "rm", "it", "centering", "thinspace", "medspace", "enspace", "negthinspace", "mathstrut", "strut",
    "boldsymbol", "mathbf", "mathit", "mathsf", "mathtt", "bm", "boxed", "fbox", "mathopen", "mathclose", "mathord",
    "mathbin", "mathrel", "allowbreak", "nobreak", "hfill",
}  # fmt: skip
RENAME = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">", "lbrace": "{",
    "rbrace": "}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "varnothing": "emptyset", "degree": "circ", "dots": "ldots", "cdots": "ldots", "ast": "*", "colon": ":",
    "ratio": ":", "land": "wedge", "arcsec": "asec", "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta",
    "textpi": "pi", "imath": "i", "slash": "/", "overrightarrow": "vec", "widehat": "hat", "backslash": "setminus",
    "simeq": "approx", "langle": "(", "rangle": ")", "sim": "approx", "thickapprox": "approx",
}  # fmt: skip
TEXT_COMMANDS = {
    "text", "textbf", "textit", "textrm", "textsf", "texttt", "textnormal", "mbox", "hbox", "mathrm", "emph",
    "textup",
}  # fmt: skip
# Characters that, after a backslash, are a space or a delimiter of a formula.
SPACING = {"!", ",", ";", ":", " ", ">", "/", "(", ")", "[", "]", "-", "\n", "\t", "@"}

FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "asec", "arccsc", "sinh",
    "cosh", "tanh", "ln", "log", "exp", "sqrt", "abs", "floor", "ceil", "max", "min", "gcd", "lcm", "lg",
    "arcsinh", "arccosh", "arctanh", "sgn",
}  # fmt: skip
# Names that are functions only if a bracket follows directly: factorial(5).
CALLS = {
    "factorial": "factorial", "binom": "binom", "binomial": "binom", "nCr": "binom", "comb": "binom",
    "choose": "binom", "nPr": "perm", "perm": "perm", "mod": "mod", "sign": "sgn", "signum": "sgn", "cbrt": "cbrt",
    "erf": "erf", "Re": "Re", "Im": "Im", "det": "det", "tr": "tr", "rank": "rank", "dim": "dim", "arg": "arg",
}  # fmt: skip
COUNTS = set("nmkrpijN")  # C(n, k) with these letters is a binomial; C(x, y) is a point
GLUED = re.compile(r"(sin|cos|tan|cot|sec|csc|ln|log|lg|exp|sqrt)([xyzuvn]|theta|pi|alpha)")  # sinx
ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "ceiling": "ceil", "arctg": "arctan", "arcctg": "arccot", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh",
}  # fmt: skip
CONSTANTS = {
    "pi": "pi", "infty": "inf", "infinity": "inf", "oo": "inf", "inf": "inf",
}  # fmt: skip
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma",
    "Phi", "Psi", "Omega", "ell", "hbar",
}  # fmt: skip
RELATION_SYMBOLS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=",
}  # fmt: skip
INEQUALITIES = {"<", "<=", ">", ">="}
RELATION_COMMANDS = {
    "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "approx", "equiv": "=",
}  # fmt: skip
MATRICES = {
    "matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array", "cases", "aligned", "align",
}  # fmt: skip
# Words of two letters that are units if a space is before them.
SHORT_UNITS = {
    "cm", "mm", "km", "kg", "mg", "ml", "mL", "ft", "in", "yd", "mi", "lb", "oz", "hr", "ms", "Hz", "kJ", "kW",
    "MW", "nm", "cc", "sq", "cu",
}  # fmt: skip
SCALE = {
    "dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
# Words that change the meaning of a number. An answer with one of them is compared as text ("5 or more" is not 5).
KEEP = {
    "or", "and", "not", "more", "less", "least", "most", "than", "to", "if", "when", "where", "except", "no",
    "never", "unless", "half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth",
    "fifths", "tenth", "tenths", "squared", "cubed", "factorial", "by", "negative", "increase", "decrease",
    "increasing", "decreasing", "profit", "loss", "gain", "north", "south", "east", "west", "northeast",
    "northwest", "southeast", "southwest", "before", "after",
    "ago", "plus", "minus",
}  # fmt: skip
# Words that restrict the numbers of a condition ("n > 5, odd"). After a plain value they name the counted things.
PROPERTIES = {
    "odd", "even", "prime", "integer", "integers", "positive", "negative", "real", "complex",
}  # fmt: skip
# Whole answers in words, and the mathematics or the usual words that replace them.
PHRASES = {word: str(n) for n, word in enumerate(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
)}  # fmt: skip
PHRASES |= dict.fromkeys(
    ["all real numbers", "all reals", "the real numbers", "real numbers", "all real numbers x"], "(-\\infty,\\infty)"
)
PHRASES |= dict.fromkeys(
    ["empty set", "the empty set", "no solution", "no solutions", "there is no solution", "there are no solutions"],
    "\\emptyset",
)
PHRASES["dne"] = "does not exist"
# Words before a value that are dropped.
APPROXIMATELY = {"approximately", "about", "roughly"}
BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
# Commands that turn their argument into a different symbol.
DECORATIONS = {
    "mathbb", "mathcal", "mathfrak", "vec", "hat", "bar", "tilde", "overline",
}  # fmt: skip
# Commands before the letters of a figure. The command and the letters are one name.
FIGURES = {"angle", "triangle", "measuredangle", "overarc"}
# Commands that may begin the next factor of a product without a multiplication sign.
OPENERS = {"frac", "sqrt", "binom", "begin", "lfloor", "lceil", "operatorname", "pi", "infty"}
OPENERS |= DECORATIONS | FIGURES | GREEK | FUNCTIONS | set(ALIASES)
