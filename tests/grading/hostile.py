"""Hostile answers that a collapsing or cheating policy may put into its box. Data for the tests and the benchmark."""

import random

_TOWERS = [
    "9^{9^{9}}", "9^{9^{9^{9}}}", "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{100}}", "(-2)^{10^{9}}", "2^{-10^{9}}", "0^{0}",
    "0^{-1}", "(1+x)^{10^{6}}", "(x+y+z)^{500}", "(a+b+c+d+e)^{60}", "((x+1)^{99}+1)^{99}", "x^{y^{z^{w}}}",
    "9**9**9", "9**9**9**9", "(10^{300})^{300}", "2^{0.00000000001}", "2^{1/10^{300}}", "e^{e^{e^{e^{e}}}}",
    "\\pi^{\\pi^{\\pi^{\\pi}}}", "i^{i^{i^{i}}}", "(2+\\sqrt{3})^{10^{8}}", "(1+i)^{10^{7}}", "\\sqrt[10^{9}]{2}",
    "\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{2}}}}}", "7^{7^{7}} \\bmod 10", "1e999999", "1e-999999", "9e99999999999",
    "1" + "0" * 5000, "0." + "3" * 5000, "1/" + "9" * 4000, "-" * 3000 + "5",
]  # fmt: skip
_FACTORIALS = [
    "10000000!", "99999999999999!", "((100!)!)!", "5!!!!!!!!!!!!", "(-1)!", "0.5!", "x!", "\\binom{10^{9}}{10^{8}}",
    "\\binom{100000}{50000}", "\\binom{n}{k}", "\\frac{1000000!}{999999!}", "\\Gamma(10^{10})",
    "\\gcd(10^{400}, 6^{300})", "\\operatorname{lcm}(1, 2, 3, 4, 5, 6, 7, 8, 9, 10^{200})",
]  # fmt: skip
_CALCULUS = [
    "\\sum_{n=1}^{\\infty} \\frac{1}{n^2}", "\\sum_{k=0}^{10^{9}} k!", "\\prod_{n=1}^{\\infty} (1+x^n)",
    "\\int_0^1 e^{-x^2} dx", "\\int e^{e^{x}} dx", "\\int \\frac{\\sin x}{x} \\ln(\\cos x) dx", "\\iint\\int f",
    "\\lim_{x \\to 0} \\frac{\\sin x}{x}", "\\lim_{n \\to \\infty} \\sqrt[n]{n!}", "\\frac{d^{99}}{dx^{99}} \\tan x",
    "\\oint_C F \\cdot dr", "\\nabla \\times \\nabla f", "\\sum_{n=1}^{\\infty} \\frac{(-1)^n \\sin(n^n)}{n!^{n}}",
    "\\int_{-\\infty}^{\\infty} e^{ix^{17}} dx",
]  # fmt: skip
_NOT_NUMBERS = [
    "NaN", "nan", "inf", "-inf", "Infinity", "-Infinity", "\\infty", "-\\infty", "\\infty - \\infty",
    "0 \\cdot \\infty", "\\frac{\\infty}{\\infty}", "\\frac{0}{0}", "1/0", "\\frac{x}{0}", "\\ln 0", "\\log(-1)",
    "\\log_{1} 5", "\\log_{0} 0", "\\tan 90^\\circ", "\\sqrt{-\\infty}", "\\arcsin 2", "None", "null", "undefined",
    "\\text{undefined}", "DNE", "True", "[]", "{}", "()", "\\{\\}", "\\emptyset", "\\sqrt[0]{2}", "|\\infty|",
    "\\pm\\infty", "\\pm\\pm\\pm\\pm\\pm\\pm\\pm\\pm 1", "--5", "+-+-5", "5-",
]  # fmt: skip
_INJECTIONS = [
    "__import__('os').system('touch HOSTILE')", "().__class__.__bases__[0].__subclasses__()", "eval('1+1')",
    "exec('import os')", "open('HOSTILE','w').write('x')", "lambda: 0", "[x for x in range(10**9)]",
    "os.system('rm -rf /')", "; touch HOSTILE ;", "$(touch HOSTILE)", "`touch HOSTILE`", "| touch HOSTILE",
    "&& touch HOSTILE", "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{config.__class__.__init__.__globals__}}",
    "%s%s%s%n", "{0.__class__}", "\\input{/etc/passwd}", "\\write18{touch HOSTILE}", "\\immediate\\write18{id}",
    "\\catcode`\\%=0", "\\def\\x{\\x\\x}\\x", "\\newcommand{\\a}{\\a}\\a", "'; DROP TABLE answers; --",
    "<script>alert(1)</script>", "<!DOCTYPE x [<!ENTITY a 'a'>]>", "../../../../etc/passwd", "file:///etc/passwd",
    "\\csname x\\endcsname", "import os\nos.system('touch HOSTILE')", "sympify('1')", "S('1').func",
    "Integer(1).__class__", "getattr(1,'real')", "\\x41\\u0041", "cos\nsystem\n(S'touch HOSTILE'\ntR.",
    "\x80\x04\x95", "!!python/object/apply:os.system ['touch HOSTILE']", "globals()", "input()", "breakpoint()",
    "exit()", "quit", "raise SystemExit", "assert False", "while True: pass", "f'{1+1}'", "1 if 1 else 0",
    "\\verb|x|",
]  # fmt: skip
_UNICODE = [
    "\x00", "5\x00", "\x005", "1\x002", "\ud800", "5\ud800", "\udfff5", "\ud83d", "５", "１２", "٣", "௧", "𝟓", "𝟝𝟚",
    "Ⅻ", "⑤", "5⁵", "²", "х", "х=5", "а+b", "ℯ", "ⅈ", "∑", "∫x", "−5", "–5", "—5", "5\u200b", "\u200b", "\ufeff5",
    "\u202e5", "5\u0301", "\u00a05\u00a0", "½", "1½", "½½", "⅐", "↉", "∞", "∞∞", "π", "ππ", "√", "√√√√4", "√2√3",
    "°", "5°°", "€5", "£", "５％", "（１，２）", "①②③", "🤖", "🤖" * 500, "a\u0300" * 500,
    "ﷺ" * 500, "\u3000", "\r\n", "\t",
    "\x1b[31m5\x1b[0m", "\x7f", "\u2028", "ſ", "K", "İ" * 100, "ß" * 100, "⟦5⟧", "⟦", "⟧⟦", "⟦text:()⟧", "5 ⟦5⟧",
    "\U000e0041", "\uffff", "\U0010ffff",
]  # fmt: skip
_BROKEN = [
    "\\boxed{" * 200, "\\boxed{\\boxed{\\boxed{5}}}", "\\frac{1}{2", "\\frac{1}", "\\frac", "\\frac\\frac\\frac",
    "\\sqrt", "\\sqrt[3]", "\\sqrt[", "\\left(", "\\right)", "\\left.\\right.", "\\begin{pmatrix}",
    "\\begin{pmatrix}\\end{pmatrix}", "\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3\\end{pmatrix}",
    "\\begin{x}1\\end{y}", "\\begin" * 100, "^", "^^", "_", "x_", "x^", "x^^2", "x__1", "1_2_3", "&", "\\\\", "\\",
    "\\\\\\", "\\text{", "\\text", "\\text{\\text{\\text{5}}}", "}{", "{" * 1000 + "}" * 1000,
    "(" * 900 + "1" + ")" * 900, "|" * 999, "|||x|||", "|x|y|z|", "[(])", "{[}]", "\\{1,2", "1,2\\}", "(1,2", ",",
    ",,,,", ",1,", "1,,2", ";", "=", "==", "x=", "=5", "x==5", "x=y=z=1", "<", "1<", "<1", "1<2<3", "1<x>2",
    "x<y<z<w", "x\\in", "\\in x", "\\cup", "\\cup\\cup", "(1,2)\\cup", "%", "%%", "\\%", "5\\%\\%", "!", "!5", "5!!",
    "'", "f'''''''", "\\pm", "\\pm\\pm", "\\cdot", "\\cdot 5 \\cdot", "*", "**", "/", "//", "1//2", "1/2/3/4", ".",
    "..", "1.2.3", "...", "1...", "0.\\overline{}", "0.\\overline{x}", "\\overline{5}", "\\operatorname{}",
    "\\operatorname", "\\log_", "\\sin", "\\sin^", "\\ln^2", "\\lfloor 5", "\\rfloor",
    "\\lfloor\\lceil 5 \\rfloor\\rceil", "e", "ee", "e^", "i", "ii", "1:2:", ":", "5:99", "25:61:61", "\\$", "$",
    "$$$$", "#", "~", "\"", "@", "\\@", "1 2 3", "1\\\\2", "two three", "x" * 300, "x " * 300, "-x" * 300,
    "\\frac" + "{1}{2}" * 100,
]  # fmt: skip
_GROWTH = [
    "+".join(f"x_{{{i}}}" for i in range(400)), "*".join(f"(a_{{{i}}}+b)" for i in range(60)),
    "(" + "+".join("abcdefgh") + ")^{40}", "+".join(f"\\sqrt{{{p}}}" for p in range(2, 200)),
    "(" + "+".join(f"\\sqrt{{{p}}}" for p in (2, 3, 5, 7, 11, 13, 17)) + ")^{50}",
    "1/(" + "+".join(f"\\sqrt{{{p}}}" for p in (2, 3, 5, 7, 11, 13, 17)) + ")", "\\sin(" * 60 + "x" + ")" * 60,
    "\\frac{1}{1+" * 35 + "x" + "}" * 35, "\\sqrt{1+" * 35 + "x" + "}" * 35, "2^{" * 35 + "2" + "}" * 35,
    "\\pm 1" * 60, "(" + "\\pm 1," * 20 + "2)", "1" + "+1" * 700, "1" + "*2" * 700, "1" + "/3" * 700,
    "1" + "-x" * 700, ",".join(map(str, range(700))), "\\{" + ",".join(map(str, range(700))) + "\\}",
    "\\sqrt{" + "7" * 900 + "}", "\\ln " + "9" * 900, "\\sqrt{" + "1" + "0" * 900 + "7}", "|" + "7" * 900 + "+i|",
    "\\sin(\\sqrt{2})^{300} + \\cos(\\sqrt{2})^{300}", "\\sin^{100} x \\cos^{100} x \\tan^{100} x",
    "(\\sin x + \\cos x)^{30}", "\\lfloor 10^{300} \\pi \\rfloor", "0.\\overline{" + "12" * 300 + "}",
    "x^{" + "9" * 900 + "}", "x^{1/" + "9" * 900 + "}", "(x+1)^{" + "9" * 300 + "}",
    "\\begin{pmatrix}" + "1&2\\\\" * 150 + "\\end{pmatrix}",
]  # fmt: skip
_LARGE = [
    "{" * 100_000, "}" * 100_000, "{" * 50_000 + "}" * 50_000, "(" * 100_000, "\\boxed{" * 50_000, "\\" * 100_000,
    "9" * 1_000_000, "x" * 1_000_000, " " * 1_000_000, "$" * 1_000_000, "." * 100_000, "," * 100_000,
    "\\frac{1}{" * 20_000, "1+" * 400_000, "\\text{" * 50_000, "a b " * 250_000, "5" + " " * 1_000_000,
    "\n" * 500_000 + "5", "^" * 100_000, "\\left(" * 50_000, "٣" * 9_000, "\u200b" * 9_999, "{," * 4_500,
    "1,\\!" * 2_400, "\\$" * 4_900, "-" * 9_900, "1 " * 4_900, "{,}" * 3_300, "1{,}" * 2_400, "\\text{a}" * 1_200,
    "|" * 9_999, "'" * 9_999, "p.m." * 2_400, "1:" * 4_900,
]  # fmt: skip

