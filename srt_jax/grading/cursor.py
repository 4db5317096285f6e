"""What the parser's parts share: the tokens under a cursor, the bounds, and the trees that occur everywhere."""

from fractions import Fraction

from srt_jax.grading.latex import NotMathError, Token, plain

MAX_TOKENS = 1500
MAX_DEPTH = 40
MAX_CHAIN = 20
MAX_DIGITS = 1000

Tree = tuple
ZERO, ONE = ("num", Fraction(0), None), ("num", Fraction(1), None)
MINUS = ("num", Fraction(-1), None)
END = ("end", "")


class Cursor:
    """A place in the tokens (without spaces; `spaced[i]`: a space stood before token i) and what surrounds it."""

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
        self.units: list[str] = []  # dropped so far
        self.brackets = 0  # open brackets: thousands separators are read outside of them only
        self.bars = 0  # open |...|
        self.angle = 0  # inside a function's argument, where a degree sign is a factor and not a unit

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
