"""Turns clean text into a tree. The recursive-descent parser limits tokens, depth and digits, and evaluates nothing.

A tree consists of nested tuples. Expressions:
    ("num", Fraction, decimals)  decimals: number of digits after the point, None for an integer or an exact fraction
    ("sym", name)  ("const", "pi" | "e" | "i" | "inf")  ("add", terms)  ("mul", factors)  ("div", a, b)  ("pow", a, b)
    ("pm", sign, a, b)  a plus-minus b, or minus-plus if the sign is -1       ("fn", name, arguments)
Structures:
    ("list", items)  without brackets     ("set", items)     ("tuple", brackets, items)  brackets such as "(]"
    ("matrix", rows)     ("rel", operators, operands)     ("union", items)     ("percent", a)     ("ratio", items)
    ("base", digits, base)     ("text", words)     ("counted", names, items)
"""

import re
from fractions import Fraction
from itertools import pairwise

from srt_jax.grading.latex import NotMathError, Token, plain, tokenize
from srt_jax.grading.measures import unit_name
from srt_jax.grading.vocabulary import (
    ALIASES,
    APPROXIMATELY,
    BASE_WORDS,
    CALLS,
    CONSTANTS,
    COUNTS,
    DECORATIONS,
    FIGURES,
    FUNCTIONS,
    GLUED,
    GREEK,
    INEQUALITIES,
    KEEP,
    MATRICES,
    OPENERS,
    PROPERTIES,
    RELATION_COMMANDS,
    RELATION_SYMBOLS,
    SCALE,
    SHORT_UNITS,
)

SEPARATING_WORDS = {
    "": ",", "or": "or", "and": "and", "&": "and", "so": "so", "thus": "so", "hence": "so", "therefore": "so",
}  # fmt: skip
SEPARATING_COMMANDS = {
    "\\": ",", "vee": "or", "lor": "or", "wedge": "and", "Rightarrow": "so", "implies": "so", "therefore": "so",
}  # fmt: skip
MAX_TOKENS = 1500
MAX_DEPTH = 40
MAX_CHAIN = 20
MAX_DIGITS = 1000

Tree = tuple
ZERO, ONE = ("num", Fraction(0), None), ("num", Fraction(1), None)
MINUS = ("num", Fraction(-1), None)
END = ("end", "")
COMMA = dict.fromkeys(map(ord, ","))  # COMMA and LAYOUT: signs that a name may contain, as tables for str.translate
LAYOUT = dict.fromkeys(map(ord, "*|"))
# Left sides of "=" that only name a value: f(x), f^{-1}(x), f(2), P(X=2), dy/dx.
_DEFINITION = re.compile(
    r"[A-Za-z]'{0,3}(?:\^\{-1\})?\([A-Za-z](?:,[A-Za-z])*\)|[A-Zfgh]'{0,3}\([^()+*/-]*\)"
    r"|frac\{d[A-Za-z]\}\{d[A-Za-z]\}|d[A-Za-z]/d[A-Za-z]"
)
_PREFIXES = ("sin", "cos", "tan", "cot", "csc", "log", "sqrt")


def parse(text: str) -> Tree:
    """The tree of clean text. Raises NotMathError for text that this parser does not know."""
    parser = Parser(tokenize(text, MAX_TOKENS))
    tree = parser.answer()
    if parser.kind != "end":
        raise NotMathError(f"unexpected {parser.text!r}")
    return tree


