"""From clean text to a tree: our own recursive-descent parser, bounded in tokens, depth and digits. It evaluates
nothing.

A tree is nested tuples. Expressions:
    ("num", Fraction, decimals)  decimals: digits shown after the point, None for an integer or an exact fraction
    ("sym", name)  ("const", "pi" | "e" | "i" | "inf")  ("add", terms)  ("mul", factors)  ("div", a, b)  ("pow", a, b)
    ("pm", sign, a, b)  a plus-minus b, sign -1 for minus-plus       ("fn", name, arguments)
Structures:
    ("list", items) bare commas     ("set", items)     ("tuple", brackets, items) brackets such as "(]"
    ("matrix", rows)     ("rel", operators, operands)     ("union", items)     ("percent", a)     ("ratio", items)
    ("base", digits, base)     ("text", words)
"""

import re
from fractions import Fraction

from srt_jax.grading.atoms import Atoms
from srt_jax.grading.cursor import MAX_CHAIN, MAX_TOKENS, MINUS, ZERO, Tree
from srt_jax.grading.latex import NotMathError, Token, plain, tokenize
from srt_jax.grading.vocabulary import (
    ALIASES,
    APPROXIMATELY,
    CONSTANTS,
    FUNCTIONS,
    GLUED,
    INEQUALITIES,
    KEEP,
    OPENERS,
    PROPERTIES,
    RELATION_COMMANDS,
    RELATION_SYMBOLS,
    SCALE,
    SHORT_UNITS,
)

# f(x), f^{-1}(x), f(2), P(X=2), dy/dx: what stands before "=" when a value is given a name.
_DEFINITION = re.compile(
    r"[A-Za-z]'{0,3}(?:\^\{-1\})?\([A-Za-z](?:,[A-Za-z])*\)|[A-Zfgh]'{0,3}\([^()+*/-]*\)"
    r"|frac\{d[A-Za-z]\}\{d[A-Za-z]\}|d[A-Za-z]/d[A-Za-z]"
)
_PREFIXES = ("sin", "cos", "tan", "cot", "csc", "log", "sqrt")


def parse(text: str) -> Tree:
    """The tree of clean text. NotMathError when it is not an expression or structure this parser knows."""
    parser = Parser(tokenize(text, MAX_TOKENS))
    tree = parser.answer()
    if parser.kind != "end":
        raise NotMathError(f"unexpected {parser.text!r}")
    return tree


def _product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("mul", tuple(factors))


def _both(items: list[Tree], words: set[str]) -> Tree:
    """`x > 3 and x < 5` as 3 < x < 5; other conditions that hold together stay text."""
    simple = all(item[0] == "rel" and len(item[1]) == 1 and item[1][0] in INEQUALITIES for item in items)
    if words != {"and"} or len(items) != 2 or not simple:
        raise NotMathError("conditions together")
    high, low = sorted(items, key=lambda item: item[1][0])  # "<" sorts before ">"
    if low[1][0][0] == high[1][0][0] or low[2][0] != high[2][0]:
        raise NotMathError("conditions on one side")
    return ("rel", (low[1][0].replace(">", "<"), high[1][0]), (low[2][1], low[2][0], high[2][1]))


