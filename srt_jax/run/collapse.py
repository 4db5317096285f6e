"""One rule that tells, without labels, when a run collapses; and the stop on a validation score that no longer rises.

The rule uses the best signal that a run has:

1. Anchored agreement: the share of samples that equal the majority of the frozen base's votes, on the evaluation
   prompts where that majority leads by CONFIDENT. A policy that games its own votes leaves the answers of which its
   base was sure. A healthy policy keeps nearly all of them.
2. Answer information: H(answer) - H(answer | prompt) on all evaluation prompts. It decides if the base is sure of fewer
   than FEWEST prompts.
3. Signs in the metrics of training steps: the KL to the initial model jumps (SRT v1: pseudo-reward and KL jump
   together), or one answer wins everywhere. They replace the first signal if it is missing. They cost nothing, but the
   KL also jumps in some runs that recover.

The rule for 1 and 2 is `fallen` on the means over prompts: for IN_A_ROW readings the value is below its own peak, by
more than ERRORS paired standard errors and by more than a share of the peak. On simulated runs of 100 readings without
a collapse (64 prompts x 8 samples) two standard errors below the plain maximum raise a false alarm in 56% of the runs:
the maximum of many noisy readings is too high. ERRORS below the maximum of means of SMOOTHED readings raise one in
0.3%, and report a collapse one reading later. tests/test_collapse.py repeats this on fewer runs.

On the recorded runs of the same test the KL rule fires at step 4 of a run that collapses from the start, at step 11 of
one that has collapsed by step 15, and at step 149 of one that collapses from step 145 to step 245. It fires on no
healthy run. Entropy, response length and vote shares change alike in healthy and in collapsing runs, so they are not
used. No rule without labels can tell a right consensus from a wrong one that behaves alike.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

CONFIDENT = 0.3  # (votes of the base's majority - votes of the second) / votes, from which the base is sure of a prompt
FEWEST = 8  # prompts; a standard error over fewer means little
SMOOTHED = 3  # the peak is a mean of this many readings
IN_A_ROW = 3  # readings
ERRORS = 3.0  # paired standard errors
AGREEMENT_LOST = 0.05  # share of the peak; a smaller fall of the agreement raises no alarm
INFORMATION_LOST = 0.5  # the same for the answer information, which falls in healthy runs, too

WINDOW = 3  # steps whose mean is compared, so that one unusual batch raises no alarm
HISTORY = 20  # steps before the window, whose median is the usual value
KL_FLOOR = 0.05  # nats per token; a smaller KL raises no alarm
KL_JUMP = 2.0  # a KL of this many times the usual one is a jump
BASELINE = 10  # first steps, which show how often prompts have the same answer before any training


@dataclasses.dataclass(frozen=True)
class Reading:
    """The label-free measures of one evaluation. Prompts have the same order in all readings of a run.

    agreement [C]: for each prompt of which the base is sure, the share of samples that equal the base's majority.
    information [P]: for each prompt, its part of the answer information in nats (reward/measures.py).
    """

    step: int
    agreement: np.ndarray
    information: np.ndarray

    @property
    def is_anchored(self) -> bool:
        """Is the base sure of enough prompts?"""
        return len(self.agreement) >= FEWEST

    def as_json(self) -> dict:
        """The reading for the record of a checkpoint."""
        return {"step": self.step, "agreement": self.agreement.tolist(), "information": self.information.tolist()}

    @classmethod
    def from_json(cls, row: dict) -> "Reading":
        """The reading that `as_json` wrote, with the same bits."""
        return cls(row["step"], np.array(row["agreement"], float), np.array(row["information"], float))


def peaks(values: np.ndarray) -> np.ndarray:
    """[K]: for each of K readings, the index of the peak so far. values [K, P]: a value for each reading and prompt.

    The peak is the reading at which the mean over prompts and the last SMOOTHED readings is largest, the first of
    equal ones.
    """
    return _running_argmax(_smoothed(values).mean(1))


def highest(means: Sequence[float] | np.ndarray, peak: int) -> int:
    """The index of the highest of the SMOOTHED readings that end at the index `peak`, the first of equal ones."""
    return max(range(max(0, peak - SMOOTHED + 1), peak + 1), key=lambda k: means[k])


def fallen(values: np.ndarray, least: float) -> np.ndarray:
    """[K] bool: is each reading below the peak so far, by more than chance? values [K, P], with P of at least 2.

    The gap is the smoothed peak minus the reading, prompt by prompt. Its mean must exceed ERRORS paired standard
    errors, and also the share `least` of the peak's mean.
    """
    peak = _smoothed(values)[peaks(values)]
    gap = peak - values
    error = gap.std(1, ddof=1) / np.sqrt(values.shape[1])
    return (gap.mean(1) > ERRORS * error) & (gap.mean(1) > least * peak.mean(1))


def peaks_apart(values: Sequence[np.ndarray]) -> np.ndarray:
    """[K]: as `peaks`, for readings on different prompts. values: for each reading, a value of each of its prompts."""
    return _running_argmax([pool.mean() for pool in _pools(values)])


def fallen_apart(values: Sequence[np.ndarray], least: float) -> np.ndarray:
    """[K] bool: as `fallen`, for readings on different prompts, such as the training prompts of consecutive steps.

    values: for each reading, a value of each of its prompts, at least 2. The peak pools the prompts of the last
    SMOOTHED readings. Nothing is paired, so the error is that of a difference of two independent means, and `least` is
    a difference, not a share: the values may be negative.
    """
    pools, found = _pools(values), []
    for now, peak in zip(values, peaks_apart(values)):
        gap = pools[peak].mean() - now.mean()
        error = np.sqrt(pools[peak].var(ddof=1) / len(pools[peak]) + now.var(ddof=1) / len(now))
        found.append(gap > ERRORS * error and gap > least)
    return np.array(found, bool)


def _pools(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each reading, the values of the last SMOOTHED readings together."""
    return [np.concatenate(values[max(0, k - SMOOTHED + 1) : k + 1]) for k in range(len(values))]


