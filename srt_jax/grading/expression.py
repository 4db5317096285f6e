"""Evaluates expression trees (parse.py) exactly to normal forms (algebra.py), or approximately to complex numbers."""

import cmath
import math
import zlib
from collections.abc import Callable
from fractions import Fraction

from srt_jax.grading.algebra import MAX_BITS, Algebra, Sum, atom, factor, number, rational, render
from srt_jax.grading.latex import NotMathError
from srt_jax.grading.parse import Tree

LONG = 12  # decimal places
LARGE = 1e150  # larger values overflow in comparisons
NAN = complex(math.nan, math.nan)
# sin at multiples of pi/12 in the first quadrant, as {monomial: coefficient}.
_R2, _R3, _R6 = ((("#2", Fraction(1, 2)),), (("#3", Fraction(1, 2)),), (("#2", Fraction(1, 2)), ("#3", Fraction(1, 2))))
_SINES: list[Sum] = [
    {},
    {_R6: Fraction(1, 4), _R2: Fraction(-1, 4)},
    {(): Fraction(1, 2)},
    {_R2: Fraction(1, 2)},
    {_R3: Fraction(1, 2)},
    {_R6: Fraction(1, 4), _R2: Fraction(1, 4)},
    {(): Fraction(1)},
]


def exact(tree: Tree, algebra: Algebra) -> Sum:
    """The normal form of an expression.

    Raises NotMathError for structures, for undefined values and for expressions that exceed a bound on work.
    """
    algebra.spend(1)
    kind, content = tree[0], tree[1]
    if kind in ("add", "mul"):
        total = number(0 if kind == "add" else 1)
        combine = algebra.add if kind == "add" else algebra.mul
        for term in content:
            total = combine(total, exact(term, algebra))
        return total
    if kind in ("div", "pow"):
        a, b = exact(content, algebra), exact(tree[2], algebra)
        return divide(a, b, algebra) if kind == "div" else algebra.power(a, b)
    if kind == "fn":
        return function(content, [exact(a, algebra) for a in tree[2]], algebra)
    if kind == "num":
        return number(content if tree[2] is None else decimal(content, tree[2]))
    if kind not in ("sym", "const") or content == "inf":
        raise NotMathError(f"{kind} inside an expression")
    return atom(content if kind == "sym" else "@" + content)


def decimal(value: Fraction, places: int) -> Fraction:
    """The value of a decimal. A long one that rounds a simple fraction is that fraction: 0.142857142857 is 1/7.

    A chance agreement is very unlikely with twelve places and a denominator up to 1000: about three in ten million.
    """
    if places < LONG:
        return value
    simple = value.limit_denominator(1000)
    return simple if abs(simple - value) * 2 <= Fraction(10) ** -places else value


def divide(a: Sum, b: Sum, algebra: Algebra) -> Sum:
    if len(a) == len(b) > 1 and a.keys() == b.keys():
        ratio = next(iter(a.values())) / b[next(iter(a))]
        if algebra.scale(b, ratio) == a:
            return number(ratio)
    return algebra.mul(a, algebra.power(b, number(-1)))


def function(name: str, args: list[Sum], algebra: Algebra) -> Sum:
    if name in _UNARY and len(args) == 1:
        return _UNARY[name](args[0], algebra)
    values = [rational(a) for a in args]
    if name in _RATIONAL and None not in values and (known := _known(name, values)) is not None:
        return number(known)
    if name == "abs" and len(args) == 1:
        return absolute(args[0], algebra)
    return atom(f"{name}({';'.join(render(a) for a in args)})")


def _known(name: str, values: list[Fraction]) -> Fraction | None:
    try:
        return _RATIONAL[name](*values)
    except TypeError:  # a wrong number of arguments
        return None


def _whole(compute, largest: int):
    """`compute` for integers from 0 to `largest`. For other values it returns None, and the call remains an atom."""

    def bounded(*values: Fraction) -> Fraction | None:
        inside = all(v.denominator == 1 and 0 <= v <= largest for v in values)
        return Fraction(compute(*map(int, values))) if inside else None

    return bounded


