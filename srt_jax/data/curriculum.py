"""Steps with a share of hard problems that changes during the run, as a pure function of (seed, step)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from srt_jax.data import label_file
from srt_jax.data.base import Problem
from srt_jax.data.batching import keep_apart, permutation
from srt_jax.errors import DataError
from srt_jax.files import shown


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Steps that mix easy and hard problems.

    easy, hard: indices of problems, int64. The share of hard problems in a step changes linearly from hard_start to
    hard_end over `steps` steps.
    """

    easy: np.ndarray
    hard: np.ndarray
    hard_start: float
    hard_end: float
    steps: int
    prompts_per_step: int
    seed: int

    @classmethod
    def of(cls, config, problems: Sequence[Problem]) -> "Curriculum":
        """The curriculum of config.curriculum. The scores come from the label file curriculum.path.

        Raises DataError if a problem has no score, or if a step needs more easy or hard problems than there are.
        """
        c = config.curriculum
        easy, hard = pools(problems, label_file.easiest_first(c.path, c.by), c.easy_fraction, c.path)
        out = cls(easy, hard, c.hard_start, c.hard_end, c.steps, config.batch.prompts_per_step, config.seed)
        for name, pool, largest in (
            ("easy", easy, 1 - min(c.hard_start, c.hard_end)),
            ("hard", hard, max(c.hard_start, c.hard_end)),
        ):
            wanted = round_half_up(largest * out.prompts_per_step)
            if wanted > len(pool):
                raise DataError(
                    f"the curriculum wants {wanted} {name} problems in a step, but there are {len(pool)}: "
                    "change curriculum.easy_fraction, or give more problems."
                )
        return out

    def num_hard(self, step) -> np.ndarray:
        """The number of hard problems in step `step` (from 0). An array of steps gives an array of numbers."""
        progress = np.minimum(1.0, np.asarray(step) / self.steps)
        share = self.hard_start + progress * (self.hard_end - self.hard_start)
        return round_half_up(share * self.prompts_per_step)

    def indices(self, step: int) -> np.ndarray:
        """The problems of step `step` (from 0): int64 [prompts_per_step], easy ones first, no index twice."""
        hard = self.num_hard(np.arange(step + 1))
        return np.concatenate(
            [
                self.easy[_positions(len(self.easy), self.prompts_per_step - hard, self.seed)],
                self.hard[_positions(len(self.hard), hard, self.seed)],
            ]
        )


def pools(problems: Sequence[Problem], easiest_first: Sequence[str], easy_fraction: float, path):
    """(easy, hard) indices of the problems, in the given order. Raises DataError if a problem has no score."""
    position = {problem.id: i for i, problem in enumerate(problems)}
    ranked = [position[id] for id in easiest_first if id in position]
    if len(ranked) < len(problems):
        scored = set(easiest_first)
        without = next(problem.id for problem in problems if problem.id not in scored)
        raise DataError(
            f"{len(problems) - len(ranked)} of {len(problems)} problems have no row in {path}, e.g. "
            f"{shown(without)}: label this data with srt label."
        )
    cut = round_half_up(easy_fraction * len(ranked))
    return np.sort(np.array(ranked[:cut], np.int64)), np.sort(np.array(ranked[cut:], np.int64))


def round_half_up(x):
    """A number, or each number of an array, rounded to the nearest integer. Halves are rounded up."""
    return np.floor(np.asarray(x) + 0.5).astype(np.int64)[()]


def _positions(num_problems: int, counts: np.ndarray, seed: int) -> np.ndarray:
    """The positions in a pool of the problems that the last step takes. Step i takes counts[i] problems.

    Each epoch visits all problems of the pool, and the next begins where it ends. If a step contains the end of one
    epoch and the start of the next, the next is changed so that no problem is in the step twice. Later epochs depend on
    this change. Therefore all epochs are computed, from the first.
    """
    ends = np.cumsum(counts)
    start, stop = int(ends[-1] - counts[-1]), int(ends[-1])
    found = [np.zeros(0, np.int64)]
    order: np.ndarray = None
    for epoch in range(-(-stop // num_problems) if stop else 0):
        first, before = epoch * num_problems, order
        order = permutation(num_problems, seed, epoch)
        shared = int(np.searchsorted(ends, first, "right"))  # The step with the first problem of this epoch.
        carried = first - int(ends[shared] - counts[shared])
        if carried:
            keep_apart(order, before[num_problems - carried :], int(counts[shared]) - carried)
        found.append(order[max(start - first, 0) : max(stop - first, 0)])
    return np.concatenate(found)