def literal(text: str) -> Tree:
    """The exact number of a text of digits, point and exponent. Raises NotMathError for too many digits."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(text) > MAX_DIGITS or (exponent and abs(int(exponent)) > MAX_DIGITS):
        raise NotMathError("too many digits")
    whole, point, decimals = mantissa.partition(".")
    shift = int(exponent or 0)
    value = Fraction(int(whole + decimals or "0"), 10 ** len(decimals)) * Fraction(10) ** shift
    return ("num", value, len(decimals) - shift if point or exponent else None)


def _called(name: str, arguments: tuple[Tree, ...]) -> Tree:
    if name == "cbrt" and len(arguments) == 1:
        return ("pow", arguments[0], ("div", ONE, ("num", Fraction(3), None)))
    return ("fn", name, arguments)


def symbols(tree: Tree) -> list[str]:
    """The names of the symbols of a tree, in order of appearance, with repetitions."""
    if tree[0] == "sym":
        return [tree[1]]
    return [name for part in tree[1:] if isinstance(part, tuple) for name in _symbols_in(part)]


def _symbols_in(part: tuple) -> list[str]:
    if part and isinstance(part[0], str):
        return symbols(part)
    return [name for item in part if isinstance(item, tuple) for name in _symbols_in(item)]


def _product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("mul", tuple(factors))


def _counted(names: list[str], items: list[Tree], words: set[str]) -> Tree:
    """Numbers of different things, each with its name: `9 chickens, 10 rabbits`."""
    if "" in names or len(set(names)) < len(names) or "or" in words or any(item[0] == "rel" for item in items):
        raise NotMathError("several units")
    return ("counted", tuple(names), tuple(items))


def _both(items: list[Tree], words: set[str]) -> Tree:
    """`x > 3 and x < 5` as 3 < x < 5. Raises NotMathError for other joint conditions, which then stay text."""
    simple = all(item[0] == "rel" and len(item[1]) == 1 and item[1][0] in INEQUALITIES for item in items)
    if words != {"and"} or len(items) != 2 or not simple:
        raise NotMathError("conditions together")
    high, low = sorted(items, key=lambda item: item[1][0])  # "<" sorts before ">"
    if low[1][0][0] == high[1][0][0] or low[2][0] != high[2][0]:
        raise NotMathError("conditions on one side")
    return ("rel", (low[1][0].replace(">", "<"), high[1][0]), (low[2][1], low[2][0], high[2][1]))


class Parser:
    """Recursive descent over tokens without spaces. spaced[i]: whether there was a space before token i.

    The methods are in this order: access to tokens, the structure of whole answers, arithmetic, and atoms.
    """

    # --- tokens -------------------------------------------------------------------------------------------------------
    def __init__(self, tokens: list[Token]):
        self.tokens: list[Token] = []
        self.spaced: list[bool] = []
        space = False
        for token in tokens:
            if token[0] == "space":
                space = True
                continue
            self.tokens.append(token)
            self.spaced.append(space)
            space = False
        self.tokens.append(END)
        self.spaced.append(space)
        self.at = 0
        self.depth = 0
        self.units: list[str] = []  # the units that were dropped so far
        self.brackets = 0  # number of open brackets; thousands separators are read only outside of brackets
        self.bars = 0  # number of open |...|
        self.rows = 0  # number of open matrices, in which "&" separates cells
        self.sets = 0  # number of open \{...\}
        self.angle = 0  # above 0 inside a function's argument, where a degree sign is a factor and not a unit

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def text(self) -> str:
        return self.tokens[self.at][1]

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def is_symbol(self, *texts: str) -> bool:
        return self.kind == "symbol" and self.text in texts

    def is_command(self, *names: str) -> bool:
        return self.kind == "command" and self.text in names

    def is_word(self, *words: str) -> bool:
        return self.kind in ("word", "text") and plain(self.text) in words

    def take(self) -> str:
        text = self.text
        if self.kind == "end":
            raise NotMathError("the expression ends too early")
        self.at += 1
        return text

    def expect(self, symbol: str) -> None:
        if not self.is_symbol(symbol):
            raise NotMathError(f"expected {symbol!r}")
        self.at += 1

    def descend(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotMathError("too deep")

    # --- structures ---------------------------------------------------------------------------------------------------
    def answer(self) -> Tree:
        """Items with commas, semicolons, "and" or "or" between them. A single item is itself; several are a list."""
        self.separator()
        marks = [len(self.units)]
        items, words = [self.item()], set()
        while (found := self.separator()) and self.kind != "end":
            if "so" in found:  # the conclusion is the answer
                if not all(item[0] == "rel" for item in items):
                    raise NotMathError("an implication")
                marks, items, found = [], [], found - {"so"}
            words |= found
            marks.append(len(self.units))
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if len(set(self.units[marks[0] :])) > 1:
            names = [unit_name(" ".join(self.units[a:b])) for a, b in pairwise([*marks, len(self.units)])]
            if len(set(names) - {""}) > 1:
                return _counted(names, items, words)
        if any(item[0] == "rel" and INEQUALITIES & set(item[1]) for item in items) and words != {"or"}:
            return _both(items, words)
        return ("list", tuple(items))

    def separator(self) -> set[str]:
        """Consumes the separator between two items. Returns its words, or {","} if it has only marks."""
        found: set[str] = set()
        while (sign := self.separating()) is not None:
            found.add(sign)
            self.at += 1
        return found - {","} or found

    def separating(self) -> str | None:
        """The current token as a separator: "," for every mark, "and", "or" or "so". None for other tokens."""
        kind, text = self.tokens[self.at]
        if kind == "symbol":
            return "," if text in ",;" else "and" if text == "&" and self.rows == 0 else None
        if kind == "command":
            return SEPARATING_COMMANDS.get(text)
        return SEPARATING_WORDS.get(plain(text)) if kind in ("word", "text") else None

    def item(self) -> Tree:
        """One item, such as a relation, an expression, an interval or a set, without its unit."""
        self.descend()
        self.heading()
        start = len(self.units)
        operators, operands = [], [self.operand()]
        while (operator := self.relation()) is not None:
            operators.append(operator)
            operands.append(self.operand())
        if INEQUALITIES & set(operators) and PROPERTIES & set(" ".join(self.units[start:]).split()):
            raise NotMathError("a condition with a property")
        self.depth -= 1
        return ("rel", tuple(operators), tuple(operands)) if operators else operands[0]

    def heading(self) -> None:
        r"""Skips text that only introduces a value: `f(x) =`, `Total cost =`, `\text{The answer is}`, `\approx`."""
        if (self.kind == "text" and plain(self.text).endswith((" is", " are"))) or self.is_word(*APPROXIMATELY):
            self.at += 1
        ahead = self.tokens[self.at : self.at + 12]
        length = self.equals_sign(ahead)
        if length:
            words = [text for kind, text in ahead[:length] if kind in ("word", "text")]
            long = any(kind == "text" or (len(word) > 3 and word not in GREEK) for kind, word in ahead[:length])
            named = len(words) == length and long
            if named or _DEFINITION.fullmatch("".join(text for _, text in ahead[:length])):
                self.at += length + 1
        if self.is_command("approx"):
            self.at += 1

    def equals_sign(self, tokens: list[Token]) -> int:
        """The number of tokens before the first "=" outside of brackets; 0 if there is no such "="."""
        depth = 0
        for index, (kind, text) in enumerate(tokens):
            depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
            if (kind, text) == ("symbol", "=") and depth == 0:
                return index
        return 0

    def relation(self) -> str | None:
        known = {"symbol": RELATION_SYMBOLS, "command": RELATION_COMMANDS}.get(self.kind, {})
        operator = known.get(self.text)
        self.at += operator is not None
        return operator

    def operand(self) -> Tree:
        while self.is_command("$") or self.is_symbol("£", "€", "¥"):
            self.at += 1
        parts = [self.sum()]
        while self.is_command("cup") or self.union_word():
            self.at += 1
            parts.append(self.sum())
        if len(parts) > 1:
            return ("union", tuple(parts))
        if self.is_command("setminus"):
            self.at += 1
            return ("without", parts[0], self.sum())
        tree = parts[0]
        if tree[0] == "num" and self.is_word("to") and self.peek()[0] == "number":
            self.at += 1
            return ("ratio", (tree, self.sum()))
        if self.is_symbol(":") and (self.sets == 0 or not symbols(tree)):  # { x : x > 3 } is a set by its property
            items = [tree]
            while self.is_symbol(":"):
                self.at += 1
                items.append(self.sum())
            return ("ratio", tuple(items))
        tree = self.unit(tree)
        if self.is_symbol("%") or self.is_command("%") or self.is_word("percent", "percents"):
            self.at += 1
            tree = ("percent", tree)
        return tree

    def union_word(self) -> bool:
        """Tells whether the current token is a union: a U between two brackets as in `(1,2) U (3,4)`, or the word."""
        closed = self.at > 0 and self.tokens[self.at - 1] in (("symbol", ")"), ("symbol", "]"))
        between = closed and self.peek() in (("symbol", "("), ("symbol", "["))
        return self.is_word("union") or (between and (self.kind, self.text) == ("word", "U"))

    def unit(self, tree: Tree) -> Tree:
        r"""Drops the words after a value: `10 \text{ cm}^2`, `5 apples`, `3 km/h`. "million" multiplies the value."""
        if self.is_symbol("/") and self.peek()[0] == "text":
            self.at += 1
        if self.kind not in ("text", "word") or self.is_word("and", "or", "", "percent", "percents"):
            return tree
        before = self.tokens[self.at - 1]
        if self.kind == "word" and before[0] == "word" and (len(before[1]) == 1 or before[1] in GREEK):
            raise NotMathError("a sentence")  # "n is even" is not n
        words: list[str] = []
        while self.kind in ("text", "word") and not self.is_word("and", "or", ""):
            word = self.take()
            if word.startswith(_PREFIXES):
                raise NotMathError("a function without its argument")
            words += plain(word).replace("/", " ").replace("-", " ").split()
            if "percent" in words:
                raise NotMathError("words before percent")
            if self.is_symbol("^"):
                self.at += 1
                self.argument()
            while self.is_symbol("/", ".", "-") or (self.is_command("cdot") and self.peek()[0] == "text"):
                self.at += 1
        if words and words[0] in SCALE:
            tree = ("mul", (tree, ("num", Fraction(SCALE[words.pop(0)]), None)))
        if any(word in KEEP for word in words):
            raise NotMathError("words that change the value")
        self.units.append(" ".join(words))
        return tree

    # --- arithmetic ---------------------------------------------------------------------------------------------------
    def sum(self) -> Tree:
        self.descend()
        terms: list[Tree] = []
        signs = 0
        if self.is_symbol("+", "-"):
            sign = self.take()
            term = self.product()
            terms.append(("mul", (MINUS, term)) if sign == "-" else term)
        elif self.is_command("pm", "mp"):
            terms.append(("pm", 1 if self.take() == "pm" else -1, ZERO, self.product()))
        else:
            terms.append(self.product())
        while True:
            if self.is_symbol("+", "-"):
                minus = self.take() == "-"
                term = self.product()
                terms.append(("mul", (MINUS, term)) if minus else term)
            elif self.is_command("pm", "mp"):
                sign = 1 if self.take() == "pm" else -1
                left = terms[0] if len(terms) == 1 else ("add", tuple(terms))
                terms = [("pm", sign, left, self.product())]
                signs = self.chain(signs)
            else:
                break
        tree = terms[0] if len(terms) == 1 else ("add", tuple(terms))
        if self.is_command("over"):  # plain TeX: divides everything before it in the group by everything after it
            self.at += 1
            tree = ("div", tree, self.sum())
        elif self.is_command("choose") or self.is_word("choose"):
            self.at += 1
            tree = ("fn", "binom", (tree, self.sum()))
        self.depth -= 1
        return tree

    def product(self) -> Tree:
        factors, divisions = [self.signed()], 0
        while True:
            if self.is_symbol("*") or self.is_command("cdot", "times"):
                self.at += 1
                factors.append(self.signed())
            elif (self.is_symbol("/") and self.peek()[0] != "text") or self.is_command("div"):
                self.at += 1
                factors = [("div", _product(factors), self.signed())]
                divisions = self.chain(divisions)
            elif self.starts_factor():
                factors.append(self.power())
            else:
                return _product(factors)

    def chain(self, length: int) -> int:
        """The length plus 1. Bounds chains that nest to the left (a/b/c, 5!!, a ± b ± c), like all other depth."""
        if length > MAX_CHAIN:
            raise NotMathError("a chain too long")
        return length + 1

    def signed(self) -> Tree:
        if self.is_symbol("+", "-"):
            self.descend()
            minus = self.take() == "-"
            inner = self.signed()
            self.depth -= 1
            return ("mul", (MINUS, inner)) if minus else inner
        return self.power()

    def starts_factor(self) -> bool:
        """Tells whether the current token may be the next factor of a product without a multiplication sign."""
        if self.kind == "number":
            closed = self.tokens[self.at - 1] in (("symbol", ")"), ("symbol", "}"), ("symbol", "]"))
            if closed or (self.at > 1 and self.peek(-2) == ("symbol", "^")):
                return True
            raise NotMathError("two numbers side by side")
        if self.kind == "word":
            return not self.union_word() and self.variables() is not None
        if self.kind == "text":
            return self.text.strip() in ("e", "i", "\\pi")
        if self.kind == "symbol":
            return self.text in ("(", "[", "{") or (self.text == "|" and self.bars == 0)
        return self.kind == "command" and self.text in OPENERS

    def variables(self) -> list[str] | None:
        """The current word as factors: a function, a constant or single letters. None for a unit or another word."""
        word = self.text
        before = self.tokens[self.at - 1][0] if self.at else ""
        if word in ("sec", "min") and before == "number" and self.spaced[self.at]:
            return None
        if word in FUNCTIONS or word in ALIASES or word in CONSTANTS or word in GREEK or len(word) == 1:
            return [word]
        if word in CALLS and self.peek() == ("symbol", "("):
            return [word]
        if (glued := GLUED.fullmatch(word)) is not None:
            return [glued[1], glued[2]]
        unit = word in SHORT_UNITS or (before == "number" and len(word) == 3)
        sentence = before == "word" or (self.peek()[0] == "word" and self.spaced[self.at + 1])
        if len(word) >= 4 or word in ("and", "or", "to") or (self.spaced[self.at] and unit) or sentence:
            return None
        return list(word)

    def power(self) -> Tree:
        self.descend()
        base = self.postfix(self.atom())
        if self.is_symbol("^", "**"):
            self.at += 1
            exponent = self.exponent()
            base = self.postfix(("pow", base, exponent))
            if self.is_symbol("^"):
                raise NotMathError("a double exponent")
        self.depth -= 1
        return base

    def exponent(self) -> Tree:
        if self.is_symbol("-", "+"):
            minus = self.take() == "-"
            inner = self.power()
            return ("mul", (MINUS, inner)) if minus else inner
        return self.argument()

    def postfix(self, tree: Tree) -> Tree:
        length = 0
        while True:
            length = self.chain(length)
            if self.is_symbol("!") or self.is_word("factorial"):
                self.at += 1
                tree = ("fn", "factorial", (tree,))
            elif self.tokens[self.at - 1][0] == "number" and self.is_symbol("'", '"'):
                self.at += 1  # feet and inches, minutes and seconds of arc
            elif self.degree_sign():
                tree = ("div", ("mul", (tree, ("const", "pi"))), ("num", Fraction(180), None)) if self.angle else tree
            else:
                return tree

    def degree_sign(self) -> bool:
        r"""Consumes `^\circ`, `^{\circ}` or the word degrees. Returns whether there was one."""
        rest = self.tokens[self.at : self.at + 4]
        if rest[:2] == [("symbol", "^"), ("command", "circ")]:
            self.at += 2
        elif rest == [("symbol", "^"), ("symbol", "{"), ("command", "circ"), ("symbol", "}")]:
            self.at += 4
        elif self.is_command("circ") or self.is_word("degrees", "degree", "deg"):
            self.at += 1
        else:
            return False
        if self.kind in ("word", "text") and self.text.strip() in ("C", "F"):
            self.at += 1
        return True

    # --- atoms: numbers, symbols, functions, brackets, matrices -------------------------------------------------------
    def atom(self) -> Tree:
        readers = {
            "number": self.number, "word": self.word, "text": self.styled, "symbol": self.opening,
            "command": self.command,
        }  # fmt: skip
        if self.kind == "end":
            raise NotMathError("the expression ends too early")
        return readers[self.kind]()

    def styled(self) -> Tree:
        r"""One letter in text style: `\mathrm{e}`, `\text{A}`."""
        content = self.take().strip()
        if len(content) != 1 or not content.isalpha():
            raise NotMathError("words")
        return ("const", content) if content in ("e", "i") else ("sym", content)

    def opening(self) -> Tree:
        if self.text in ("(", "["):
            return self.bracket()
        if self.text == "{":
            return self.braces()
        if self.text == "|" and self.bars == 0:
            return self.enclosed("|", "abs")
        raise NotMathError(f"unexpected {self.text!r}")

    def number(self) -> Tree:
        text = self.take()
        if len(text) > MAX_DIGITS:
            raise NotMathError("too many digits")
        if self.brackets == 0:
            text += self.thousands(text)
        if self.is_symbol("_"):
            return self.based(text)
        if (repeating := self.repeating(text)) is not None:
            return ("num", repeating, None)
        tree = literal(text)
        return self.mixed(tree[1]) if tree[2] is None else tree

    def thousands(self, first: str) -> str:
        """The digits after the first comma of `1,234,567`; "" if the numbers are not groups of three without spaces."""
        if not re.fullmatch(r"[1-9]\d{0,2}", first):
            return ""
        at, groups = self.at, []
        if at > 2 and self.tokens[at - 2] == ("symbol", ",") and not self.spaced[at - 1]:
            return ""  # in the middle of a list such as 1,2,100
        while self.tokens[at] == ("symbol", ",") and self.tokens[at + 1][0] == "number":
            if self.spaced[at] or self.spaced[at + 1]:
                return ""
            groups.append(self.tokens[at + 1][1])
            at += 2
        whole = [g.partition(".")[0] if i == len(groups) - 1 else g for i, g in enumerate(groups)]
        if not groups or not all(re.fullmatch(r"\d{3}", g) for g in whole):
            return ""
        self.at = at
        return "".join(groups)

    def based(self, digits: str) -> Tree:
        r"""A numeral in a base, such as `1010_2`, `4343_{6}` or `12_{\text{nine}}`. It is not converted to a number."""
        self.at += 1
        braced = self.is_symbol("{")
        if braced:
            self.at += 1
        base = self.take().strip()
        if braced:
            self.expect("}")
        value = BASE_WORDS.get(base.lower(), int(base) if base.isdecimal() and len(base) < 3 else 0)
        if value < 2:
            raise NotMathError("not a base")
        return ("base", digits.lstrip("0") or "0", value)

    def repeating(self, text: str) -> Fraction | None:
        """`0.1\\overline{6}` and `0.1666...` (a block written three times) as exact fractions; None for others."""
        whole, _, decimals = text.partition(".")
        if self.is_command("overline", "bar", "dot") and "." in text:
            self.at += 1
            block = self.digits()
        elif self.is_command("ldots") or [t[1] for t in self.tokens[self.at : self.at + 3]] == [".", ".", "."]:
            self.at += 1 if self.kind == "command" else 3
            match = re.search(r"(\d{1,6}?)\1\1$", decimals[-60:])
            if match is None:
                raise NotMathError("digits that continue")
            block = match[1]
        else:
            return None
        scale = 10 ** len(decimals)
        return Fraction(int(whole + decimals or "0"), scale) + Fraction(int(block), (10 ** len(block) - 1) * scale)

    def digits(self) -> str:
        """A braced group (or single token) of digits."""
        braced = self.is_symbol("{")
        if braced:
            self.at += 1
        text = self.take()
        if braced:
            self.expect("}")
        if not text.isdecimal() or not text.isascii():
            raise NotMathError("digits were expected")
        return text

    def mixed(self, whole: Fraction) -> Tree:
        """`1\\frac12` and `1 1/2` as one number if the fraction is proper; otherwise only the integer."""
        at = self.at
        if self.is_command("frac"):
            self.at += 1
            try:
                top, bottom = self.argument(single_digit=True), self.argument(single_digit=True)
            except NotMathError:
                top = bottom = None
        elif self.kind == "number" and self.peek() == ("symbol", "/") and self.peek(2)[0] == "number":
            top, bottom = (literal(self.tokens[i][1]) for i in (at, at + 2))
            self.at += 3
        else:
            return ("num", whole, None)
        if top and bottom and top[0] == bottom[0] == "num" and top[2] is bottom[2] is None and 0 < top[1] < bottom[1]:
            return ("num", whole + top[1] / bottom[1], None)
        self.at = at
        return ("num", whole, None)

    def word(self) -> Tree:
        factors = self.variables()
        if factors is None:
            raise NotMathError("a word")
        if len(factors) > 1:  # each factor becomes a token
            self.tokens[self.at : self.at + 1] = [("word", letter) for letter in factors]
            self.spaced[self.at : self.at + 1] = [self.spaced[self.at]] + [False] * (len(factors) - 1)
        return self.named(self.take())

    def named(self, name: str) -> Tree:
        name = ALIASES.get(name, name)
        if name in FUNCTIONS:
            return self.function(name)
        if name in CALLS and self.is_symbol("("):
            return _called(CALLS[name], self.arguments())
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
        return (name == "C" and self.combinations()) or self.symbol(name)

    def symbol(self, name: str) -> Tree:
        """A name with its subscript and primes. `f(x)` and `I(0)` are functions; other names are symbols."""
        if self.is_symbol("_"):
            self.at += 1
            name += "_" + self.subscript()
        elif name in ("e", "i"):
            return ("const", name)
        while True:
            if self.is_symbol("'"):
                self.at += 1
            elif self.is_symbol("^") and self.peek() == ("command", "prime"):
                self.at += 2
            elif self.is_symbol("^") and [self.peek(i) for i in (1, 2, 3)] == [
                ("symbol", "{"), ("command", "prime"), ("symbol", "}"),
            ]:  # fmt: skip
                self.at += 4
            else:
                break
            name += "'"
        ahead = [self.peek(i)[0] for i in (1, 2)] + [self.peek(2)[1]]
        at_a_number = ahead == ["number", "symbol", ")"] and not self.spaced[self.at]  # I(0) is not I times 0
        if self.is_symbol("(") and (name in ("f", "g", "h") or at_a_number):
            argument = self.bracket()
            return ("fn", name, argument[2] if argument[0] == "tuple" else (argument,))
        return ("sym", name)

    def combinations(self) -> Tree | None:
        """The binomial `C(10, 3)`. None, without consuming a token, if the arguments cannot be counts."""
        if not self.is_symbol("(") or self.spaced[self.at]:
            return None
        at = self.at
        inner = self.bracket()
        if inner[0] == "tuple" and inner[1] == "()" and len(inner[2]) == 2:
            names, (n, k) = symbols(inner), inner[2]
            fits = n[0] != "num" or k[0] != "num" or (n[1].denominator == k[1].denominator == 1 and 0 <= k[1] <= n[1])
            if set(names) <= COUNTS and fits:
                return ("fn", "binom", (n, k))
        self.at = at
        return None

    def subscript(self, signs: dict[int, None] = COMMA) -> str:
        """The subscript as a name: one token or group of letters, digits and `signs`. Else raises NotMathError."""
        parts = []
        if self.is_symbol("{"):
            self.at += 1
            while not self.is_symbol("}"):
                parts.append(self.take())
            self.at += 1
        else:
            parts.append(self.take())
        name = "".join(parts).replace(" ", "")
        if not name.translate(signs).isalnum():
            raise NotMathError("a subscript that is not a name")
        return name

    def function(self, name: str) -> Tree:
        exponent = base = None
        if name == "sqrt":
            return self.root()
        if name == "log" and self.text in ("2", "10") and self.peek() == ("symbol", "(") and not self.spaced[self.at]:
            base = literal(self.take())  # log2(8)
        if self.is_symbol("_"):
            self.at += 1
            base = self.argument(single_digit=self.text != "10")
        if self.is_symbol("^"):
            self.at += 1
            exponent = self.exponent()
        self.angle += 1
        arguments = self.arguments()
        self.angle -= 1
        if base is not None:
            if name != "log" or len(arguments) != 1:
                raise NotMathError("a subscript on a function")
            tree = ("div", ("fn", "ln", arguments), ("fn", "ln", (base,)))
        elif exponent == ("mul", (MINUS, ONE)) and "arc" + name in FUNCTIONS:
            return ("fn", "arc" + name, arguments)
        else:
            tree = ("fn", name, arguments)
        return tree if exponent is None else ("pow", tree, exponent)

    def arguments(self) -> tuple[Tree, ...]:
        """The arguments of a function: in brackets, or the following product of plain factors (`\\sin 2x`)."""
        if self.is_symbol("("):
            inner = self.bracket()
            return inner[2] if inner[0] == "tuple" else (inner,)
        if self.is_symbol("-"):
            self.at += 1
            return (("mul", (MINUS, *self.arguments())),)
        factors = [self.power()]
        while self.kind in ("word", "number") or self.is_command("pi", "frac", "sqrt", *GREEK):
            if self.kind == "word" and (self.text in FUNCTIONS or self.variables() is None):
                break
            if not self.starts_factor():
                break
            factors.append(self.power())
        return (factors[0] if len(factors) == 1 else ("mul", tuple(factors)),)

    def root(self) -> Tree:
        degree = ("num", Fraction(2), None)
        if self.is_symbol("["):
            self.at += 1
            degree = self.sum()
            self.expect("]")
        argument = self.bracket() if self.is_symbol("(") else self.argument()
        return ("pow", argument, ("div", ONE, degree))

    def argument(self, single_digit: bool = False) -> Tree:
        """A LaTeX argument: a braced group or one token. single_digit: take one digit only, as LaTeX in `\\frac12`."""
        if self.is_symbol("{"):
            return self.braces()
        if self.kind != "number":
            return self.atom()
        if single_digit and len(self.text) > 1 and self.text.isdecimal():
            first, rest = self.text[0], self.text[1:]
            self.tokens[self.at : self.at + 1] = [("number", first), ("number", rest)]
            self.spaced[self.at : self.at + 1] = [self.spaced[self.at], False]
        return literal(self.take())

    def braces(self) -> Tree:
        """A LaTeX group. A group with commas is a set without backslashes."""
        inner = self.inside("}")
        return ("set", inner[1]) if inner[0] == "list" else inner

    def inside(self, *closing: str) -> Tree:
        """The content between the current bracket and one of `closing`. Consumes both brackets."""
        self.descend()
        self.at += 1
        bars, self.bars = self.bars, 0
        self.brackets += 1
        inner = self.answer()
        if not self.is_symbol(*closing):
            raise NotMathError(f"expected one of {closing}")
        self.at += 1
        self.brackets -= 1
        self.bars = bars
        self.depth -= 1
        return inner

    def bracket(self) -> Tree:
        """A bracketed expression. `(x)` is x; `(a, b]` and `[a, b, c]` are tuples that keep their brackets."""
        opening = self.text
        inner = self.inside(")", "]")
        brackets = opening + self.tokens[self.at - 1][1]
        if inner[0] == "list":
            return ("tuple", brackets, inner[1])
        if brackets not in ("()", "[]"):
            raise NotMathError("brackets that do not match")
        return inner

    def enclosed(self, closing: str, name: str) -> Tree:
        self.descend()
        self.at += 1
        self.bars += closing == "|"
        inner = self.sum()
        if self.text != closing:
            raise NotMathError(f"expected {closing!r}")
        self.at += 1
        self.bars -= closing == "|"
        self.depth -= 1
        return ("fn", name, (inner,))

    def curly(self) -> Tree:
        """The set `\\{1, 2\\}`, or the condition of `\\{x | x > 3\\}`."""
        self.descend()
        self.at += 1
        if self.is_command("}"):
            self.at += 1
            self.depth -= 1
            return ("set", ())
        self.brackets += 1
        self.sets += 1
        self.bars += 1  # in a set a bar ends the element and does not open an absolute value
        inner = self.answer()
        if self.is_symbol("|", ":"):
            self.at += 1
            bars, self.bars = self.bars, 0
            condition = self.answer()
            self.bars = bars
            if condition[0] != "rel" or inner[0] not in ("sym", "rel"):
                raise NotMathError("a set by its property")
            inner = ("list", (condition,))
        if not self.is_command("}"):
            raise NotMathError("a set that is not closed")
        self.at += 1
        self.bars -= 1
        self.sets -= 1
        self.brackets -= 1
        self.depth -= 1
        items = inner[1] if inner[0] == "list" else (inner,)
        return items[0] if len(items) == 1 and items[0][0] == "rel" else ("set", items)

    def command(self) -> Tree:
        readers = {
            "frac": self.fraction, "binom": self.binomial, "operatorname": self.operator, "begin": self.matrix,
            "{": self.curly, "lfloor": self.rounded, "lceil": self.rounded,
        }  # fmt: skip
        name = self.text
        if name in readers:
            return readers[name]()
        self.at += 1
        if name in CALLS:
            return _called(CALLS[name], self.arguments())
        if name in DECORATIONS or (name in FIGURES and self.kind in ("word", "text")):
            return self.named(f"{name}({self.subscript()})")
        if name in FUNCTIONS or name in ALIASES or name in CONSTANTS or name in GREEK:
            return self.named(name)
        if name != "emptyset":
            raise NotMathError(f"unknown command {name!r}")
        return ("set", ())

    def fraction(self) -> Tree:
        self.at += 1
        return ("div", self.argument(single_digit=True), self.argument(single_digit=True))

    def binomial(self) -> Tree:
        self.at += 1
        return ("fn", "binom", (self.argument(single_digit=True), self.argument(single_digit=True)))

    def operator(self) -> Tree:
        self.at += 1
        name = self.subscript()
        name = ALIASES.get(name, name)
        if name in CALLS:
            return _called(CALLS[name], self.arguments())
        if name not in FUNCTIONS:
            raise NotMathError("an unknown operator")
        return self.function(name)

    def rounded(self) -> Tree:
        return self.enclosed("r" + self.text[1:], "floor" if self.text == "lfloor" else "ceil")

    def matrix(self) -> Tree:
        """An environment of rows. `cases`, `aligned` and `align` of one column are lists of their rows."""
        self.at += 1
        environment = self.subscript(LAYOUT)
        if environment.rstrip("*") not in MATRICES:
            raise NotMathError("an unknown environment")
        if environment == "array" and self.is_symbol("{"):
            self.subscript(LAYOUT)
        self.descend()
        self.brackets += 1
        self.rows += 1
        rows: list[tuple[Tree, ...]] = []
        while not self.is_command("end"):
            if self.is_command("\\"):
                self.at += 1
                continue
            row = [self.item()]
            while self.is_symbol("&"):
                self.at += 1
                row.append(self.item())
            rows.append(tuple(row))
            while self.is_symbol(","):
                self.at += 1
            if not self.is_command("\\", "end"):
                raise NotMathError("a row that does not end")
        self.at += 1
        if self.subscript(LAYOUT) != environment:
            raise NotMathError("another environment ends")
        self.brackets -= 1
        self.rows -= 1
        self.depth -= 1
        if not rows or len({len(row) for row in rows}) > 1:
            raise NotMathError("rows of different lengths")
        if environment.rstrip("*") in ("cases", "aligned", "align") and len(rows[0]) == 1:
            return ("list", tuple(row[0] for row in rows))
        return ("matrix", tuple(rows))