# Functions of rational numbers with rational values.
_RATIONAL = {
    "abs": abs,
    "floor": lambda v: Fraction(math.floor(v)),
    "ceil": lambda v: Fraction(math.ceil(v)),
    "max": lambda *v: max(v),
    "min": lambda *v: min(v),
    "gcd": _whole(math.gcd, 2**MAX_BITS),
    "lcm": _whole(math.lcm, 2**MAX_BITS),
    "factorial": _whole(math.factorial, 400),
    "binom": _whole(math.comb, 1000),
    "perm": _whole(math.perm, 1000),
    "mod": lambda a, b: a % b if b else None,
    "sgn": lambda v: Fraction((v > 0) - (v < 0)),
}


def absolute(a: Sum, algebra: Algebra) -> Sum:
    """|a|: exact for complex numbers made of square roots and for real constants. Otherwise |a| and |-a| are equal."""
    names = {name for m in a for name, _ in m}
    if "@i" in names and all(n == "@i" or (n[0] == "#" and n[1:].isdecimal()) for n in names):
        conjugate = {m: -c if ("@i", 1) in m else c for m, c in a.items()}
        return algebra.power(algebra.mul(a, conjugate), number(Fraction(1, 2)))
    if len(a) == 1 and all(n[0] == "#" or n in ("@pi", "@e") for n in names):
        return {m: abs(c) for m, c in a.items()}
    content, primitive = algebra.primitive(a, signed=True)
    return algebra.scale(atom(f"abs({render(primitive)})"), abs(content))


def logarithm(a: Sum, algebra: Algebra) -> Sum:
    """ln a. The logarithm of a positive constant is expanded: ln 8 = 3 ln 2, ln e^2 = 2."""
    if not a:
        raise NotMathError("the logarithm of zero")
    monomial, c = next(iter(a.items()))
    if len(a) > 1 or c < 0 or not all(n == "@e" or (n[0] == "#" and n[1:].isdecimal()) for n, _ in monomial):
        return atom(f"ln({render(a)})")
    total: Sum = {}
    parts = [(p, Fraction(k)) for p, k in factor(c.numerator)] + [(p, Fraction(-k)) for p, k in factor(c.denominator)]
    for name, exponent in monomial:
        if name == "@e":
            total = algebra.add(total, number(exponent))
        else:
            parts.append((int(name[1:]), exponent))
    for prime, exponent in parts:
        if prime > 1:
            total = algebra.add(total, algebra.scale(atom(f"ln({prime})"), exponent))
    return total


def circular(name: str, a: Sum, algebra: Algebra) -> Sum:
    """sin and cos. Multiples of pi/12 have exact values. For other arguments sin(-x) = -sin(x) and cos(-x) = cos(x)."""
    pi = ((("@pi", Fraction(1)),)) in a
    turns = a[(("@pi", Fraction(1)),)] if pi and len(a) == 1 else Fraction(0)
    if not a or (len(a) == 1 and pi and (turns * 12).denominator == 1):
        step = int(turns * 12 + (6 if name == "cos" else 0)) % 24
        sign, step = (-1, step - 12) if step >= 12 else (1, step)
        return algebra.scale(_SINES[12 - step if step > 6 else step], Fraction(sign))
    if a[min(a)] < 0:
        flipped = atom(f"{name}({render(algebra.scale(a, Fraction(-1)))})")
        return algebra.scale(flipped, Fraction(-1)) if name == "sin" else flipped
    return atom(f"{name}({render(a)})")


def _quotient(top: str | None, bottom: str):
    def divided(a: Sum, algebra: Algebra) -> Sum:
        return divide(circular(top, a, algebra) if top else number(1), circular(bottom, a, algebra), algebra)

    return divided


_UNARY = {
    "sin": lambda a, algebra: circular("sin", a, algebra),
    "cos": lambda a, algebra: circular("cos", a, algebra),
    "tan": _quotient("sin", "cos"),
    "cot": _quotient("cos", "sin"),
    "sec": _quotient(None, "cos"),
    "csc": _quotient(None, "sin"),
    "exp": lambda a, algebra: algebra.power(atom("@e"), a),
    "ln": logarithm,
    "log": lambda a, algebra: divide(logarithm(a, algebra), atom("@log"), algebra),  # the base is unknown
    "lg": lambda a, algebra: divide(logarithm(a, algebra), logarithm(number(10), algebra), algebra),
}


def is_complete(a: Sum) -> bool:
    """Tells whether a different normal form surely means a different value.

    True for numbers made of radicals, i and pi, and for polynomials.
    """
    for monomial in a:
        for name, exponent in monomial:
            plain = name[0] == "#" and name[1:].isdecimal() and int(name[1:]) < 10**6
            if not (plain or name in ("@i", "@pi") or (exponent.denominator == 1 and name.replace("_", "").isalnum())):
                return False
    return True


