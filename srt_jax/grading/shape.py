"""From a parsed answer to its shape: names and layout removed, structure kept, expressions as leaves with exact keys.

A shape is ("leaf", key) or (kind, detail, children); kinds: list (unordered), tuple, assign, interval brackets in
`detail`, matrix, union, percent, equation, relation, ratio, base, time, text. `Read.leaves` maps each leaf key to
its tree and completeness.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm

from srt_jax.grading.algebra import Algebra, rational, render
from srt_jax.grading.expression import approximate, close, exact, fingerprint, is_complete
from srt_jax.grading.latex import NotMathError, clean, group, plain, trim
from srt_jax.grading.parse import MINUS, ONE, Tree, parse
from srt_jax.grading.vocabulary import CONSTANTS, FUNCTIONS, GLUED, INEQUALITIES, PHRASES, TEXT_COMMANDS

MAX_MATH = 2_000  # characters; longer answers are compared as text
MAX_LENGTH = 10_000  # characters; longer answers are not answers

CHAIN, ROUGHLY = 1e-2, 0.2  # how close the values of x = 1/3 = 0.333 and of 1/3 \\approx 0.3 must be

Shape = tuple
INFINITY, MINUS_INFINITY = ("const", "inf"), ("mul", (MINUS, ("const", "inf")))
LINE = ("tuple", "()", (MINUS_INFINITY, INFINITY))
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d))?)? ?(?:(a|p)\.? ?m\.?)?")
_LEAD = re.compile(r"(?:the )?(?:final )?answer(?: is)?(?: ?: ?| )(?=\S)", re.IGNORECASE)
_ORDINAL = re.compile(r"(\d{1,9})\^?\{?(?:\\(?:text|mathrm|textrm)\{)?(?:st|nd|rd|th)\}{0,2}")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z .'\-]*")
_PRODUCTS = set("abcxyz")
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass
class Leaf:
    """One expression: its tree, and whether a different key surely means a different value."""

    tree: Tree
    complete: bool


@dataclass
class Read:
    """An answer as read: its shape and leaves by key; for `grade` the clean text, the tree, the tree as parsed."""

    shape: Shape
    text: str
    tree: Tree
    parsed: Tree
    leaves: dict[str, Leaf] = field(default_factory=dict)


def read(answer: str) -> Read:
    """The shape of any string. What is not mathematics is text; nothing raises."""
    if len(answer) > MAX_LENGTH:
        return _words("text", answer, answer)
    text = unwrap(_LEAD.sub("", clean(answer)))
    words = plain(text)
    text = PHRASES.get(words, text)
    if (ordinal := _ORDINAL.fullmatch(text)) is not None:
        text = ordinal[1]
    if (time := clock(words)) is not None:
        return _words("time", time, text)
    if len(text) <= MAX_MATH and not is_word(text):
        try:
            parsed = parse(text)
            tree = reduce(parsed)
            reader = Reader()
            return Read(reader.shape(tree), text, tree, parsed, reader.leaves)
        except (NotMathError, RecursionError):
            pass
    return _words("text", _squeezed(plain(text)), text)


def _squeezed(words: str) -> str:
    """Without the blanks and braces that mean nothing: x_{1} = 2 and x_1=2."""
    return re.sub(r" ?([^\w\s]) ?", r"\1", re.sub(r"([_^])\{(\w)\}", r"\1\2", words))


def _words(kind: str, content: str, text: str) -> Read:
    return Read((kind, content, ()), text, (kind, content), (kind, content))


def unwrap(text: str) -> str:
    r"""Without the styling around the whole answer: `\text{(B)}` is `(B)`."""
    for _ in range(8):
        match = re.match(r"\\([A-Za-z]+) ?(?=\{)", text)
        if match is None or match[1] not in TEXT_COMMANDS | {"boxed", "fbox", "mathbf", "boldsymbol", "underline"}:
            break
        try:
            content, end = group(text, match.end())
        except NotMathError:
            break
        if end != len(text):
            break
        text = trim(content)
    return text


def clock(words: str) -> str | None:
    """Seconds after midnight of a time of day, with a mark when neither a.m. nor p.m. is said; None for other text."""
    match = _TIME.fullmatch(words.replace(" :", ":").replace(": ", ":"))
    if match is None or not (match[2] or match[4]):
        return None
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if match[4]:
        hours = hours % 12 + (12 if match[4] == "p" else 0)
    open_half = not match[4] and 1 <= hours <= 12
    return f"{hours * 3600 + minutes * 60 + seconds}{'?' if open_half else ''}"


def is_word(text: str) -> bool:
    """Letters only, at least two of them, not a product such as xyz: a word or words."""
    return (
        _LETTERS.fullmatch(text) is not None
        and len(text) > 1
        and not set(text) <= _PRODUCTS
        and not all(len(word) == 1 or word in FUNCTIONS or word in CONSTANTS for word in text.split())
        and GLUED.fullmatch(text) is None
        and re.fullmatch(r"[A-Za-z](?:'|(?: (?:and|or) [A-Za-z])*)", text) is None
    )


# --- names, chains and signs: tree to tree ----------------------------------------------------------------------------
def reduce(tree: Tree) -> Tree:
    """The tree without names (`x =`), approximations, plus-minus signs and lists inside lists."""
    kind = tree[0]
    if kind in ("list", "set"):
        return collection(tree)
    if kind == "rel":
        return relation(tree[1], tree[2])
    if kind == "tuple" and sum(choose_sign(item, 1) != item for item in tree[2]) == 1:  # (±1, 2) is two points
        return reduce(expand_signs(tree))
    if kind in ("add", "mul", "div"):
        tree = cell_by_cell(tree)
    if kind == "without":
        return punctured(reduce(tree[1]), reduce(tree[2]))
    if kind in ("tuple", "union"):
        tree = (*tree[:-1], tuple(reduce(item) for item in tree[-1]))
    elif kind == "mul" and len(tree[1]) == 2 and tree[1][0] == MINUS and tree[1][1][0] == "base":
        tree = ("base", "-" + tree[1][1][1], tree[1][1][2])
    elif tree == ("sym", "mathbb(R)"):
        return LINE
    return expand_signs(tree)


def cell_by_cell(tree: Tree) -> Tree:
    """A multiple or a sum of matrices as one matrix; other products and sums as they are."""
    if tree[0] not in ("add", "mul", "div"):
        return tree
    terms = [cell_by_cell(t) for t in (tree[1] if tree[0] != "div" else tree[1:])]
    matrices = [t for t in terms if t[0] == "matrix"]
    sizes = {tuple(map(len, m[1])) for m in matrices}
    if tree[0] == "add" and len(sizes) == 1 and len(matrices) == len(terms):
        rows = zip(*(m[1] for m in matrices))
        return ("matrix", tuple(tuple(("add", cells) for cells in zip(*row)) for row in rows))
    if len(matrices) != 1 or tree[0] == "add" or (tree[0] == "div" and terms[0] not in matrices):
        return tree
    at = terms.index(matrices[0])
    by = [("div", ONE, terms[1])] if tree[0] == "div" else terms[:at] + terms[at + 1 :]
    return ("matrix", tuple(tuple(("mul", (*by, cell)) for cell in row) for row in matrices[0][1]))


def punctured(line: Tree, points: Tree) -> Tree:
    """The real numbers without some points, as a union of intervals."""
    items = points[1] if points[0] in ("set", "list") else (points,)
    if line != LINE or any(map(symbols, items)) or not items:
        raise NotMathError("a difference of sets")
    ends = [MINUS_INFINITY, *sorted(items, key=lambda item: approximate(item, 0).real), INFINITY]
    return ("union", tuple(("tuple", "()", pair) for pair in pairwise(ends)))


def collection(tree: Tree) -> Tree:
    """A list or set in its shape: assignments by name, a union of inequalities, or its members, flattened."""
    kind, items = tree
    if kind == "list" and len(items) > 1 and all(i[0] == "rel" and i[1] == ("=",) and is_name(i[2][0]) for i in items):
        names = ["*".join(symbols(i[2][0])) for i in items]
        numbered = len({name.partition("_")[0] for name in names}) == 1  # x_1 = 1, x_2 = 2 are two solutions for x
        if len(set(names)) == len(names) and not numbered:
            return ("assign", tuple(names), tuple(reduce(i[2][1]) for i in items))
    if kind == "list" and all(item[0] == "rel" and set(item[1]) <= INEQUALITIES for item in items):
        return ("union", tuple(reduce(item) for item in items))  # x < 0 or x > 3
    flat: list[Tree] = []
    for item in items:
        reduced = reduce(item)
        flat.extend(reduced[1] if reduced[0] == "list" else (reduced,))
    return flat[0] if len(flat) == 1 else (kind, tuple(flat))


def relation(operators: tuple[str, ...], operands: tuple[Tree, ...]) -> Tree:
    """A chain of equations or inequalities in its shape: a value, an interval or an equation."""
    if "approx" in operators:  # exact before approximate, unless only a name stands before
        cut = operators.index("approx") + 1
        exactly, roughly = operands[cut - 1 : cut + 1]
        if not (symbols(exactly) or symbols(roughly)) and not near(exactly, roughly, ROUGHLY):
            raise NotMathError("values that are not near each other")
        if cut == 1 and is_name(operands[0]):
            cut = 2
        operators, operands = operators[: cut - 1], operands[:cut]
        operators = tuple("=" if op == "approx" else op for op in operators)
        if not operators:
            return reduce(operands[0])
    if set(operators) == {"="}:
        return equality(operands)
    if operators == ("in",) and is_name(operands[0]):
        return reduce(operands[1])
    return inequality(operators, operands)


def equality(operands: tuple[Tree, ...]) -> Tree:
    """`x = 1/2 = 0.5` is its last value that is not a decimal, `5 = x` is 5, `2x + y = 3` and `x = z` are equations."""
    named = is_name(operands[0])
    if len(operands) > 2:
        operands = (operands[0], chained(operands[1:]))
    if named and len(operands) == 2 and is_name(operands[1]) and operands[0] != ("sym", "y"):
        return ("equation", *operands)
    if not named and is_name(operands[-1]):
        return reduce(operands[-2])
    if named:
        return reduce(operands[1])
    if not (symbols(operands[0]) or symbols(operands[1])):
        return reduce(chained(operands))
    return ("equation", *operands)


def chained(values: tuple[Tree, ...]) -> Tree:
    """What a chain of equal values comes to. NotMathError where they are not nearly equal: then it is no such chain."""
    if not all(near(value, values[-1], CHAIN) for value in values):
        raise NotMathError("a chain of different values")
    exact_ones = [value for value in values if value[0] != "num" or value[2] is None]
    return (exact_ones or values)[-1]


def near(a: Tree, b: Tree, relative: float) -> bool:
    return all(close(x, y, relative) for x, y in zip(fingerprint(a), fingerprint(b)))


def inequality(operators: tuple[str, ...], operands: tuple[Tree, ...]) -> Tree:
    """The interval of one variable, or a relation in normal order."""
    if all(op in (">", ">=") for op in operators):
        operators, operands = tuple(_MIRROR[op] for op in reversed(operators)), operands[::-1]
    ends = {"<": "()", "<=": "[]"}
    if not all(op in ends for op in operators):
        if operators == ("!=",):
            if operands[0][0] == "sym" and not symbols(operands[1]):
                return punctured(LINE, operands[1])
            return ("relation", "!=", operands[0], operands[1])
        raise NotMathError("a mixed chain of relations")
    if len(operands) == 3 and is_variable(operands[1]) and not symbols(operands[0]) and not symbols(operands[2]):
        return ("tuple", ends[operators[0]][0] + ends[operators[1]][1], (operands[0], operands[2]))
    if len(operands) == 2:
        low, high = operands
        if is_variable(low) and not symbols(high):
            return ("tuple", "(" + ends[operators[0]][1], (MINUS_INFINITY, high))
        if is_variable(high) and not symbols(low):
            return ("tuple", ends[operators[0]][0] + ")", (low, INFINITY))
        return ("relation", operators[0], low, high)
    raise NotMathError("a chain of relations")


def infinite(tree: Tree) -> int:
    """1 and -1 for plus and minus infinity, 0 for everything else."""
    if tree == INFINITY:
        return 1
    return -infinite(tree[1][1]) if tree[0] == "mul" and len(tree[1]) == 2 and tree[1][0] == MINUS else 0


def is_name(tree: Tree) -> bool:
    """A symbol, a function or a tuple of them, or letters of a figure side by side (AB, |AB|, m\\angle A)."""
    if tree[0] == "fn":
        return tree[1] in ("f", "g", "h", "abs") and all(a[0] == "sym" or is_name(a) for a in tree[2])
    if tree[0] == "tuple":
        return all(is_name(item) for item in tree[2])
    if tree[0] == "mul":
        return all(is_name(t) for t in tree[1]) and any(name[0].isupper() or "(" in name for name in symbols(tree))
    return tree[0] == "sym"


def is_variable(tree: Tree) -> bool:
    """A symbol, or f(x): what a condition may be about."""
    return tree[0] == "sym" or (tree[0] == "fn" and tree[1] != "abs" and is_name(tree))


def symbols(tree: Tree) -> list[str]:
    """Names of the symbols of an expression, in order of appearance."""
    if tree[0] == "sym":
        return [tree[1]]
    return [name for part in tree[1:] if isinstance(part, tuple) for name in _symbols_in(part)]


def _symbols_in(part: tuple) -> list[str]:
    if part and isinstance(part[0], str):
        return symbols(part)
    return [name for item in part if isinstance(item, tuple) for name in _symbols_in(item)]


def expand_signs(tree: Tree) -> Tree:
    """`1 \\pm x` as the list 1 + x, 1 - x; all signs of one item change together."""
    upper = choose_sign(tree, 1)
    return tree if upper == tree else ("list", (upper, choose_sign(tree, -1)))


def choose_sign(tree: Tree, choice: int) -> Tree:
    if tree and tree[0] == "pm":
        right = choose_sign(tree[3], choice)
        return ("add", (choose_sign(tree[2], choice), right if tree[1] == choice else ("mul", (MINUS, right))))
    return tuple(choose_sign(part, choice) if isinstance(part, tuple) else part for part in tree)


# --- tree to shape ----------------------------------------------------------------------------------------------------
class Reader:
    """Turns reduced trees into shapes and collects the leaves."""

    def __init__(self) -> None:
        self.algebra = Algebra()
        self.leaves: dict[str, Leaf] = {}

    def shape(self, tree: Tree) -> Shape:
        kind, content = tree[0], tree[1]
        if kind in ("list", "set", "union"):
            return self.structure(kind, "", content)
        if kind in ("assign", "tuple"):  # brackets tell intervals apart, longer tuples are only ordered
            return self.structure(kind, content if kind == "assign" or len(tree[2]) == 2 else "()", tree[2])
        if kind == "matrix":
            cells = [reduce(cell) for row in content for cell in row]
            return self.structure(kind, f"{len(content)}x{len(content[0])}", cells)
        if kind == "percent":
            return self.structure(kind, "", [content])
        if kind == "base":
            return self.structure(kind, f"{content}_{tree[2]}", [])
        readers = {"ratio": self.ratio, "equation": self.difference, "relation": self.difference}
        return readers.get(kind, self.leaf)(tree)

    def structure(self, kind: str, detail: object, items: Iterable[Tree]) -> Shape:
        return (kind, detail, tuple(self.shape(item) for item in items))

    def leaf(self, tree: Tree) -> Shape:
        if (sign := infinite(tree)) != 0:
            key = "+inf" if sign > 0 else "-inf"
            self.leaves[key] = Leaf(tree, True)
            return ("leaf", key, ())
        value = exact(tree, self.algebra)
        key = render(value)
        if len(key) > MAX_LENGTH:
            raise NotMathError("a normal form too long")
        self.leaves[key] = Leaf(tree, is_complete(value))
        return ("leaf", key, ())

    def ratio(self, tree: Tree) -> Shape:
        items = tree[1]
        values = [rational(exact(item, self.algebra)) for item in items]
        if None in values or not any(values):
            return ("ratio", "", tuple(self.leaf(item) for item in items))
        scale = Fraction(lcm(*(v.denominator for v in values)), gcd(*(v.numerator for v in values)))
        return ("ratio", ":".join(str(v * scale) for v in values), ())

    def difference(self, tree: Tree) -> Shape:
        """`a = b` and `a < b` by a - b up to a factor (positive where direction matters)."""
        operator, left, right = ("=", *tree[1:]) if tree[0] == "equation" else tree[1:]
        value = exact(("add", (left, ("mul", (MINUS, right)))), self.algebra)
        if not value:
            return ("text", "0=0", ())
        _, primitive = self.algebra.primitive(value, signed=operator in ("=", "!="))
        return (tree[0], f"{operator}{render(primitive)}", ())
