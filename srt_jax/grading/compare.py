"""Directed comparison of a prediction with a gold answer, within the tolerances of docs/grading.md. Pure functions.

The caller passes `prove(a, b)`. It is called for two expressions with symbols whose values agree numerically, and
returns whether a = b counts as proved.
"""

import cmath
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from srt_jax.grading.algebra import Algebra, rational, render
from srt_jax.grading.canonical import key
from srt_jax.grading.expression import approximate, close, exact, fingerprint
from srt_jax.grading.latex import NotMathError
from srt_jax.grading.measures import size, unit_of, units_of
from srt_jax.grading.parse import MINUS, Tree, symbols
from srt_jax.grading.shape import Read, infinite, is_target, read, reduce

Prove = Callable[[Tree, Tree], bool]
SIGNIFICANT = 3  # a rounded answer must show this many significant digits
RELATIVE = Fraction(2, 1000)  # the largest relative error of a rounded answer
NOISE = Fraction(1, 10**9)  # the relative error that a long decimal of a calculator may have
SAME = 1e-12  # two constants with a smaller relative difference are equal
_UNIT = r"[mgshlLNJWVAKCF](?:\^\{?[23]\}?)?"
_SPACED_UNIT = re.compile(rf"(.*[\d}}])(?:\\[,;: ]| ) ?(?:{_UNIT}(?:/{_UNIT})?|\\[dt]?frac\{{{_UNIT}\}}\{{{_UNIT}\}})")
_MODULUS = re.compile(r"\(?\\p?mod(?![a-z])|\(\\(?:text|mathrm)\{ ?mod")
_COLON = re.compile(r"(\d+) ?: ?(\d+)")
_ORDERED = {"tuple", "matrix", "assign"}
_HALF_DAY = 12 * 3600


def matches(prediction: Read, gold: Read, prove: Prove) -> bool:
    """Tells whether the prediction is right."""
    bare_lists = prediction.tree[0] == gold.tree[0] == "list"  # keys ignore the order, which may matter here
    if prediction.text == gold.text or (key(prediction.shape) == key(gold.shape) and not bare_lists):
        return True
    if _node(prediction.tree, gold.tree, prove) or _equations(prediction.parsed, gold.parsed):
        return True
    if "quantity" in (prediction.tree[0], gold.tree[0]):
        return _quantities(prediction, gold)
    if (asked := _asked(prediction.parsed)) is not None and gold.parsed[0] != "rel":  # m + n = 293 for 293
        return _node(asked, gold.tree, prove)
    p, g = (_without_unit(side) for side in (prediction, gold))
    if bool(_MODULUS.search(p.text)) != bool(_MODULUS.search(g.text)):  # 7 for 7 (mod 10)
        p, g = (read(_MODULUS.split(side.text)[0]) for side in (p, g))
    if p.tree[0] != g.tree[0] and "time" in (p.tree[0], g.tree[0]):  # 9:16 may be a time and a ratio
        return _node(_as_ratio(p), _as_ratio(g), prove)
    return (p, g) != (prediction, gold) and _node(p.tree, g.tree, prove)


def _as_ratio(side: Read) -> Tree:
    match = _COLON.fullmatch(side.text)
    return ("ratio", tuple(("num", Fraction(n), None) for n in match.groups())) if match else side.tree


def _without_unit(side: Read) -> Read:
    """A number without its one-letter unit after a space (`10 m`, `3 m/s`). Other letters are variables and stay."""
    match = _SPACED_UNIT.fullmatch(side.text)
    number = read(match[1]) if match else side
    return side if symbols(number.tree) else number


def _node(p: Tree, g: Tree, prove: Prove) -> bool:
    kinds = p[0], g[0]
    for kind, compare in _KINDS.items():
        if kind in kinds:
            return compare(p, g, prove)
    items = _items(p), _items(g)
    if items[0] is not None and items[1] is not None:
        return _collections(p, g, *items, prove)
    if kinds[0] == "list" and items[1] is None:  # for "3/4 or 0.75" both values must be right
        return all(_node(item, g, prove) for item in p[1])
    return items == (None, None) and _value(p, g, prove)


def _relations(p: Tree, g: Tree, prove: Prove) -> bool:
    """Tells whether both sides are equal, or their differences are proportional: 2x - y = -3 and y = 2x + 3."""
    if p[0] != g[0] or (p[0] == "relation" and p[1] != g[1]):
        return False
    if all(_value(a, b, prove) for a, b in zip(p[-2:], g[-2:])):
        return True
    return _proportional(p, g, positive=p[0] == "relation" and p[1] != "!=")


