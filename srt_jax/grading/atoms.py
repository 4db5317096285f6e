"""The leaves of the grammar: numbers, symbols, functions, brackets, matrices. `parse.py` has the grammar above them."""

import re
from fractions import Fraction

from srt_jax.grading.cursor import MAX_DIGITS, MINUS, ONE, Cursor, Tree
from srt_jax.grading.latex import NotMathError
from srt_jax.grading.vocabulary import ALIASES, BASE_WORDS, CONSTANTS, DECORATIONS, FIGURES, FUNCTIONS, GREEK, MATRICES

COMMA = dict.fromkeys(map(ord, ","))  # what names may contain, as tables for str.translate
LAYOUT = dict.fromkeys(map(ord, "*|"))


class Atoms(Cursor):
    """Everything that may stand between two operators."""

    def atom(self) -> Tree:
        readers = {
            "number": self.number, "word": self.word, "text": self.styled, "symbol": self.opening,
            "command": self.command,
        }  # fmt: skip
        if self.kind == "end":
            raise NotMathError("the expression ends too early")
        return readers[self.kind]()

    def styled(self) -> Tree:
        r"""`\mathrm{e}`, `\text{A}`: one letter in text style."""
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
        """The rest of `1,234,567`: groups of three digits, without spaces, up to the end of the run; else nothing."""
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
        r"""`1010_2`, `4343_{6}`, `12_{\text{nine}}`: a numeral in a base, kept apart from the number it stands for."""
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
        """`0.1\\overline{6}` and `0.1666...` (a block shown three times) as exact fractions."""
        whole, _, decimals = text.partition(".")
        if self.is_command("overline", "bar", "dot") and "." in text:
            self.at += 1
            block = self.digits()
        elif self.is_command("ldots") or [t[1] for t in self.tokens[self.at : self.at + 3]] == [".", ".", "."]:
            self.at += 1 if self.kind == "command" else 3
            match = re.search(r"(\d{1,6}?)\1\1$", decimals[-60:])
            if match is None:
                raise NotMathError("digits that go on")
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
        """`1\\frac12` and `1 1/2` as one number when the fraction is proper; otherwise the integer alone."""
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
        if len(factors) > 1:  # the letters become tokens of their own
            self.tokens[self.at : self.at + 1] = [("word", letter) for letter in factors]
            self.spaced[self.at : self.at + 1] = [self.spaced[self.at]] + [False] * (len(factors) - 1)
        return self.named(self.take())

    def named(self, name: str) -> Tree:
        name = ALIASES.get(name, name)
        if name in FUNCTIONS:
            return self.function(name)
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
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

    def subscript(self, signs: dict[int, None] = COMMA) -> str:
        """The subscript as a name: letters, digits and `signs` of one token or group, nothing like arithmetic."""
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
        """In brackets, or the product of plain factors that follows: `\\sin 2x`."""
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
        """A LaTeX argument: a braced group or one token; `single_digit` splits a longer number as `\\frac12` does."""
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
        """A LaTeX group; a group with commas is a set written without backslashes."""
        inner = self.inside("}")
        return ("set", inner[1]) if inner[0] == "list" else inner

    def inside(self, *closing: str) -> Tree:
        """What stands between the bracket at hand and one of `closing` (consumed)."""
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
        """`(x)` is x; `(a, b]` and `[a, b, c]` are tuples that keep their brackets."""
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
        """`\\{1, 2\\}`; of `\\{x | x > 3\\}` the condition."""
        self.descend()
        self.at += 1
        if self.is_command("}"):
            self.at += 1
            self.depth -= 1
            return ("set", ())
        self.brackets += 1
        self.bars += 1  # a bar ends the element, it does not open an absolute value
        inner = self.answer()
        if self.is_symbol("|", ":"):
            self.at += 1
            condition = self.answer()
            if condition[0] != "rel" or inner[0] not in ("sym", "rel"):
                raise NotMathError("a set by its property")
            inner = ("list", (condition,))
        if not self.is_command("}"):
            raise NotMathError("a set that is not closed")
        self.at += 1
        self.bars -= 1
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
        if name not in FUNCTIONS:
            raise NotMathError("an unknown operator")
        return self.function(name)

    def rounded(self) -> Tree:
        return self.enclosed("r" + self.text[1:], "floor" if self.text == "lfloor" else "ceil")

    def matrix(self) -> Tree:
        """An environment of rows; `cases` and one-column `aligned` are lists of their rows."""
        self.at += 1
        environment = self.subscript(LAYOUT)
        if environment.rstrip("*") not in MATRICES:
            raise NotMathError("an unknown environment")
        if environment == "array" and self.is_symbol("{"):
            self.subscript(LAYOUT)
        self.descend()
        self.brackets += 1
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
        self.depth -= 1
        if not rows or len({len(row) for row in rows}) > 1:
            raise NotMathError("rows of different lengths")
        if environment.rstrip("*") in ("cases", "aligned", "align") and len(rows[0]) == 1:
            return ("list", tuple(row[0] for row in rows))
        return ("matrix", tuple(rows))


def literal(text: str) -> Tree:
    """The number that `text` (digits, point, exponent) writes, exactly."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(text) > MAX_DIGITS or (exponent and abs(int(exponent)) > MAX_DIGITS):
        raise NotMathError("too many digits")
    whole, point, decimals = mantissa.partition(".")
    shift = int(exponent or 0)
    value = Fraction(int(whole + decimals or "0"), 10 ** len(decimals)) * Fraction(10) ** shift
    return ("num", value, len(decimals) - shift if point or exponent else None)