class Parser(Atoms):
    """The grammar from whole answers down to products and powers."""

    # --- structures ---------------------------------------------------------------------------------------------------
    def answer(self) -> Tree:
        """Items separated by commas, semicolons, "and", "or"; one item is itself, several are a list."""
        start = len(self.units)
        self.separator()
        items, words = [self.item()], set()
        while (found := self.separator()) and self.kind != "end":
            words |= found
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if len(set(self.units[start:])) > 1:
            raise NotMathError("several units")  # 5 boys and 3 girls are not 3 boys and 5 girls
        if any(item[0] == "rel" and INEQUALITIES & set(item[1]) for item in items) and words != {"or"}:
            return _both(items, words)
        return ("list", tuple(items))

    def separator(self) -> set[str]:
        """Consume what stands between two items; "," stands for all marks."""
        found: set[str] = set()
        while True:
            if self.is_symbol(",", ";") or self.is_command("\\") or self.is_word(""):
                found.add(",")
            elif self.is_word("or") or self.is_command("vee", "lor"):
                found.add("or")
            elif self.is_word("and") or self.is_command("wedge") or (self.kind == "text" and self.text.strip() == "&"):
                found.add("and")
            else:
                return found - {","} or found
            self.at += 1

    def item(self) -> Tree:
        """One relation, expression, interval, set ... with its unit dropped."""
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
        r"""Skip what only names the value that follows: `f(x) =`, `Total cost =`, `\text{The answer is}`, `\approx`."""
        if (self.kind == "text" and plain(self.text).endswith((" is", " are"))) or self.is_word(*APPROXIMATELY):
            self.at += 1
        ahead = self.tokens[self.at : self.at + 12]
        length = self.equals_sign(ahead)
        if length:
            words = [text for kind, text in ahead[:length] if kind in ("word", "text")]
            named = len(words) == length and any(len(word) > 3 or kind == "text" for kind, word in ahead[:length])
            if named or _DEFINITION.fullmatch("".join(text for _, text in ahead[:length])):
                self.at += length + 1
        if self.is_command("approx"):
            self.at += 1

    def equals_sign(self, tokens: list[Token]) -> int:
        """How many tokens stand before the first "=" outside of brackets; 0 where there is none."""
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
        while self.is_command("cup"):
            self.at += 1
            parts.append(self.sum())
        if len(parts) > 1:
            return ("union", tuple(parts))
        if self.is_command("setminus"):
            self.at += 1
            return ("without", parts[0], self.sum())
        tree = parts[0]
        if self.is_symbol(":") and self.brackets == 0:
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

    def unit(self, tree: Tree) -> Tree:
        r"""Drop the words after a value: `10 \text{ cm}^2`, `5 apples`, `3 km/h`; "million" multiplies."""
        if self.is_symbol("/") and self.peek()[0] == "text":
            self.at += 1
        if self.kind not in ("text", "word") or self.is_word("and", "or", "", "percent", "percents"):
            return tree
        before = self.tokens[self.at - 1]
        if self.kind == "word" and before[0] == "word" and len(before[1]) == 1:
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
        if self.is_command("over", "choose"):  # of plain TeX: all before it in the group, and all after it
            tree = ("div", tree, self.sum()) if self.take() == "over" else ("fn", "binom", (tree, self.sum()))
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
        """One more link of what nests to the left (a/b/c, 5!!, a ± b ± c): bounded like all depth."""
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
        """May the next token continue a product without a sign between them?"""
        if self.kind == "number":
            closed = self.tokens[self.at - 1] in (("symbol", ")"), ("symbol", "}"), ("symbol", "]"))
            if closed or (self.at > 1 and self.peek(-2) == ("symbol", "^")):
                return True
            raise NotMathError("two numbers side by side")
        if self.kind == "word":
            return self.variables() is not None
        if self.kind == "text":
            return self.text.strip() in ("e", "i", "\\pi")
        if self.kind == "symbol":
            return self.text in ("(", "[", "{") or (self.text == "|" and self.bars == 0)
        return self.kind == "command" and self.text in OPENERS

    def variables(self) -> list[str] | None:
        """The word as factors: a function, a constant or single letters; None when it is a unit or another word."""
        word = self.text
        before = self.tokens[self.at - 1][0] if self.at else ""
        if word in ("sec", "min") and before == "number" and self.spaced[self.at]:
            return None
        if word in FUNCTIONS or word in ALIASES or word in CONSTANTS or len(word) == 1:
            return [word]
        if (glued := GLUED.fullmatch(word)) is not None:
            return [glued[1], glued[2]]
        unit = word in SHORT_UNITS or (before == "number" and len(word) == 3)
        sentence = before == "word" or (self.peek()[0] == "word" and self.spaced[self.at + 1])
        if len(word) >= 4 or word in ("and", "or") or (self.spaced[self.at] and unit) or sentence:
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
            if self.is_symbol("!"):
                self.at += 1
                tree = ("fn", "factorial", (tree,))
            elif self.tokens[self.at - 1][0] == "number" and self.is_symbol("'", '"'):
                self.at += 1  # feet and inches, minutes and seconds of arc
            elif self.degree_sign():
                tree = ("div", ("mul", (tree, ("const", "pi"))), ("num", Fraction(180), None)) if self.angle else tree
            else:
                return tree

    def degree_sign(self) -> bool:
        r"""Consume `^\circ`, `^{\circ}` or the word degrees, if one comes next."""
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
