"""Proofs of equality with sympy. For worker processes only: a computation may never end or may use all memory."""

import sympy
from sympy.core.function import AppliedUndef

MAX_EXPONENT = 10_000  # a number with a larger exponent is not computed
DIGITS = 50  # significant digits of numeric values


class UndecidedError(ValueError):
    """This kind of expression is not passed to sympy."""


def equal(a: tuple, b: tuple, positive: bool) -> bool:
    """Tells whether a = b is proved for all real values of the symbols, or all positive ones if `positive` is set.

    Three results count as a proof: the difference cancels, it simplifies to 0, or it is an algebraic number whose
    minimal polynomial is x. A constant difference whose numeric value is not near 0 is a disproof. If neither is found,
    the result is False, too.
    """
    builder = Builder(positive)
    difference = builder.build(a) - builder.build(b)
    if difference == 0:
        return True
    if not difference.free_symbols and not difference.has(AppliedUndef):
        approximate = sympy.N(difference, DIGITS, maxn=4 * DIGITS)
        if abs(approximate) > sympy.Float(10) ** (5 - DIGITS):
            return False
        if difference.is_algebraic:
            x = sympy.Dummy("x")
            return sympy.minimal_polynomial(difference, x) == x
    for step in (sympy.expand, lambda d: sympy.cancel(sympy.together(d)), sympy.simplify, _trigonometric):
        difference = step(difference)
        if difference == 0:
            return True
    return False


def _trigonometric(difference: sympy.Expr) -> sympy.Expr:
    """Rewrites trigonometric functions as exponentials, so that identities between them become rational identities."""
    if not difference.has(sympy.functions.elementary.trigonometric.TrigonometricFunction):
        return difference
    return sympy.simplify(sympy.expand(difference.rewrite(sympy.exp)))


class Builder:
    """Builds sympy objects from the trees of parse.py. It never evaluates text."""

    def __init__(self, positive: bool):
        self.assumption = {"positive": True} if positive else {"real": True}

    def build(self, tree: tuple) -> sympy.Expr:
        kind, content = tree[0], tree[1]
        if kind == "num":
            return sympy.Rational(content.numerator, content.denominator)
        if kind == "sym":
            return sympy.Symbol("s_" + content, **self.assumption)
        if kind == "const":
            return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[content]
        if kind in ("add", "mul"):
            return (sympy.Add if kind == "add" else sympy.Mul)(*(self.build(t) for t in content))
        if kind in ("div", "pow"):
            a, b = self.build(content), self.build(tree[2])
            return a / b if kind == "div" else self.power(a, b)
        return self.function(content, [self.build(a) for a in tree[2]])

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        if base.is_number and exponent.is_number and not abs(exponent) <= MAX_EXPONENT:
            raise UndecidedError("a power too large")
        if base.is_negative and exponent.is_Rational and exponent.q > 1 and exponent.q % 2:
            return (-1) ** (exponent.p % 2) * (-base) ** exponent  # odd roots are real, as in algebra.py
        return base**exponent

    def function(self, name: str, args: list[sympy.Expr]) -> sympy.Expr:
        if name == "log":
            return sympy.log(args[0]) / sympy.Symbol("log_base", positive=True)
        if name == "lg":
            return sympy.log(args[0]) / sympy.log(10)
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*args)
        return sympy.Function("f_" + name)(*args)


_FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "sinh": sympy.sinh,
    "cosh": sympy.cosh, "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp, "abs": sympy.Abs, "floor": sympy.floor,
    "ceil": sympy.ceiling, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh, "sgn": sympy.sign,
    "mod": sympy.Mod, "erf": sympy.erf, "max": sympy.Max, "min": sympy.Min, "factorial": sympy.factorial,
    "binom": sympy.binomial,
}  # fmt: skip