def _items(tree: Tree) -> tuple[Tree, ...] | None:
    if tree[0] == "matrix":
        return tuple(cell for row in tree[1] for cell in row)
    if tree[0] in ("tuple", "assign"):
        return tree[2]
    return tree[1] if tree[0] in ("list", "set", "union") else None


def _collections(p: Tree, g: Tree, ps: Sequence[Tree], gs: Sequence[Tree], prove: Prove) -> bool:
    if "matrix" in (p[0], g[0]):
        p, g = _as_matrix(p), _as_matrix(g)
        ps, gs = _items(p), _items(g)
    if len(ps) != len(gs):
        return False
    kinds = p[0], g[0]
    if kinds == ("tuple", "tuple") and len(gs) == 2 and p[1] != g[1]:
        return False  # one interval contains an end that the other does not
    if "matrix" in kinds and not (kinds == ("matrix", "matrix") and _size(p) == _size(g)):
        matrix, other = (p, g) if p[0] == "matrix" else (g, p)
        if other[0] == "matrix" or 1 not in _size(matrix):
            return False  # only a matrix of one row or one column may be written as a list
    if kinds == ("assign", "assign"):
        by_name = dict(zip(p[1], ps))
        return set(p[1]) == set(g[1]) and all(_node(by_name[name], item, prove) for name, item in zip(g[1], gs))
    if all(_node(a, b, prove) for a, b in zip(ps, gs)):
        return True
    return not _ORDERED & set(kinds) and _order_is_open(p, g, ps, gs) and _matching(ps, gs, prove)


def _as_matrix(tree: Tree) -> Tree:
    """`[[1,2],[3,4]]` as a matrix. Other trees are returned unchanged."""
    if tree[0] == "tuple" and all(item[0] == "tuple" for item in tree[2]) and len({len(i[2]) for i in tree[2]}) == 1:
        return ("matrix", tuple(item[2] for item in tree[2]))
    return tree


def _size(tree: Tree) -> tuple[int, int]:
    return len(tree[1]), len(tree[1][0])


def _order_is_open(p: Tree, g: Tree, ps: Sequence[Tree], gs: Sequence[Tree]) -> bool:
    """Tells whether the order of the items does not matter.

    It does not matter for sets and for items that are not real numbers. For a bare list of numbers it does not matter
    if one side is in ascending order, because people write sets like that.
    """
    if "set" in (p[0], g[0]) or "union" in (p[0], g[0]):
        return True
    sides = [[approximate(item, 0) for item in side] if not any(map(symbols, side)) else None for side in (ps, gs)]
    for side in sides:
        if side is None or any(cmath.isnan(v) or v.imag for v in side):
            return True
        values = [v.real for v in side]
        if values == sorted(values):
            return True
    return False


def _matching(ps: Sequence[Tree], gs: Sequence[Tree], prove: Prove) -> bool:
    """Tells whether each item of `gs` has its own equal item in `ps`.

    Each takes the first that fits. Another choice could give another result only for items closer than the tolerance.
    """
    left = list(ps)
    for item in gs:
        found = next((i for i, candidate in enumerate(left) if _node(candidate, item, prove)), None)
        if found is None:
            return False
        del left[found]
    return True


def _percent(p: Tree, g: Tree, prove: Prove) -> bool:
    """10% equals 10, 0.1 and 10%, in both directions."""
    if p[0] == g[0]:
        return _node(p[1], g[1], prove)
    value, other, order = (p[1], g, 1) if p[0] == "percent" else (g[1], p, -1)
    hundredth = ("div", value, ("num", Fraction(100), None))
    if value[0] == "num":
        hundredth = ("num", value[1] / 100, None if value[2] is None else value[2] + 2)
    pairs = (((a, other) if order == 1 else (other, a)) for a in (value, hundredth))
    return any(_node(a, b, prove) for a, b in pairs)


def _time(p: Tree, g: Tree, _: Prove) -> bool:
    """Times of day. If only one side says a.m. or p.m., the times may differ by twelve hours."""
    if p[0] != g[0]:
        return False
    difference = int(p[1].rstrip("?")) - int(g[1].rstrip("?"))
    return difference == 0 or (difference % _HALF_DAY == 0 and ("?" in p[1]) != ("?" in g[1]))


def _text(p: Tree, g: Tree, _: Prove) -> bool:
    """Words are equal if their letters and digits are equal. Text with other signs must be equal in every character."""
    return p[0] == g[0] and _letters(p[1]) == _letters(g[1])


