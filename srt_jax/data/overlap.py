"""Finds problems that are in two sets. A test set must not share problems with the training data."""

from collections.abc import Sequence

from srt_jax.data.base import Problem


def overlap(train: Sequence[Problem], test: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """(problem of `test`, the same problem of `train`) for each problem of `test` that is also in `train`, in order.

    Two problems are the same if their texts differ only in the amount of white space. Reworded problems are not found.
    """
    known = {_spaced(problem.prompt): problem for problem in reversed(train)}
    return [(problem, known[text]) for problem in test if (text := _spaced(problem.prompt)) in known]


def report(name: str, train: Sequence[Problem], test: Sequence[Problem]) -> str:
    """A line such as `math500: 4 of 500 problems are in the training data too (ids ...)`."""
    pairs = overlap(train, test)
    ids = ", ".join(problem.id for problem, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
    shared = f"{len(pairs)} of {len(test)} problems are in the training data too (ids {ids})"
    return f"{name}: {shared if pairs else f'none of {len(test)} problems is in the training data'}"


def _spaced(text: str) -> str:
    return " ".join(text.split())
