"""math-verify, the grader in several papers' released code, as a second engine. For isolated worker processes only.

math-verify evaluates text (sympy's `parse_expr`). Therefore it runs in a process without network access, with limits on
memory and CPU time. The parent kills the process if a comparison takes too long. math-verify's own time-outs, which use
signals, are off.
"""

from functools import lru_cache

import math_verify


@lru_cache(maxsize=512)
def _parsed(answer: str, gold: bool) -> tuple:
    """Parses like verl's scorer. Both are put into a box. The gold is LaTeX; the prediction may also be plain text."""
    latex, plain = math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()
    targets = (latex,) if gold else (plain, latex)
    return tuple(math_verify.parse(f"\\boxed{{{answer}}}", targets, parsing_timeout=None))


def right(prediction: str, gold: str) -> bool:
    """Tells whether the prediction is right according to math-verify."""
    wanted, given = _parsed(gold, True), _parsed(prediction, False)
    return bool(wanted) and bool(math_verify.verify(list(wanted), list(given), timeout_seconds=None))