def _letters(words: str) -> str:
    letters = "".join(c for c in words if c not in " .,;:'\"-")
    return letters if letters.isalnum() else words


def _ratio(p: Tree, g: Tree, prove: Prove) -> bool:
    """Ratios are equal if they differ by a common factor. 3:4 also equals 3/4."""
    if p[0] == g[0] and len(p[1]) == len(g[1]) > 2:
        at = next((i for i, item in enumerate(g[1]) if approximate(item, 0) != 0), 0)
        crosswise = [(("mul", (a, g[1][at])), ("mul", (b, p[1][at]))) for a, b in zip(p[1], g[1])]
        return approximate(p[1][at], 0) != 0 and all(_value(a, b, prove) for a, b in crosswise)
    p, g = (("div", *t[1]) if t[0] == "ratio" and len(t[1]) == 2 else t for t in (p, g))
    return "ratio" not in (p[0], g[0]) and _items(p) is _items(g) is None and _value(p, g, prove)


def _base(p: Tree, g: Tree, _: Prove) -> bool:
    """Numerals in a base are equal only if their digits and their bases are equal."""
    return p == g


def _quantities(prediction: Read, gold: Read) -> bool:
    """Tells whether a measure in several units equals a number of one unit (3 hours 20 minutes, 200 minutes)."""
    if prediction.tree[0] == gold.tree[0]:
        return prediction.tree == gold.tree
    whole, single = (prediction, gold) if prediction.tree[0] == "quantity" else (gold, prediction)
    dimension, _, amount = whole.tree[1].partition(":")
    unit = unit_of(single.text)
    if unit is None or _items(single.tree) is not None:
        return False
    try:
        value = rational(exact(single.tree, Algebra()))
    except NotMathError:
        return False
    units = [unit] if unit else units_of(whole.text)
    return value is not None and any((dimension, Fraction(amount)) == (size(u)[0], value * size(u)[1]) for u in units)


def _asked(tree: Tree) -> Tree | None:
    """The value 293 in `m + n = 293`. One side must be a bare sum, difference, product or ratio of unknowns."""
    if tree[0] != "rel" or tree[1] != ("=",):
        return None
    target, value = tree[2] if symbols(tree[2][0]) else reversed(tree[2])
    return reduce(value) if is_target(target) and not symbols(value) else None


_KINDS = {
    "percent": _percent, "time": _time, "text": _text, "ratio": _ratio, "equation": _relations, "relation": _relations,
    "base": _base,
}  # fmt: skip


def _equations(p: Tree, g: Tree) -> bool:
    """Tells whether two equations, with the names before `=`, are proportional: y = 2x + 3 and 2x - y + 3 = 0."""
    if not all(t[0] == "rel" and t[1] == ("=",) for t in (p, g)):
        return False
    return _proportional(("equation", *p[2]), ("equation", *g[2]), positive=False)


def _proportional(p: Tree, g: Tree, positive: bool) -> bool:
    left, right = (("add", (t[-2], ("mul", (MINUS, t[-1])))) for t in (p, g))
    if sorted(set(symbols(left))) != sorted(set(symbols(right))) or not symbols(left):
        return False
    quotients = [a / b if b else complex("nan") for a, b in zip(fingerprint(left), fingerprint(right))]
    first = quotients[0]
    if not cmath.isfinite(first) or first == 0 or (positive and first.real <= 0):
        return False
    return all(cmath.isfinite(q) and abs(q - first) <= 1e-9 * abs(first) for q in quotients)


# --- values -----------------------------------------------------------------------------------------------------------
def _value(p: Tree, g: Tree, prove: Prove) -> bool:
    if infinite(p) or infinite(g):
        return infinite(p) == infinite(g)
    try:
        exact_p, exact_g = exact(p, Algebra()), exact(g, Algebra())
    except NotMathError:
        return False
    if render(exact_p) == render(exact_g):
        return True
    if symbols(p) or symbols(g):
        return _symbolic(p, g, prove)
    return _constants(p, g, rational(exact_p), rational(exact_g))


def _constants(p: Tree, g: Tree, exact_p: Fraction | None, exact_g: Fraction | None) -> bool:
    """Tells whether two constants are equal or one rounds the other. exact_p, exact_g: values, None if irrational."""
    if exact_p is not None and exact_g is not None:
        return _rounded(p, g, exact_p, exact_g, rational_prediction=True)
    a, b = approximate(p, 0), approximate(g, 0)
    if not (cmath.isfinite(a) and cmath.isfinite(b)):
        return False
    if abs(a - b) <= SAME * abs(b):
        return True
    if abs(a.imag) > SAME * abs(a) or abs(b.imag) > SAME * abs(b):
        return False
    return _rounded(p, g, Fraction(a.real), Fraction(b.real), rational_prediction=exact_p is not None)


