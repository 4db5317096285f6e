"""Problems that are in two sets: a set that shares problems with the training data cannot judge the training."""

from collections.abc import Sequence

from srt_jax.data.base import Problem


def overlap(train: Sequence[Problem], test: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """(problem of `test`, the same problem of `train`) for every problem of `test` whose text is in `train`, in order.

    Texts must be equal except for the amount of white space. A reworded problem is not found.
    """
    known = {_spaced(problem.prompt): problem for problem in reversed(train)}
    return [(problem, known[text]) for problem in test if (text := _spaced(problem.prompt)) in known]


def report(name: str, train: Sequence[Problem], test: Sequence[Problem]) -> str:
    """`math500: 4 of 500 problems stand in the training data too (ids ...)`."""
    pairs = overlap(train, test)
    ids = ", ".join(problem.id for problem, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    shared = f"{len(pairs)} of {len(test)} problems stand in the training data too (ids {ids})"
    return f"{name}: {shared if pairs else f'none of {len(test)} problems stands in the training data'}"


def _spaced(text: str) -> str:
    return " ".join(text.split())
