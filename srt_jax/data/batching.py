"""The problems of each step, as a pure function of (seed, step). Resuming needs no data-loader state."""

from functools import lru_cache

import numpy as np

from srt_jax.errors import DataError

_REFILLS = 1 << 63  # Larger than every epoch number. `refill_order` uses permutations with numbers from here on.


def batch_indices(num_problems: int, prompts_per_step: int, seed: int, step: int) -> np.ndarray:
    """Indices into the problem list for step `step` (from 0): int64 [prompts_per_step], no index twice.

    Every epoch visits each problem exactly once, in its own order. No problem is dropped at the end of an epoch: a step
    may contain the end of one epoch and the start of the next. Raises DataError if a step needs more problems than
    there are.
    """
    if not 1 <= prompts_per_step <= num_problems:
        raise DataError(
            f"batch.prompts_per_step is {prompts_per_step} but the data set has {num_problems} problems; "
            f"set it between 1 and {num_problems}, or give more problems."
        )
    epoch, start = divmod(step * prompts_per_step, num_problems)
    now = _epoch_order(num_problems, prompts_per_step, seed, epoch)[start : start + prompts_per_step]
    missing = prompts_per_step - len(now)
    if missing == 0:
        return now.copy()
    after = _epoch_order(num_problems, prompts_per_step, seed, epoch + 1)[:missing]
    return np.concatenate([now, after])


@lru_cache(maxsize=4)
def _epoch_order(num_problems: int, prompts_per_step: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: its permutation, changed so that the step shared with the previous epoch repeats nothing.

    The change depends on the end of the previous epoch, which may have been changed too. So the loop goes back to an
    epoch that starts together with a step; at least one of every `prompts_per_step` epochs does. A change exchanges
    problems only within the first `prompts_per_step` positions. So the end of an epoch with at least two steps never
    changes, and the loop goes back only one epoch.
    """
    first = epoch
    while (first * num_problems) % prompts_per_step and not (first < epoch and num_problems >= 2 * prompts_per_step):
        first -= 1
    order = permutation(num_problems, seed, first)
    for later in range(first + 1, epoch + 1):
        carried = (later * num_problems) % prompts_per_step  # Problems of the epoch before in the shared step.
        last = order[num_problems - carried :]
        order = permutation(num_problems, seed, later)
        if carried:
            keep_apart(order, last, prompts_per_step - carried)
    order.setflags(write=False)
    return order


def refill_order(num_problems: int, seed: int, step: int, used: np.ndarray) -> np.ndarray:
    """All problems except those of the step, `used`, in an order that depends only on (seed, step): int64.

    Replacements are taken from this order. They do not change the epochs.
    """
    order = permutation(num_problems, seed, _REFILLS + step)
    return order[~np.isin(order, used)]


def keep_apart(order: np.ndarray, others: np.ndarray, head: int) -> None:
    """Exchanges, in place, each element of order[:head] that is in `others` with one of order[head:] that is not.

    It takes the first such elements of order[head:], in order.
    """
    clash = np.isin(order, others)
    inside = np.flatnonzero(clash[:head])
    outside = head + np.flatnonzero(~clash[head:])[: len(inside)]
    order[inside], order[outside] = order[outside], order[inside]


def permutation(num_problems: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the problems: int64 [num_problems].

    It uses Philox's raw bits, which are the same in every NumPy version. `Generator.permutation` is not.
    """
    key = (seed % 2**64) + (epoch << 64)
    return np.argsort(np.random.Philox(key=key).random_raw(num_problems), kind="stable").astype(np.int64)
