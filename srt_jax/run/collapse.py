"""When to end a run early: signs of reward hacking that need no answers, and a validation score that stopped rising.

A policy that games its own votes gives every prompt the same answer in the end; long before, it leaves the initial
model far faster than it did while it learned (SRT v1: pseudo-reward and KL jump together). On the
recorded runs of tests/test_collapse.py the KL rule fires at step 4 of a collapse from the start, at step 11 of one that
is over by step 15, at step 149 of one that takes from step 145 to step 245, and on no healthy run. Entropy, response
length and vote shares move alike in healthy and in collapsing runs: they are no signs.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

WINDOW = 3  # steps whose mean is compared, so that one odd batch is no collapse
HISTORY = 20  # steps before the window that say what is usual
KL_FLOOR = 0.05  # nats per token; below it nothing is a jump
KL_JUMP = 2.0  # times the usual KL
BASELINE = 10  # first steps, which say how often prompts share their answer by nature


@dataclasses.dataclass
class Detector:
    """Watches a run's metrics. Its whole state is what `update` was given: feed the records again to go on.

    alarm: a sentence where the last step's metrics showed a collapse.
    """

    kl: list[float] = dataclasses.field(default_factory=list)
    top: list[float] = dataclasses.field(default_factory=list)
    alarm: str | None = None

    def update(self, metrics: dict[str, float]) -> str | None:
        """Takes a step's metrics; returns the alarm. Records without them change nothing.

        Reads label/top_answer_share, and update/kl where it is measured (rl.kl_coef > 0).
        """
        if "label/top_answer_share" in metrics:
            self.top.append(float(metrics["label/top_answer_share"]))
        if "update/kl" in metrics:
            self.kl.append(float(metrics["update/kl"]))
        self.alarm = _one_answer(self.top) or _kl_jump(self.kl)
        return self.alarm


def _one_answer(top: Sequence[float]) -> str | None:
    """Half of the prompts that had answers of their own have lost them."""
    if len(top) < BASELINE + WINDOW:
        return None
    usual, now = np.mean(top[:BASELINE]), np.mean(top[-WINDOW:])
    if now < (1 + usual) / 2:
        return None
    return f"the same answer wins the vote of {now:.0%} of the prompts, {usual:.0%} at first (label/top_answer_share)."


def _kl_jump(kl: Sequence[float]) -> str | None:
    """The KL to the initial model left its usual level, or was never slow."""
    if len(kl) <= WINDOW:
        return None
    usual, now = np.median(kl[-WINDOW - HISTORY : -WINDOW]), np.mean(kl[-WINDOW:])
    if now < max(KL_FLOOR, KL_JUMP * usual):
        return None
    return (
        f"the KL to the initial model jumped from {usual:.3f} to {now:.3f} nats per token within {WINDOW} steps "
        "(update/kl)."
    )


def should_stop(history: Sequence[tuple[int, float]], patience: int) -> bool:
    """Have the last `patience` of these (step, score) brought nothing better than what was before? 0: never."""
    scores = [score for _, score in sorted(history)]
    return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])
