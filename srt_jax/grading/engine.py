"""math-verify, the grader of several papers' released code, as another engine. For isolated worker processes only.

It evaluates text (sympy's `parse_expr`), so it runs where it can do no harm: in a process without a network, with
limits on memory and CPU time, which is killed from outside when a comparison takes too long. Its own time-outs, which
rest on signals, are off.
"""

from functools import lru_cache

import math_verify


@lru_cache(maxsize=512)
def _parsed(answer: str, gold: bool) -> tuple:
    """As verl's scorer does it: the gold as LaTeX in a box, the prediction as LaTeX or a plain expression."""
    latex, plain = math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()
    targets = (latex,) if gold else (plain, latex)
    return tuple(math_verify.parse(f"\\boxed{{{answer}}}", targets, parsing_timeout=None))


def right(prediction: str, gold: str) -> bool:
    """Does math-verify take the prediction for right?"""
    wanted, given = _parsed(gold, True), _parsed(prediction, False)
    return bool(wanted) and bool(math_verify.verify(list(wanted), list(given), timeout_seconds=None))
