"""Turns a parsed answer into its shape: its structure without names and layout. Its expressions are leaves.

A shape is (kind, detail, children). The kind "leaf" has the exact key of its expression as detail. The other kinds are
list (unordered), set, tuple (detail: its brackets, which may be those of an interval), assign, matrix, union, percent,
equation, relation, ratio, base, time, quantity and text. `Read.leaves` maps each leaf key to its tree and completeness.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm

from srt_jax.grading.algebra import Algebra, atom, rational, render
from srt_jax.grading.expression import approximate, close, divide, exact, fingerprint, is_complete
from srt_jax.grading.latex import NotMathError, clean, group, plain, trim
from srt_jax.grading.measures import choice, combination, counted, measure
from srt_jax.grading.parse import MINUS, ONE, Tree, parse, symbols
from srt_jax.grading.vocabulary import CONSTANTS, FUNCTIONS, GLUED, GREEK, INEQUALITIES, PHRASES, TEXT_COMMANDS

MAX_MATH = 2_000  # characters; longer answers are compared as text
MAX_LENGTH = 10_000  # characters; longer answers count as unparseable

CHAIN, ROUGHLY = 1e-2, 0.2  # the largest relative difference in x = 1/3 = 0.333, and in 1/3 \\approx 0.3

Shape = tuple
INFINITY, MINUS_INFINITY = ("const", "inf"), ("mul", (MINUS, ("const", "inf")))
LINE = ("tuple", "()", (MINUS_INFINITY, INFINITY))
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d))?)? ?(?:(a|p)\.? ?m\.?)?")
_LEAD = re.compile(
    r"(?:the )?(?:final )?answer(?: is)?(?: ?: ?| )(?=\S)"
    r"|^(?:thus|so|hence|therefore),? (?=\S)|^there (?:are|were) (?=\d)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"(\d{1,9})\^?\{?(?:\\(?:text|mathrm|textrm)\{)?(?:st|nd|rd|th)\}{0,2}")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z .'\-]*")
_UNKNOWNS = set("xynmkt")
_PRODUCTS = set("abcxyz")
_NAMES = FUNCTIONS | set(CONSTANTS) | GREEK
_DASHED = re.compile(r"^(\W{0,9}[A-J]\W{0,9}?) ?—")  # the dash after a choice; other dashes are minus signs
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_OPENING, _CLOSING = {"<": "(", "<=": "["}, {"<": ")", "<=": "]"}
_FACING = {"(": ")", "[": "]", ")": "(", "]": "["}


@dataclass
class Leaf:
    """One expression. complete: whether a different key surely means a different value."""

    tree: Tree
    complete: bool


@dataclass
class Read:
    """An answer after reading: its shape, and its leaves by key.

    `grade` also uses text (the clean text), tree (the reduced tree) and parsed (the tree before `reduce`).
    """

    shape: Shape
    text: str
    tree: Tree
    parsed: Tree
    leaves: dict[str, Leaf] = field(default_factory=dict)


def read(answer: str) -> Read:
    """Reads any string. A string that is not mathematics becomes text. Raises nothing."""
    if len(answer) > MAX_LENGTH:
        return _words("text", answer, answer)
    if "—" in answer:
        answer = _DASHED.sub(r"\1 -- ", answer)
    text = unwrap(_LEAD.sub("", clean(answer)))
    words = plain(text)
    text = PHRASES.get(words, text)
    if (ordinal := _ORDINAL.fullmatch(text)) is not None:
        text = ordinal[1]
    if (time := clock(words)) is not None:
        return _words("time", time, text)
    text = combination(counted(text))
    if (letter := choice(text)) is not None:
        text = letter
    elif (amount := measure(text)) is not None:
        return _words("quantity", f"{amount[0]}:{amount[1]}", text)
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
    """The text without meaningless blanks and braces: x_{1} = 2 and x_1=2 become equal."""
    return re.sub(r" ?([^\w\s]) ?", r"\1", re.sub(r"([_^])\{(\w)\}", r"\1\2", words))


def _words(kind: str, content: str, text: str) -> Read:
    return Read((kind, content, ()), text, (kind, content), (kind, content))


def unwrap(text: str) -> str:
    r"""The text without styling commands around all of it: `\text{(B)}` becomes `(B)`."""
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
    """The seconds after midnight of a time of day; None for other text.

    A final "?" marks a time that may be a.m. or p.m.
    """
    match = _TIME.fullmatch(words.replace(" :", ":").replace(": ", ":"))
    if match is None or not (match[2] or match[4]):
        return None
    hours, minutes, seconds = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    if match[4]:
        hours = hours % 12 + (12 if match[4] == "p" else 0)
    open_half = not match[4] and 1 <= hours <= 12
    return f"{hours * 3600 + minutes * 60 + seconds}{'?' if open_half else ''}"


def is_word(text: str) -> bool:
    """Tells whether the text is one word or several: only letters, at least two, and not a product such as xyz."""
    return (
        _LETTERS.fullmatch(text) is not None
        and len(text) > 1
        and not set(text) <= _PRODUCTS
        and not all(len(word) == 1 or word in _NAMES for word in text.split())
        and GLUED.fullmatch(text) is None
        and re.fullmatch(r"[A-Za-z](?:'|(?: (?:and|or) [A-Za-z])*)", text) is None
    )


# --- names, chains and signs: tree to tree ----------------------------------------------------------------------------
def reduce(tree: Tree) -> Tree:
    """The tree without names (`x =`), approximations, plus-minus signs and nested lists."""
    kind = tree[0]
    if kind in _REDUCERS:
        return _REDUCERS[kind](tree)
    if kind == "tuple" and sum(choose_sign(item, 1) != item for item in tree[2]) == 1:  # (±1, 2) is two points
        return reduce(expand_signs(tree))
    if kind in ("add", "mul", "div"):
        tree = cell_by_cell(tree)
    if kind in ("tuple", "union"):
        tree = (*tree[:-1], tuple(reduce(item) for item in tree[-1]))
    elif kind == "mul" and len(tree[1]) == 2 and tree[1][0] == MINUS and tree[1][1][0] == "base":
        tree = ("base", "-" + tree[1][1][1], tree[1][1][2])
    elif tree == ("sym", "mathbb(R)"):
        return LINE
    return expand_signs(tree)


def cell_by_cell(tree: Tree) -> Tree:
    """A multiple of a matrix, or a sum of matrices, as one matrix. Other trees are returned unchanged."""
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
    """The real numbers without some points, as a union of intervals. Raises NotMathError for other set differences."""
    items = points[1] if points[0] in ("set", "list") else (points,)
    if line != LINE or any(map(symbols, items)) or not items:
        raise NotMathError("a difference of sets")
    ends = [MINUS_INFINITY, *sorted(items, key=lambda item: approximate(item, 0).real), INFINITY]
    return ("union", tuple(("tuple", "()", pair) for pair in pairwise(ends)))


def collection(tree: Tree) -> Tree:
    """A list or set, reduced to assignments by name, to a union of inequalities, or to a flat list of its members."""
    kind, items = tree
    if kind == "list" and len(items) > 1 and (derived := conclusion(items)) is not None:
        return reduce(derived)
    if kind == "list" and len(items) > 1 and all(i[0] == "rel" and i[1] == ("=",) and is_name(i[2][0]) for i in items):
        names = ["*".join(symbols(i[2][0])) for i in items]
        if (points := solutions(names, [i[2][1] for i in items])) is not None:
            return ("list", points)
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


def solutions(names: list[str], values: list[Tree]) -> tuple[Tree, ...] | None:
    """`p=5, q=2; p=7, q=2` as the points (5, 2) and (7, 2); None for other lists.

    The coordinates are in the alphabetical order of the unknowns.
    """
    blocks: list[dict[str, Tree]] = [{}]
    for name, value in zip(names, values):
        if name in blocks[-1]:
            blocks.append({})
        blocks[-1][name] = reduce(value)
    unknowns = sorted(blocks[0])
    if len(blocks) < 2 or len(unknowns) < 2 or any(sorted(block) != unknowns for block in blocks):
        return None
    return tuple(("tuple", "()", tuple(block[name] for name in unknowns)) for block in blocks)


def conclusion(items: tuple[Tree, ...]) -> Tree | None:
    """The value 293 in `m=256, n=37, m+n=293`, if it follows from the values before it; else None."""
    if not all(item[0] == "rel" and set(item[1]) == {"="} for item in items):
        return None
    *given, (_, _, (target, *last)) = items
    known: dict[str, Tree] = {}
    for _, _, (name, *values) in given:
        names, ends = (name[2], values[-1][2:]) if name[0] == "tuple" else ((name,), ((values[-1],),))
        if ends and len(names) == len(ends[0]) and all(n[0] == "sym" for n in names):
            known |= {n[1]: value for n, value in zip(names, ends[0])}
    if not is_target(target) or any(map(symbols, [*last, *known.values()])):
        return None
    result = substitute(target, known)
    return last[-1] if not symbols(result) and all(near(result, value, CHAIN) for value in last) else None


def substitute(tree: Tree, values: dict[str, Tree]) -> Tree:
    """The tree in which each symbol of `values` is replaced by its value."""
    if tree[0] == "sym":
        return values.get(tree[1], tree)
    return tuple(
        part
        if not isinstance(part, tuple) or not part
        else substitute(part, values)
        if isinstance(part[0], str)
        else tuple(substitute(item, values) if isinstance(item, tuple) else item for item in part)
        for part in tree
    )


def relation(operators: tuple[str, ...], operands: tuple[Tree, ...]) -> Tree:
    """A chain of equations or inequalities, reduced to a value, an interval, an equation or a relation."""
    if "approx" in operators:  # the value before the sign is the exact one, unless it is only a name
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
    """A chain of `=`, reduced to its last value that is not a decimal: `x = 1/2 = 0.5` is 1/2, and `5 = x` is 5.

    `2x + y = 3` and `x = z` stay equations.
    """
    named = is_name(operands[0])
    if len(operands) > 2:  # S = a + b = 7
        rest = [o for o in operands[1:-1] if not is_target(o) or not named or symbols(operands[-1])]
        operands = (operands[0], *rest, operands[-1])
    if len(operands) > 2:
        value = chained(operands[1:])
        if is_target(operands[0]) and not any(map(symbols, operands[1:])):
            return reduce(value)  # m + n = 256 + 37 = 293
        operands = (operands[0], value)
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
    """The value of a chain of equal values. Raises NotMathError if they are not nearly equal."""
    if not all(near(value, values[-1], CHAIN) for value in values):
        raise NotMathError("a chain of different values")
    exact_ones = [value for value in values if value[0] != "num" or value[2] is None]
    return (exact_ones or values)[-1]


def near(a: Tree, b: Tree, relative: float) -> bool:
    return all(close(x, y, relative) for x, y in zip(fingerprint(a), fingerprint(b)))


def inequality(operators: tuple[str, ...], operands: tuple[Tree, ...]) -> Tree:
    """The interval of one variable, or a relation with `<`, `<=` or `!=`. Raises NotMathError for other chains."""
    if all(op in (">", ">=") for op in operators):
        operators, operands = tuple(_MIRROR[op] for op in reversed(operators)), operands[::-1]
    if not all(op in _CLOSING for op in operators):
        if operators == ("!=",):
            if operands[0][0] == "sym" and not symbols(operands[1]):
                return punctured(LINE, operands[1])
            return ("relation", "!=", operands[0], operands[1])
        raise NotMathError("a mixed chain of relations")
    if len(operands) > 3:
        raise NotMathError("a chain of relations")
    if (interval := solved(operators, operands)) is not None:
        return interval
    if len(operands) == 3:
        raise NotMathError("a chain of relations")
    return ("relation", operators[0], *operands)


def solved(operators: tuple[str, ...], operands: tuple[Tree, ...]) -> Tree | None:
    """The solution of `<` and `<=` for one variable: one interval, or the union of two. None for other conditions.

    Examples: `x < 1`, `-1 < 2x <= 3`, `-x < -1`, `|x - 2| < 3`. Both of two operands may contain the variable.
    """
    if len(operands) == 2 and symbols(operands[0]) and symbols(operands[1]):
        operands = (("add", (operands[0], ("mul", (MINUS, operands[1])))), ("num", Fraction(0), None))
    middle = [i for i, operand in enumerate(operands) if symbols(operand)]
    if len(middle) != 1 or (len(operands) == 3 and middle != [1]):
        return None
    at = middle[0]
    inside = operands[at]
    low = (operands[at - 1], _OPENING[operators[at - 1]]) if at else (MINUS_INFINITY, "(")
    high = (operands[at + 1], _CLOSING[operators[at]]) if at + 1 < len(operands) else (INFINITY, ")")
    if inside[0] == "fn" and inside[1] == "abs" and len(inside[2]) == 1:
        return _solved_absolute(inside[2][0], low, high)
    return _solved_linear(inside, low, high)


End = tuple[Tree, str]  # an end of an interval and its bracket


def _solved_linear(inside: Tree, low: End, high: End) -> Tree | None:
    if is_variable(inside):
        return ("tuple", low[1] + high[1], (low[0], high[0]))
    names = set(symbols(inside))
    if len(names) != 1 or not (line := _line(inside, names.pop())):
        return None
    slope, shift = line

    def bound(end: Tree) -> Tree:
        if infinite(end):
            return end if slope > 0 else ("mul", (MINUS, end)) if end == INFINITY else INFINITY
        return ("div", ("add", (end, ("mul", (MINUS, shift)))), ("num", slope, None))

    if slope < 0:
        low, high = (high[0], _FACING[high[1]]), (low[0], _FACING[low[1]])
    return ("tuple", low[1] + high[1], (bound(low[0]), bound(high[0])))


def _solved_absolute(inside: Tree, low: End, high: End) -> Tree | None:
    """The solution of low < |inside| < high, for both signs of `inside`."""
    least = approximate(low[0], 0) if not infinite(low[0]) else complex(-1)
    no_low = infinite(low[0]) or (least == 0 and low[1] == "[")
    if no_low and not infinite(high[0]):  # |x| < 3
        positive = approximate(high[0], 0).real > 0
        return _solved_linear(inside, (("mul", (MINUS, high[0])), _FACING[high[1]]), high) if positive else None
    if not least.real >= 0:
        return None
    minus_low = (MINUS_INFINITY if infinite(high[0]) else ("mul", (MINUS, high[0])), _FACING[high[1]])
    minus_high = (("mul", (MINUS, low[0])), _FACING[low[1]])
    parts = _solved_linear(inside, minus_low, minus_high), _solved_linear(inside, low, high)
    return ("union", parts) if None not in parts else None


def _line(tree: Tree, name: str) -> tuple[Fraction, Tree] | None:
    """(slope, value at 0) of an expression slope * name + value. None if the slope is 0 or not rational."""
    zero, one = (substitute(tree, {name: ("num", Fraction(n), None)}) for n in (0, 1))
    algebra = Algebra()
    constant = exact(zero, algebra)
    slope = rational(algebra.add(exact(one, algebra), algebra.scale(constant, Fraction(-1))))
    if not slope:
        return None
    same = algebra.add(algebra.scale(atom(name), slope), constant)
    return (slope, zero) if render(exact(tree, algebra)) == render(same) else None


_REDUCERS = {
    "list": collection,
    "set": collection,
    "counted": lambda tree: ("assign", tree[1], tuple(reduce(item) for item in tree[2])),
    "rel": lambda tree: relation(tree[1], tree[2]),
    "without": lambda tree: punctured(reduce(tree[1]), reduce(tree[2])),
}


def infinite(tree: Tree) -> int:
    """1 for plus infinity, -1 for minus infinity, 0 for everything else."""
    if tree == INFINITY:
        return 1
    return -infinite(tree[1][1]) if tree[0] == "mul" and len(tree[1]) == 2 and tree[1][0] == MINUS else 0


def is_name(tree: Tree) -> bool:
    """Tells whether the tree only names the value after "=".

    Such a tree is a symbol, a function, a tuple or ratio of names, or letters of a figure (AB/CD).
    """
    kind = tree[0]
    if kind == "fn":
        return _is_named_function(tree[1], tree[2])
    if kind == "mul":
        return all(is_name(t) for t in tree[1]) and any(name[0].isupper() or "(" in name for name in symbols(tree))
    if kind == "div":
        return is_figure(tree[1]) and is_figure(tree[2])
    if kind == "add":  # AB + BC; but x + y = 5 is an equation
        return all(term[0] == "mul" and is_figure(term) for term in tree[1])
    return kind == "sym" or (kind in ("tuple", "ratio") and all(is_name(item) for item in tree[-1]))


def _is_named_function(name: str, arguments: tuple[Tree, ...]) -> bool:
    """Tells whether the function is a name, such as f(x), |AB|, |z| and |v|. But |x| = 5 is an equation for x."""
    if name == "abs" and symbols(arguments[0])[:1] and symbols(arguments[0])[0][0] in _UNKNOWNS:
        return False
    return name in ("f", "g", "h", "abs") and all(is_name(argument) for argument in arguments)


def is_figure(tree: Tree) -> bool:
    """Tells whether the tree names a length or an area: adjacent letters (`AB`) or one capital letter (`S_1`)."""
    return (tree[0] == "mul" and is_name(tree)) or (tree[0] == "sym" and (tree[1][0].isupper() or "(" in tree[1]))


def is_target(tree: Tree) -> bool:
    """Tells whether a problem may ask for this value: a sum, difference, product or ratio of unknowns (`m + n`)."""
    names = symbols(tree)
    if len(set(names)) < max(2, len(names)):
        return False
    if tree[0] == "add":
        return all(is_unknown(t[1][1] if t[0] == "mul" and t[1][0] == MINUS and len(t[1]) == 2 else t) for t in tree[1])
    if tree[0] == "ratio":
        return all(map(is_unknown, tree[1]))
    return is_unknown(tree[1]) and is_unknown(tree[2]) if tree[0] == "div" else is_unknown(tree)


def is_unknown(tree: Tree) -> bool:
    return tree[0] == "sym" or (tree[0] == "mul" and all(t[0] == "sym" for t in tree[1]))


def is_variable(tree: Tree) -> bool:
    """Tells whether a condition may restrict this tree: a symbol or f(x)."""
    return tree[0] == "sym" or (tree[0] == "fn" and tree[1] != "abs" and is_name(tree))


def expand_signs(tree: Tree) -> Tree:
    """`1 \\pm x` as the list 1 + x, 1 - x. All signs of one item change together."""
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
        if kind in ("assign", "tuple"):  # brackets count for two items, which may be an interval
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
        """A ratio in lowest terms, or with each part divided by the first that is not 0 if a quotient is irrational."""
        sums = [exact(item, self.algebra) for item in tree[1]]
        first = next((value for value in sums if value), None)
        if first is None:
            raise NotMathError("a ratio of zeros")
        sums = [divide(value, first, self.algebra) for value in sums]
        values = [rational(value) for value in sums]
        if None in values:
            return ("ratio", ":".join(map(render, sums)), ())
        scale = Fraction(lcm(*(v.denominator for v in values)), gcd(*(v.numerator for v in values)))
        return ("ratio", ":".join(str(v * scale) for v in values), ())

    def difference(self, tree: Tree) -> Shape:
        """The shape of `a = b` or `a < b`: a - b without its constant factor. For `<` only a positive factor counts."""
        operator, left, right = ("=", *tree[1:]) if tree[0] == "equation" else tree[1:]
        value = exact(("add", (left, ("mul", (MINUS, right)))), self.algebra)
        if not value:
            return ("text", "0=0", ())
        _, primitive = self.algebra.primitive(value, signed=operator in ("=", "!="))
        return (tree[0], f"{operator}{render(primitive)}", ())
