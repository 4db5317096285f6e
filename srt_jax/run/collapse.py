"""Reasons to end a run early: label-free signs of reward hacking, or a validation score that no longer rises.

A policy that games its own votes finally gives every prompt the same answer. Long before, its distance to the initial
model grows much faster than while it learned (SRT v1: pseudo-reward and KL jump together). On the recorded runs of
tests/test_collapse.py the KL rule fires at step 4 of a run that collapses from the start, at step 11 of one that has
collapsed by step 15, and at step 149 of one that collapses from step 145 to step 245. It fires on no healthy run.
Entropy, response length and vote shares change alike in healthy and in collapsing runs, so they are not used.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

WINDOW = 3  # steps whose mean is compared, so that one unusual batch raises no alarm
HISTORY = 20  # steps before the window, whose median is the usual value
KL_FLOOR = 0.05  # nats per token; a smaller KL raises no alarm
KL_JUMP = 2.0  # a KL of this many times the usual one is a jump
BASELINE = 10  # first steps, which show how often prompts have the same answer before any training


@dataclasses.dataclass
class Detector:
    """Watches the metrics of a run. Its state depends only on the calls of `update`: repeat them to resume.

    alarm: a sentence if the metrics of the last step show a collapse, else None.
    """

    kl: list[float] = dataclasses.field(default_factory=list)
    top: list[float] = dataclasses.field(default_factory=list)
    alarm: str | None = None

    def update(self, metrics: dict[str, float]) -> str | None:
        """Takes the metrics of a step and returns the alarm. Records without these metrics change nothing.

        Reads label/top_answer_share, and update/kl if it is measured (rl.kl_coef > 0).
        """
        if "label/top_answer_share" in metrics:
            self.top.append(float(metrics["label/top_answer_share"]))
        if "update/kl" in metrics:
            self.kl.append(float(metrics["update/kl"]))
        self.alarm = _one_answer(self.top) or _kl_jump(self.kl)
        return self.alarm


def _one_answer(top: Sequence[float]) -> str | None:
    """Alarm if half of the prompts whose answers differed at first now have the same answer."""
    if len(top) < BASELINE + WINDOW:
        return None
    usual, now = np.mean(top[:BASELINE]), np.mean(top[-WINDOW:])
    if now < (1 + usual) / 2:
        return None
    return f"{now:.0%} of the prompts have the same winning answer, {usual:.0%} at first (label/top_answer_share)."


def _kl_jump(kl: Sequence[float]) -> str | None:
    """Alarm if the KL to the initial model left its usual level."""
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
    """Tells whether none of the last `patience` scores is better than all before them. A patience of 0 never stops."""
    scores = [score for _, score in sorted(history)]
    return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])
