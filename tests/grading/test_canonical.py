"""Canonical keys: answers with equal keys, answers with different keys, and soundness."""

import cmath
import os

import pytest
from hostile import PIECES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srt_jax.grading.canonical import canonical
from srt_jax.grading.expression import fingerprint
from srt_jax.grading.grader import may_be_equal
from srt_jax.grading.shape import read
from tests.helpers import fast_cases

EQUAL = [
    [
        "1/2",
        "0.5",
        "\\frac12",
        "\\frac{1}{2}",
        "\\dfrac{1}{2}",
        "\\tfrac 12",
        ".5",
        "0.50",
        "2/4",
        "½",
        "$\\frac{1}{2}$",
        "x = 1/2",
    ],
    [
        "1234",
        "1,234",
        "1{,}234",
        "1,\\!234",
        "1\\,234",
        "1234.0",
        "1.234e3",
        "1.234 \\times 10^3",
        "\\$1234",
        "+1234",
        "1234.",
    ],
    ["7/2", "3.5", "3\\frac12", "3 1/2", "3\\frac{1}{2}", "3½", "350e-2"],
    [
        "10",
        "10 cm",
        "10\\text{ cm}^2",
        "10 \\mathrm{~cm}",
        "10^\\circ",
        "10°",
        "10 degrees",
        "\\text{10}",
        "10 weeks",
        "ten",
    ],
    ["50\\%", "50%", "50 percent", "50 \\text{ percent}"],
    [
        "\\frac{\\sqrt{3}}{3}",
        "\\frac{1}{\\sqrt3}",
        "\\sqrt{1/3}",
        "3^{-1/2}",
        "\\frac{3}{3\\sqrt3}",
        "\\frac{\\sqrt{3}}{3} \\approx 0.577",
    ],
    ["\\frac{4}{1+\\sqrt3}", "2\\sqrt3-2", "-2 + \\sqrt{12}"],
    ["1/3", "0.\\overline{3}", "0.\\bar{3}", "0.333\\ldots", "0.333333333333"],
    ["2\\pi", "\\pi \\cdot 2", "2π", "\\frac{4\\pi}{2}"],
    ["1+2i", "2i+1", "i(2-i)", "1 + 2 i"],
    ["x^2+2x+1", "(x+1)^2", "1+x(x+2)", "(x+1)(1+x)", "y = x^2+2x+1", "f(x)=x^2+2x+1"],
    ["2^{n+1}", "2\\cdot 2^n"],
    ["3\\ln 2", "\\ln 8", "\\ln(8)"],
    ["\\tan x", "\\frac{\\sin x}{\\cos x}"],
    ["1, 2", "2, 1", "\\{1, 2\\}", "{2, 1}", "1 \\text{ and } 2", "x=1 \\text{ or } x=2", "1;2"],
    ["1\\pm\\sqrt2", "1+\\sqrt2, 1-\\sqrt2", "x = 1 \\pm \\sqrt{2}"],
    ["(1,2)", "\\left(1, 2\\right)", "1<x<2", "\\langle 1,2 \\rangle"],
    ["[1,2)", "1 \\le x < 2", "x \\in [1,2)", "2 > x \\ge 1", "\\{x | 1 \\le x < 2\\}"],
    ["x>3", "(3,\\infty)", "3 < x", "(3, +\\infty)"],
    ["(-\\infty,0)\\cup(1,\\infty)", "(1,\\infty) \\cup (-\\infty,0)", "x<0 \\text{ or } x>1"],
    ["\\mathbb{R}", "(-\\infty,\\infty)", "\\text{all real numbers}"],
    ["\\emptyset", "\\varnothing", "\\{\\}"],
    ["x=1, y=2", "y=2, x=1"],
    ["2x+4y=6", "x+2y=3", "3-x-2y=0"],
    ["\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}"],
    ["\\text{(B)}", "B", "(B)", "\\textbf{B}", "\\mathrm{B}", "B."],
    ["\\text{Navin}", "navin", "Navin."],
    ["True", "true", "\\text{True}"],
    ["4343_6", "4343_{6}", "4343_{\\text{six}}"],
    ["5:30 p.m.", "17:30", "5:30 \\text{ PM}", "17:30:00"],
    ["2:4", "1:2"],
    ["5!", "120"],
    ["5\\text{ million}", "5000000"],
]
DIFFERENT = [
    ("50\\%", "50"), ("50\\%", "0.5"), ("1,2", "(1,2)"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"), ("1/3", "0.333"),
    ("1/3", "0.333333"), ("5", "5.0000001"), ("x", "y"), ("x", "-x"), ("\\sqrt{x^2}", "x"), ("2x+1", "2x-1"),
    ("4343_6", "4343"), ("101_2", "5"), ("B", "b"), ("5\\text{ or more}", "5"), ("x\\ne 3", "3"), ("x>3", "x\\ge 3"),
    ("\\log 2", "\\ln 2"), ("\\infty", "-\\infty"), ("\\pi", "3.14159"), ("\\{1,2\\}", "\\{1,2,3\\}"),
    ("1,2,3", "123"), ("1,2,100", "12100"), ("\\infty-\\infty", "0"), ("5:30", "5.5"), ("1:2", "1/2"),
    ("x_1", "x_2"), ("x_{a+y}", "x_a+y"), ("10m", "10"), ("even", "odd"), ("n is even", "n is odd"),
    ("2sinx", "2cosx"), ("I(0)", "0"), ("x=3 y=4", "4"), ("x=z", "y=z"), ("5 hundred", "5"), ("3 halves", "3"),
    ("yes", "no"), ("1 2", "12"), ("1 2", "2"), ("1\x002", "12"), ("\\text{not } 5", "5"), ("f(2)", "2f"),
    ("1/0", "2/0"), ("а", "a"), ("\\frac{1}{2}x", "\\frac{1}{2x}"), ("i", "I"), ("x+y=1", "x-y=1"),
]  # fmt: skip


@pytest.mark.parametrize("answers", EQUAL, ids=lambda answers: answers[0])
def test_equal_answers_have_one_key(answers):
    assert {canonical(a): a for a in answers}.keys() == {canonical(answers[0])}


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_have_different_keys(a, b):
    assert canonical(a) != canonical(b)


def test_no_two_rows_share_a_key():
    keys = [canonical(answers[0]) for answers in EQUAL]
    assert len(set(keys)) == len(keys)


# --- properties -------------------------------------------------------------------------------------------------------
any_text = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.lists(st.sampled_from([*PIECES, "\x00"]), max_size=25).map("".join),
)