HOSTILE = [
    *_TOWERS, *_FACTORIALS, *_CALCULUS, *_NOT_NUMBERS, *_INJECTIONS, *_UNICODE, *_BROKEN, *_GROWTH, *_LARGE,
]  # fmt: skip

# Pairs that agree numerically, so they reach the workers. sympy may work on them without end.
TEMPTING = [
    (
        "\\sqrt{2+\\sqrt{3+\\sqrt{5+\\sqrt{7+\\sqrt{11}}}}}",
        "\\sqrt{2+\\sqrt{3+\\sqrt{5+\\sqrt{7+\\sqrt{11}}}}}+\\sqrt{(\\ln 2)^2}-\\ln 2",
    ),
    ("(\\sin x + \\cos y)^{12} \\tan z", "(\\cos y + \\sin x)^{12} \\tan z + (\\sin^2 x + \\cos^2 x - 1)^{9}"),
    ("\\frac{(x+y+z+w+v)^{9}}{x+y+z}", "\\frac{(x+y+z+w+v)^{8} (v+w+x+y+z)}{z+y+x} + (x-\\sqrt{x^2})^{5} \\cdot 0"),
    ("\\sqrt[7]{2+\\sqrt[5]{3+\\sqrt[3]{5}}}", "\\sqrt[14]{(2+\\sqrt[5]{3+\\sqrt[3]{5}})^2}"),
    ("\\arctan\\frac{1}{2}+\\arctan\\frac{1}{3}", "\\frac{\\pi}{4}"),
    (
        "\\cos\\frac{2\\pi}{17}",
        "\\sin(\\frac{\\pi}{2}-\\frac{2\\pi}{17}) + (\\cos\\frac{\\pi}{19}-\\cos\\frac{\\pi}{19})^{3}",
    ),
]

