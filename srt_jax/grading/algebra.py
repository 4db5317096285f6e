"""Exact arithmetic on expressions, in pure Python with bounded work. Equal normal forms mean equal values.

An expression becomes a sum of terms `coefficient * product of atom^exponent`. The sum is a dict {monomial: Fraction},
and a monomial is a sorted tuple of (atom, Fraction exponent). Atoms are strings:
    "x"  a symbol       "#2"  a prime, with an exponent in (0, 1): a radical       "@pi", "@e", "@i", "@log"
    "b^[m]"  the power of base b to monomial m       "(p)"  a sum that is not expanded       "name(p)"  a function
The form is complete (different strings mean different values) for rational numbers, radicals of integers, i, pi and
polynomials in them. Other values may have several normal forms. `symbolic.py` then decides whether two are equal.
"""

from fractions import Fraction
from functools import lru_cache
from math import comb, gcd, isqrt

from srt_jax.grading.latex import NotMathError

MAX_WORK = 2_000  # steps of arithmetic for one answer
MAX_BITS = 4096  # bits of any numerator or denominator
MAX_TERMS = 400
SMALL_PRIMES = [p for p in range(2, 1000) if all(p % q for q in range(2, isqrt(p) + 1))]

Monomial = tuple[tuple[str, Fraction], ...]
Sum = dict[Monomial, Fraction]
HALF = Fraction(1, 2)


class TooMuchWorkError(NotMathError):
    """The expression exceeds a bound on terms, digits or steps. The answer is then compared as text."""


def number(value: Fraction | int) -> Sum:
    value = Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooMuchWorkError("a number too long")
    return {(): value} if value else {}


def atom(name: str, exponent: Fraction | int = 1) -> Sum:
    return {((name, Fraction(exponent)),): Fraction(1)}


def rational(a: Sum) -> Fraction | None:
    """The value of a constant rational sum, else None."""
    if not a:
        return Fraction(0)
    return a[()] if len(a) == 1 and () in a else None


def render(a: Sum) -> str:
    """The normal form as a string, readable and unique."""
    return "+".join(_term(m, a[m]) for m in sorted(a)) or "0"


def _term(monomial: Monomial, coefficient: Fraction) -> str:
    factors = [name if e == 1 else f"{name}^{e}" for name, e in monomial]
    return "*".join(([str(coefficient)] if coefficient != 1 or not factors else []) + factors)


@lru_cache(maxsize=4096)
def factor(n: int) -> tuple[tuple[int, int], ...]:
    """(prime, exponent) pairs of a positive integer.

    Only primes below 1000 are divided out. The rest counts as a prime, or as the square of one.
    """
    found = []
    for prime in SMALL_PRIMES:
        if prime * prime > n:
            break
        count = 0
        while n % prime == 0:
            n //= prime
            count += 1
        if count:
            found.append((prime, count))
    if n > 1:
        root = isqrt(n)
        found.append((root, 2) if root * root == n else (n, 1))
    return tuple(found)


