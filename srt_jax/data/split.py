"""Random choices of problems. They depend only on (seed, purpose, id), not on the order or number of problems."""

import hashlib
from collections.abc import Sequence

from srt_jax.data.base import Problem
from srt_jax.errors import DataError


def uniform(seed: int, purpose: str, id: str) -> float:
    """A random number in [0, 1) for the problem with this id."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def split_validation(problems: Sequence[Problem], fraction: float, seed: int) -> tuple[list[Problem], list[Problem]]:
    """(training, validation), both in the given order. `fraction` of the problems, but at least one, is held out.

    Validation problems have a known answer or a scorer. The choice depends on (seed, id). Raises DataError if there are
    too few such problems.
    """
    wanted = max(1, round(fraction * len(problems)))
    known = [p for p in problems if p.answer is not None or p.metadata is not None]
    if len(known) < wanted or wanted >= len(problems):
        raise DataError(
            f"stop.validation_fraction is {fraction}: of {len(problems)} problems, {len(known)} with an "
            f"answer, it holds out {wanted}; change it, or give more problems with answers."
        )
    held = {p.id for p in sorted(known, key=lambda p: (uniform(seed, "validation", p.id), p.id))[:wanted]}
    return [p for p in problems if p.id not in held], [p for p in problems if p.id in held]