# Pieces of LaTeX. `random_strings` joins them to strings that are nearly mathematics.
PIECES = [
    "\\frac", "{", "}", "(", ")", "[", "]", "1", "2", "34", "0.5", ".", "x", "y", "pi", "\\pi", "^", "_", "\\sqrt",
    "+", "-", "*", "/", "\\cdot", "\\pm", ",", ";", "\\{", "\\}", "=", "<", "\\le", "\\text{", "cm", "and", "%",
    "\\%", "|", "!", "e", "i", "\\infty", "\\cup", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "\\sin",
    "\\log", "ln", "abc", "10^{9}", "999", "^\\circ", "'", "\\overline", "\\left", "\\right", "$", "\\$", "\\binom",
    "...", "\\in", ":", "½", "²", "√", "⟦", "⟧", "\\boxed{", "e5", "\\lfloor", "\\rfloor", "million", "p.m.", "or",
    "\\ldots", "f(x)", "\\vec", "\\max", " ", "\ud800", "theta", "choose", "C(", "A)", "B: ", "E - the ",
    " — ", "feet ", "3 hours ", "cats ", "\\Rightarrow", "U", "\\text{ and }", "mod(", "log2(", "|x|", ">", "\\ge",
    "x=", "m+n=", "factorial", "+/-", "\\det",
]  # fmt: skip


def random_strings(count: int, seed: int) -> list[str]:
    """`count` random strings of pieces."""
    source = random.Random(seed)
    return ["".join(source.choices(PIECES, k=source.choice((1, 2, 3, 5, 8, 12, 20, 40)))) for _ in range(count)]