def _rounded(p: Tree, g: Tree, a: Fraction, b: Fraction, rational_prediction: bool) -> bool:
    """Tells whether one number is a rounding of the other.

    The gold may always be rounded. The prediction may be rounded only if the gold has no short exact decimal.
    """
    shown_p, shown_g = _places(p), _places(g)
    if abs(a - b) > RELATIVE * abs(b):
        return shown_p is not None and shown_g is not None and _forgotten_percent(p, g, a, b)
    if shown_g is not None:
        unit = Fraction(10) ** -shown_g
        return _digits(g) >= SIGNIFICANT and (abs(a - b) * 2 <= unit or (not rational_prediction and abs(a - b) < unit))
    if shown_p is not None:
        noise = NOISE * abs(b)  # the last of a calculator's sixteen digits may be wrong
        return _digits(p) >= SIGNIFICANT and not _terminates(g, b) and abs(a - b) < max(Fraction(10) ** -shown_p, noise)
    return False


def _places(tree: Tree) -> int | None:
    """The decimal places of an answer that is a decimal number; it may have a sign and a power of ten. Else None."""
    if tree[0] == "num":
        return tree[2]
    if tree[0] == "mul" and tree[1][0] == MINUS and len(tree[1]) == 2:
        return _places(tree[1][1])
    if tree[0] == "mul" and len(tree[1]) == 2 and tree[1][1][0] == "pow" and tree[1][1][1][:2] == ("num", 10):
        places, exponent = _places(tree[1][0]), rational(exact(tree[1][1][2], Algebra()))
        if places is not None and exponent is not None and exponent.denominator == 1:
            return places - int(exponent)
    return None


def _digits(tree: Tree) -> int:
    """The number of significant digits with which a decimal number is written."""
    places, value = _places(tree), abs(rational(exact(tree, Algebra())) or Fraction(0))
    return len(str(int(value * Fraction(10) ** (places or 0))))


def _terminates(tree: Tree, value: Fraction) -> bool:
    """Tells whether the gold is an exact decimal of at most six places, which a prediction must not round."""
    return rational(exact(tree, Algebra())) is not None and (value * 10**6).denominator == 1


def _forgotten_percent(p: Tree, g: Tree, a: Fraction, b: Fraction) -> bool:
    """Tells whether the prediction is a percentage without its sign: 3.04 for 0.0304.

    It must be exactly 100 times the gold, and both must show at least three significant digits.
    """
    return Fraction(1, 1000) < b < 1 and a == 100 * b and min(_digits(p), _digits(g)) >= SIGNIFICANT


def _symbolic(p: Tree, g: Tree, prove: Prove) -> bool:
    """Tells whether two expressions are equal for positive symbols, apart from the rounding of the gold's decimals."""
    pairs = [(approximate(p, point), approximate(g, point)) for point in range(2)]
    if not all(cmath.isfinite(a) and cmath.isfinite(b) for a, b in pairs):
        return False
    if all(close(a, b, 1e-9) for a, b in pairs):
        return prove(p, g)
    slack = [sum(abs(approximate(t, point) - b) for t in _perturbed(g)) for point, (_, b) in enumerate(pairs)]
    return all(abs(a - b) < s and abs(a - b) <= RELATIVE * abs(b) for (a, b), s in zip(pairs, slack))


def _perturbed(tree: Tree) -> list[Tree]:
    """One tree for each decimal with enough digits. In it, this decimal is larger by one unit in its last place."""
    if tree[0] == "num":
        if tree[2] is None or _digits(tree) < SIGNIFICANT:
            return []
        return [("num", tree[1] + Fraction(10) ** -tree[2], tree[2])]
    changed = []
    for i, part in enumerate(tree):
        if isinstance(part, tuple) and part:
            inner = _perturbed(part) if isinstance(part[0], str) else _perturbed_items(part)
            changed += [(*tree[:i], new, *tree[i + 1 :]) for new in inner]
    return changed


def _perturbed_items(items: tuple[Tree, ...]) -> list[tuple]:
    return [(*items[:i], new, *items[i + 1 :]) for i, item in enumerate(items) for new in _perturbed(item)]