def _running_argmax(means: Sequence[float] | np.ndarray) -> np.ndarray:
    """[K]: the index of the largest of the first k means, for each k. Ties give the first index."""
    found = np.zeros(len(means), int)
    for k in range(1, len(means)):
        found[k] = k if means[k] > means[found[k - 1]] else found[k - 1]
    return found


def _smoothed(values: np.ndarray) -> np.ndarray:
    """[K, P]: the mean of the last SMOOTHED readings. The first ones have fewer."""
    return np.stack([values[max(0, k - SMOOTHED + 1) : k + 1].mean(0) for k in range(len(values))])


@dataclasses.dataclass(frozen=True)
class Choice:
    """A checkpoint that is chosen without labels: its step, and the rule in one sentence."""

    step: int
    rule: str


@dataclasses.dataclass(frozen=True)
class Fallback:
    """The return of a run to a checkpoint after the alarm of step `step` (run/fallback.py).

    chosen: the step of the checkpoint, whose votes are the labels from step + 1 on. 0: the initial weights. rule: why
    it was chosen.
    """

    step: int
    chosen: int
    rule: str
    alarm: str

    def undoes(self, step: int) -> bool:
        """Was this step made after the chosen checkpoint and before the return to it?"""
        return self.chosen < step <= self.step


@dataclasses.dataclass
class Detector:
    """Applies the rule to a run. Its state depends only on the calls of `update` and `read`: repeat them to resume.

    alarm: a sentence if the last step or reading shows a collapse, else None.
    """

    kl: list[float] = dataclasses.field(default_factory=list)
    top: list[float] = dataclasses.field(default_factory=list)
    readings: list[Reading] = dataclasses.field(default_factory=list)
    alarm: str | None = None

    def update(self, metrics: dict[str, float]) -> str | None:
        """Takes the metrics of a step and returns the alarm. Records without these metrics change nothing.

        Reads label/top_answer_share, and update/kl if it is measured (rl.kl_coef > 0).
        """
        if "label/top_answer_share" in metrics:
            self.top.append(float(metrics["label/top_answer_share"]))
        if "update/kl" in metrics:
            self.kl.append(float(metrics["update/kl"]))
        return self._decide()

    def read(self, reading: Reading) -> str | None:
        """Takes the reading of an evaluation and returns the alarm."""
        self.readings.append(reading)
        return self._decide()

    def falls(self) -> int:
        """The number of readings up to the last one that have fallen without a break."""
        if not self._is_readable():
            return 0
        flags = fallen(*self._signal())[::-1]
        return len(flags) if flags.all() else int(np.argmin(flags))

    def choice(self, last: int, kept: Sequence[int] = ()) -> Choice:
        """The checkpoint to use.

        last: the last step of the run, which is chosen unless its reading has fallen or its last steps show signs of
        a collapse. kept: the steps with a checkpoint; a step without one cannot be chosen.
        """
        if self.alarm and not self.falls():
            before = [step for step in kept if step <= last - WINDOW]
            if before:
                return Choice(max(before), f"the newest checkpoint from before the {WINDOW} steps of the alarm")
            return Choice(last, f"the last step: no checkpoint from before the {WINDOW} steps of the alarm is left")
        if not self.readings:
            return Choice(last, "the last step: no readings, since guard.action is 'off' or guard.votes is 0")
        name = "anchored agreement" if self.readings[-1].is_anchored else "answer information"
        if not self.falls():
            return Choice(last, f"the last step: its {name} has not fallen")
        if kept and self.peak() not in kept:
            return Choice(last, f"the last step: the checkpoint of step {self.peak()} with the highest {name} is gone")
        return Choice(self.peak(), f"the step with the highest {name}, which has fallen since")

    def peak(self) -> int | None:
        """The step with the highest reading of the peak, None without readings."""
        if not self.readings:
            return None
        values, _ = self._signal()
        return self.readings[highest(values.mean(1), peaks(values)[-1])].step

    def needed(self) -> set[int]:
        """The steps whose checkpoints may be chosen later, the last step aside."""
        return {self.peak(), *(r.step for r in self.readings[1 - SMOOTHED :])} if self.readings else set()

    def _is_readable(self) -> bool:
        return bool(self.readings) and self._signal()[0].shape[1] >= FEWEST

    def _signal(self) -> tuple[np.ndarray, float]:
        """(values [K, P] of the signal that decides, the least share of its peak that a fall must have)."""
        if self.readings[-1].is_anchored:
            return np.stack([r.agreement for r in self.readings]), AGREEMENT_LOST
        return np.stack([r.information for r in self.readings]), INFORMATION_LOST

    def _decide(self) -> str | None:
        anchored = bool(self.readings) and self.readings[-1].is_anchored
        self.alarm = self._fall() or (None if anchored else _one_answer(self.top) or kl_jump(self.kl))
        return self.alarm

    def _fall(self) -> str | None:
        """Alarm if the last IN_A_ROW readings have fallen."""
        if self.falls() < IN_A_ROW:
            return None
        values, _ = self._signal()
        high, now = _smoothed(values)[peaks(values)[-1]].mean(), values[-1].mean()
        if self.readings[-1].is_anchored:
            what = f"agreement with the base's majority fell from {high:z.3f} to {now:z.3f} (guard/agreement)"
        else:
            what = f"answer information fell from {high:z.3f} to {now:z.3f} nats (guard/information)"
        return f"the {what}; its peak was at step {self.peak()}."


def _one_answer(top: Sequence[float]) -> str | None:
    """Alarm if half of the prompts whose answers differed at first now have the same answer."""
    if len(top) < BASELINE + WINDOW:
        return None
    usual, now = np.mean(top[:BASELINE]), np.mean(top[-WINDOW:])
    if now < (1 + usual) / 2:
        return None
    return f"{now:.0%} of the prompts have the same winning answer, {usual:.0%} at first (label/top_answer_share)."


def kl_jump(kl: Sequence[float]) -> str | None:
    """Alarm if the KL to the initial model left its usual level."""
    if len(kl) <= WINDOW:
        return None
    usual, now = np.median(kl[-WINDOW - HISTORY : -WINDOW]), np.mean(kl[-WINDOW:])
    if now < max(KL_FLOOR, KL_JUMP * usual):
        return None
    return (
        f"the KL to the initial model jumped from {usual:z.3f} to {now:z.3f} nats per token within {WINDOW} steps "
        "(update/kl)."
    )


def should_stop(history: Sequence[tuple[int, float]], patience: int) -> bool:
    """Tells whether none of the last `patience` scores is better than all before them. A patience of 0 never stops."""
    scores = [score for _, score in sorted(history)]
    return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])