class Algebra:
    """Arithmetic for one answer: it counts the work and stores the sums of composite atoms."""

    def __init__(self) -> None:
        self.work = 0
        self.sums: dict[str, Sum] = {}

    def spend(self, amount: int) -> None:
        self.work += amount
        if self.work > MAX_WORK:
            raise TooMuchWorkError("too many steps")

    # --- sums and products --------------------------------------------------------------------------------------------
    def add(self, a: Sum, b: Sum) -> Sum:
        out = dict(a)
        self.accumulate(out, b)
        return out

    def accumulate(self, out: Sum, b: Sum) -> None:
        """out += b, in place."""
        self.spend(len(b))
        for monomial, coefficient in b.items():
            total = out.get(monomial, 0) + coefficient
            if total:
                out[monomial] = total
            else:
                out.pop(monomial, None)
        if len(out) > MAX_TERMS:
            raise TooMuchWorkError("too many terms")

    def scale(self, a: Sum, by: Fraction) -> Sum:
        return {m: c * by for m, c in a.items()} if by else {}

    def mul(self, a: Sum, b: Sum) -> Sum:
        out: Sum = {}
        for m, c in a.items():
            for n, d in b.items():
                product = number(c * d)[()]
                if not m or not n:
                    part = {m or n: product}
                else:
                    part = self.scale(self.monomial(m, n), product)
                self.accumulate(out, part)
        return out

    def monomial(self, m: Monomial, n: Monomial) -> Sum:
        exponents = dict(m)
        for name, exponent in n:
            exponents[name] = exponents.get(name, Fraction(0)) + exponent
        return self.collect(exponents)

    def collect(self, exponents: dict[str, Fraction]) -> Sum:
        """The product of all atom^exponent. Whole powers of primes, of i and of composite sums are multiplied out."""
        coefficient, factors, expand = Fraction(1), [], []
        for name in sorted(exponents):
            exponent = exponents[name]
            whole = exponent.numerator // exponent.denominator
            rest = exponent
            if name[0] == "#" and name[1:].isdecimal():
                prime = int(name[1:])
                if abs(whole) * prime.bit_length() <= MAX_BITS:
                    coefficient *= Fraction(prime) ** whole
                    rest -= whole
            elif name == "@i" and exponent.denominator == 1:
                coefficient *= -1 if whole % 4 >= 2 else 1
                rest = Fraction(whole % 2)
            elif name == "@e^[@i*@pi]" and exponent.denominator <= 2:  # e^(i pi) = -1
                expand.append(self.collect({"@i": exponent % 2 * 2}))
                rest = Fraction(0)
            elif name in self.sums and exponent >= 1:
                expand.append(self.integer_power(self.sums[name], whole))
                rest -= whole
            if rest:
                factors.append((name, rest))
        result = {tuple(factors): number(coefficient).get((), Fraction(0))}
        for extra in expand:
            result = self.mul(result, extra)
        return result

    # --- powers -------------------------------------------------------------------------------------------------------
    def integer_power(self, a: Sum, n: int) -> Sum:
        if len(a) > 1 and comb(len(a) + n - 1, n) > MAX_TERMS:
            return self.composite(a, Fraction(n))
        result = number(1)
        for bit in bin(n)[2:]:
            result = self.mul(result, result)
            if bit == "1":
                result = self.mul(result, a)
        return result

    def power(self, base: Sum, exponent: Sum) -> Sum:
        r = rational(exponent)
        if r is None:
            return self.symbolic_power(base, exponent)
        if max(r.numerator.bit_length(), r.denominator.bit_length()) > MAX_BITS // 2:
            raise TooMuchWorkError("an exponent too long")
        if r == 0:
            return number(1)
        if not base:
            if r < 0:
                raise NotMathError("division by zero")
            return {}
        return self.term_power(*next(iter(base.items())), r) if len(base) == 1 else self.sum_power(base, r)

    def term_power(self, monomial: Monomial, coefficient: Fraction, r: Fraction) -> Sum:
        """(coefficient * monomial)^r. Only positive constants are taken out of a root. Odd roots are real."""
        if r.denominator == 1:
            powers = {name: e * r for name, e in monomial}
            return self.mul(self.rational_power(coefficient, r), self.collect(powers))
        outside = {name: e * r for name, e in monomial if name == "@pi" or (name[0] == "#" and "@i" not in name)}
        inside = tuple((name, e) for name, e in monomial if name not in outside)
        sign = Fraction(1) if coefficient > 0 else Fraction(-1)
        result = self.mul(self.rational_power(abs(coefficient), r), self.collect(outside))
        if not inside:
            return self.mul(result, self.root_of_sign(sign, r))
        name, exponent = inside[0]
        if sign > 0 and len(inside) == 1 and exponent == 1 and "@i" not in name and name not in self.sums:
            return self.mul(result, self.collect({name: r}))
        return self.mul(result, self.composite({inside: sign}, r))

    def root_of_sign(self, sign: Fraction, r: Fraction) -> Sum:
        if sign > 0:
            return number(1)
        if r.denominator % 2:
            return number((-1) ** (r.numerator % 2))
        return self.collect({"@i": r * 2}) if r.denominator == 2 else self.composite(number(-1), r)

    def rational_power(self, c: Fraction, r: Fraction) -> Sum:
        """c^r for a rational c, positive unless r is an integer."""
        sign = -1 if c < 0 and r.numerator % 2 else 1
        c = abs(c)
        bits = max(c.numerator.bit_length(), c.denominator.bit_length())
        if r.denominator == 1 and abs(r) * bits <= MAX_BITS:
            return number(sign * c**r.numerator)
        exponents = {f"#{p}": k * r for p, k in factor(c.numerator) if p > 1}
        exponents |= {f"#{p}": -k * r for p, k in factor(c.denominator) if p > 1}
        return self.scale(self.collect(exponents), Fraction(sign))

    def sum_power(self, base: Sum, r: Fraction) -> Sum:
        if r.denominator == 1 and r > 0:
            return self.integer_power(base, r.numerator)
        if r.denominator == 1 and (inverse := self.invert(base)) is not None:
            return self.integer_power(inverse, -r.numerator)
        content, primitive = self.primitive(base, signed=r.denominator == 1)
        return self.mul(self.rational_power(content, r), self.composite(primitive, r))

    def primitive(self, a: Sum, signed: bool) -> tuple[Fraction, Sum]:
        """(content, a / content). The coefficients of a / content are integers without a common factor.

        signed: whether the first coefficient is made positive.
        """
        top, bottom = 0, 1
        for c in a.values():
            top, bottom = gcd(top, c.numerator), bottom * c.denominator // gcd(bottom, c.denominator)
        content = Fraction(top, bottom)
        if signed and a[min(a)] < 0:
            content = -content
        return content, self.scale(a, 1 / content)

    def composite(self, base: Sum, r: Fraction) -> Sum:
        """base^r as an atom. The whole part of a fractional r is multiplied out if the result is small."""
        name = f"({render(base)})"
        self.spend(len(name) // 8)
        whole = r.numerator // r.denominator
        if r.denominator > 1 and whole > 0 and comb(len(base) + whole - 1, whole) <= MAX_TERMS:
            self.sums[name] = base
            return self.mul(self.integer_power(base, whole), atom(name, r - whole))
        if comb(len(base) + max(whole, 1) - 1, max(whole, 1)) <= MAX_TERMS:
            self.sums[name] = base
        return atom(name, r)

    def invert(self, a: Sum) -> Sum | None:
        """1 / a with a rational denominator, for numbers made of square roots and i. None for other sums."""
        numerator = number(1)
        for _ in range(6):
            if len(a) == 1:
                return self.mul(numerator, self.term_power(*next(iter(a.items())), Fraction(-1)))
            surds = {name for m in a for name, e in m if e in (HALF, 1)}
            if any((name[0] != "#" or e != HALF) and (name, e) != ("@i", 1) for m in a for name, e in m) or not a:
                return None
            surd = max(surds)
            conjugate = {m: -c if any(name == surd for name, _ in m) else c for m, c in a.items()}
            numerator, a = self.mul(numerator, conjugate), self.mul(a, conjugate)
        return None

    def symbolic_power(self, base: Sum, exponent: Sum) -> Sum:
        """base^exponent with a symbolic exponent.

        A positive integer is split into primes. A prime or a single atom gets one power for each term of the exponent.
        """
        r = rational(base)
        if r is not None and r > 0 and r.denominator == 1:
            bases = [(f"#{p}", Fraction(k)) for p, k in factor(r.numerator)]
        elif len(base) == 1 and next(iter(base.values())) == 1 and len(m := next(iter(base))) == 1 and m[0][1] == 1:
            bases = [(m[0][0], Fraction(1))]
        else:
            return atom(f"({render(base)})^({render(exponent)})")
        exponents: dict[str, Fraction] = {}
        for name, k in bases:
            for monomial, c in exponent.items():
                key = name if not monomial else f"{name}^[{_term(monomial, Fraction(1))}]"
                exponents[key] = exponents.get(key, Fraction(0)) + c * k
        return self.collect(exponents)