# --- approximate values -----------------------------------------------------------------------------------------------
POINTS = 3  # at the third point some symbols have negative values


def fingerprint(tree: Tree) -> tuple[complex, ...]:
    """Values of the expression at `POINTS` fixed assignments of its symbols. NaN means that it has no value there."""
    return tuple(approximate(tree, point) for point in range(POINTS))


def close(a: complex, b: complex, relative: float = 1e-7) -> bool:
    """Tells whether two approximate values may be one exact value. NaN is unknown and may equal everything."""
    if cmath.isnan(a) or cmath.isnan(b):
        return True
    return a == b or abs(a - b) <= relative * max(abs(a), abs(b), 1e-9)


def approximate(tree: Tree, point: int) -> complex:
    try:
        value = _approximate(tree, point)
    except (ArithmeticError, ValueError, TypeError, LookupError):  # overflow, 0/0, outside a domain, wrong arguments
        return NAN
    return value if abs(value.real) < LARGE and abs(value.imag) < LARGE else NAN  # NaN and infinities compare False


def _approximate(tree: Tree, point: int) -> complex:
    kind, content = tree[0], tree[1]
    if kind == "num":
        return complex(float(content))
    if kind == "sym":
        return _assigned(content, point)
    if kind == "const":
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "inf": complex(math.inf)}[content]
    if kind in ("add", "mul"):
        values = [_approximate(t, point) for t in content]
        return sum(values, 0j) if kind == "add" else math.prod(values, start=complex(1))
    if kind in ("div", "pow"):
        a, b = _real(_approximate(content, point)), _real(_approximate(tree[2], point))
        return a / b if kind == "div" else _power(a, b)
    return _call(content, [_real(_approximate(a, point)) for a in tree[2]])


def _assigned(symbol: str, point: int) -> complex:
    """The value of a symbol at a point, between 0.4 and 2.4. At the last point half of the symbols are negative."""
    seed = zlib.crc32(f"{symbol}/{point}".encode("utf-8", "replace"))
    value = 0.4 + 2 * seed / 2**32
    return complex(-value if point == POINTS - 1 and seed % 2 else value)


def _real(value: complex) -> complex:
    """The value without an imaginary part that is only rounding noise.

    Roots and logarithms are discontinuous at the negative axis, so the noise would change their value.
    """
    return complex(value.real) if abs(value.imag) <= 1e-13 * abs(value.real) else value


def _power(base: complex, exponent: complex) -> complex:
    if base.imag == 0 and base.real < 0 and exponent.imag == 0 and not exponent.real.is_integer():
        ratio = Fraction(exponent.real).limit_denominator(1000)
        if ratio.denominator % 2 and abs(float(ratio) - exponent.real) < 1e-12:  # an odd root is real
            return complex((-1) ** (ratio.numerator % 2) * (-base.real) ** exponent.real)
    return base**exponent


def _call(name: str, args: list[complex]) -> complex:
    x = args[0]
    if name in _COMPLEX and len(args) == 1:
        return _COMPLEX[name](x)
    if any(a.imag for a in args):
        raise ValueError(name)
    if name not in _REAL:
        raise ValueError(name)
    return complex(_REAL[name](*(a.real for a in args)))


def _binomial(n: float, k: float) -> float:
    return math.gamma(n + 1) / math.gamma(k + 1) / math.gamma(n - k + 1)


_REAL: dict[str, Callable] = {
    "max": lambda *values: max(values), "min": lambda *values: min(values), "floor": math.floor, "ceil": math.ceil,
    "factorial": lambda x: math.gamma(x + 1), "binom": _binomial,
    "perm": lambda n, k: math.gamma(n + 1) / math.gamma(n - k + 1), "mod": lambda a, b: a % b, "erf": math.erf,
    "sgn": lambda x: (x > 0) - (x < 0),
}  # fmt: skip
_COMPLEX = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
    "exp": cmath.exp, "ln": cmath.log, "abs": lambda x: complex(abs(x)), "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x), "arcsinh": cmath.asinh, "arccosh": cmath.acosh, "arctanh": cmath.atanh,
    "Re": lambda x: complex(x.real), "Im": lambda x: complex(x.imag),
    "lg": cmath.log10, "log": lambda x: cmath.log(x) / 1.7320508,  # an arbitrary base, since the base is unknown
}  # fmt: skip
