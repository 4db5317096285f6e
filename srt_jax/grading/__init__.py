r"""Finds the answer in a response, groups equal answers, and compares an answer with the known one.

    extract(r"... so \boxed{\frac12}").text                # "\frac12"
    equivalent("0.5", r"\frac12")                          # True: an exact equivalence relation, for votes
    verify("50\\%", "0.5")                                  # True: directed and tolerant, for known answers
    groups(["1/2", "3", "0.5", None])                       # [0, 1, 0, -1]

These functions share one `Grader` with one worker process. Make your own `Grader` to set the number of workers and the
limits, to cache proofs in a file and to read the counters. This package imports no other package of the project.
Outside of worker processes it imports only the standard library. docs/grading.md lists the rules.
"""

from collections.abc import Sequence
from functools import lru_cache

from srt_jax.grading.answers import STYLES, Answer, Format, extract
from srt_jax.grading.canonical import canonical
from srt_jax.grading.grader import Grader

__all__ = ["STYLES", "Answer", "Format", "Grader", "canonical", "equivalent", "extract", "groups", "verify"]


@lru_cache(maxsize=1)
def _shared() -> Grader:
    return Grader(workers=1)


def equivalent(a: str | None, b: str | None) -> bool:
    """Tells whether two answers count as equal in a vote. False if one of them cannot be parsed."""
    return _shared().same([a], [b])[0]


def verify(prediction: str | None, gold: str) -> bool:
    """Tells whether a prediction agrees with the known answer `gold`, within the tolerances of docs/grading.md."""
    return _shared().grade([prediction], [gold])[0]


def groups(answers: Sequence[str | None]) -> list[int]:
    """The group number of each answer to one problem. Groups are numbered by first appearance.

    An answer that cannot be parsed gets -1.
    """
    return _shared().groups([answers])[0]