def holds_for(check, examples, number):
    """Calls the check with a number of examples."""
    chosen = settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))
    chosen(given(examples)(check))()


def has_an_idempotent_key(text):
    key = canonical(text)
    assert canonical(key) == key
    assert canonical(text) == key


@pytest.mark.parametrize("number", fast_cases([500, int(os.environ.get("SRT_JAX_FUZZ", "5000"))], 500))
def test_any_string_has_an_idempotent_key(number):
    holds_for(has_an_idempotent_key, any_text, number)


def compound(children):
    pair = st.tuples(children, children)
    return st.one_of(
        pair.map(lambda p: f"({p[0]}+{p[1]})"),
        pair.map(lambda p: f"({p[0]}-{p[1]})"),
        pair.map(lambda p: f"({p[0]})({p[1]})"),
        pair.map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
        st.tuples(children, st.sampled_from(["2", "3", "-1", "-2", "1/2", "1/3", "-1/2", "x"])).map(
            lambda p: f"({p[0]})^{{{p[1]}}}"
        ),
        children.map(lambda c: f"\\sqrt{{{c}}}"),
        children.map(lambda c: f"|{c}|"),
        children.map(lambda c: f"\\ln({c})"),
        children.map(lambda c: f"e^{{{c}}}"),
        children.map(lambda c: f"\\cos({c})"),
    )


leaves = st.sampled_from(
    ["0", "1", "2", "3", "12", "\\frac23", "0.25", "x", "y", "i", "e", "\\sqrt{2}", "\\sqrt{6}", "-1"]
)
expressions = st.recursive(leaves, compound, max_leaves=6)


def have_numerically_equal_keys(texts):
    readings = [read(t) for t in texts]
    for a in readings:
        for b in readings:
            if a.shape == b.shape:
                for x, y in zip(a.leaves.values(), b.leaves.values()):
                    assert may_be_equal(fingerprint(x.tree), fingerprint(y.tree)) or near_zero(x.tree)


@pytest.mark.parametrize("number", fast_cases([100, 1_000], 100))
def test_equal_keys_are_numerically_equal(number):
    holds_for(have_numerically_equal_keys, st.lists(expressions, min_size=2, max_size=12), number)


def near_zero(tree) -> bool:
    """Tells whether each value is near 0 or unknown. Such values are not compared: rounding noise has no precision."""
    return all(cmath.isnan(v) or abs(v) <= 1e-6 for v in fingerprint(tree))


@given(st.fractions(), st.fractions())
def test_fractions_and_decimals_are_exact(a, b):
    assert (canonical(str(a)) == canonical(str(b))) == (a == b)
    assert canonical(f"\\frac{{{a.numerator}}}{{{a.denominator}}}") == canonical(str(a))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6, places=5))
def test_decimals_equal_their_fractions(value):
    numerator, denominator = value.as_integer_ratio()
    assert canonical(f"{value:f}") == canonical(f"{numerator}/{denominator}")
    assert canonical(f"{value:f}") == canonical(f"{value:f}00")
