"""The rules of every study: the measures of a curve, such as peak and collapse, and the verdict on a claim.

All functions are pure. A curve is a list of (step, value) with one entry per evaluation, in order of the steps. Single
evaluations are noisy, so peak, last value and collapse use the mean of five consecutive evaluations.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

WINDOW = 5  # number of evaluations in a mean
FALL = 0.05  # a run collapses when it is more than this below its start
CONFIDENCE = 0.95  # confidence level of the intervals over seeds
NAN = float("nan")

Curve = Sequence[tuple[float, float]]


def smoothed(curve: Curve) -> list[tuple[float, float]]:
    """The moving mean: [(step of the last one, mean of WINDOW consecutive evaluations)].

    If the curve has fewer evaluations than WINDOW, the result is the mean of all of them.
    """
    width = min(WINDOW, len(curve))
    values = [value for _, value in curve]
    return [(curve[i][0], float(np.mean(values[i + 1 - width : i + 1]))) for i in range(width - 1, len(curve))]


def start(curve: Curve) -> float:
    """The value of the first evaluation, before training."""
    return curve[0][1]


def peak(curve: Curve) -> float:
    """The highest mean of five consecutive evaluations."""
    return max(value for _, value in smoothed(curve))


def last(curve: Curve) -> float:
    """The mean of the last five evaluations."""
    return smoothed(curve)[-1][1]


def drop(curve: Curve) -> float:
    """Peak minus last."""
    return peak(curve) - last(curve)


def best(curve: Curve) -> float:
    """The best single evaluation. A checkpoint chosen by the known answers would report it."""
    return max(value for _, value in curve)


def area(curve: Curve) -> float:
    """The mean over the steps: the area under the curve by the trapezoidal rule, divided by the number of steps."""
    steps, values = (np.array(x, float) for x in zip(*curve))
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0])) if len(curve) > 1 else float(values[0])


def collapse_time(curve: Curve) -> float | None:
    """T_c: the first step at which the mean of five evaluations is below the start minus FALL, or None."""
    return next((step for step, value in smoothed(curve) if value < start(curve) - FALL), None)


def collapsed(curve: Curve) -> float:
    """1 if the run collapses, else 0."""
    return float(collapse_time(curve) is not None)


def survived(curve: Curve) -> float:
    """The step of the collapse, or the last step if there is none. Its mean is the restricted mean survival time."""
    time = collapse_time(curve)
    return curve[-1][0] if time is None else time


MEASURES = {
    "start": start,
    "peak": peak,
    "last": last,
    "drop": drop,
    "best": best,
    "area": area,
    "collapsed": collapsed,
    "survived": survived,
}


def regret(curve: Curve, chooser: Curve) -> float:
    """The loss from stopping at the peak of another curve: peak of `curve` minus its value where `chooser` peaks.

    Both curves need the same steps. All values are means of five evaluations.
    """
    stop = max(smoothed(chooser), key=lambda point: point[1])[0]
    return peak(curve) - dict(smoothed(curve))[stop]


OWN = ("drop", "collapsed", "survived")  # these are not values of the curve: the start is not subtracted from them


def at(curve: Curve, position: float) -> float:
    """The value at a position, by linear interpolation between the evaluations. NaN outside of the curve."""
    steps = [step for step, _ in curve]
    if not steps[0] <= position <= steps[-1]:
        return NAN
    i = bisect.bisect_left(steps, position)
    if steps[i] == position:
        return curve[i][1]
    (x0, y0), (x1, y1) = curve[i - 1], curve[i]
    return y0 + (y1 - y0) * (position - x0) / (x1 - x0)


def survival(times: Sequence[float | None], horizon: float) -> list[tuple[float, float]]:
    """[(step, share of runs that have not collapsed)], from (0, 1) to the step `horizon`.

    times: the step of each run's collapse, None if it did not collapse. If no run ends before the horizon, this is the
    Kaplan-Meier estimate.
    """
    found, alive = [(0.0, 1.0)], len(times)
    for step in sorted({t for t in times if t is not None and t <= horizon}):
        alive -= sum(t == step for t in times)
        found.append((step, alive / len(times)))
    return [*found, (horizon, found[-1][1])] if found[-1][0] < horizon else found


@dataclasses.dataclass(frozen=True)
class Effect:
    """The mean of n paired differences with its interval [low, high]. The interval is infinite if n < 2."""

    mean: float
    low: float
    high: float
    n: int


def paired_effect(differences: Sequence[float]) -> Effect:
    """Mean and Student's t interval, at the level CONFIDENCE, of one difference per pair.

    NaN differences do not count. The mean is NaN if none is left.
    """
    values = np.array([d for d in differences if not math.isnan(d)], float)
    n = len(values)
    if n < 2:
        mean = float(values[0]) if n else NAN
        return Effect(mean, -math.inf, math.inf, n)
    from scipy import stats

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Effect(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half, n)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that sign x effect exceeds a threshold, written down before the runs.

    With `against`, the effect of a seed is the measure of `arm` minus the measure of `against` at the same seed and
    setting. Without it, the effect is the measure of `arm` minus the start of the same curve. For the measures in OWN
    the start is not subtracted. With `chosen_by`, the effect is the regret of stopping at the peak of the column
    `chosen_by`, and `measure` does not count.

    sentence: the claim in words, for the report. measure: a key of MEASURES. step: if given, the measure is the value
    of the curve at this step.
    """

    name: str
    sentence: str
    arm: str
    against: str = ""
    column: str = ""  # "": the column of the study
    measure: str = "last"
    step: float | None = None
    sign: int = 1
    threshold: float = 0.0
    chosen_by: str = ""  # a column
    setting: str = ""  # "": all settings; each seed of each setting is one pair

    def value(self, curve: Curve) -> float:
        """The value of the claim's measure for one curve."""
        return MEASURES[self.measure](curve) if self.step is None else at(curve, self.step)

    def difference(self, curve: Curve, other: Curve | None) -> float:
        """The effect of one seed. other: the curve of `against`, or None without `against`."""
        if other is not None:
            return self.value(curve) - self.value(other)
        return self.value(curve) - (0.0 if self.measure in OWN else start(curve))


def verdict(effect: Effect, sign: int, threshold: float) -> str:
    """`holds` if the whole interval of sign x effect is above the threshold, `fails` if it is below, else `undecided`.

    Fewer than two pairs are always undecided.
    """
    low, high = sorted((sign * effect.low, sign * effect.high))
    if effect.n < 2 or low <= threshold <= high:
        return "undecided"
    return "holds" if low > threshold else "fails"


def judge(
    claim: Claim,
    curves: Mapping[tuple[str, str, int], Curve],
    choosers: Mapping[tuple[str, str, int], Curve] | None = None,
) -> tuple[Effect, str]:
    """(effect, verdict) of a claim on {(arm, setting, seed): curve}. A seed without both curves does not count.

    choosers: the curves of the column claim.chosen_by, if the claim names one.
    """
    differences = []
    for (arm, setting, seed), curve in sorted(curves.items()):
        if arm != claim.arm or claim.setting not in ("", setting):
            continue
        if claim.chosen_by:
            if choosers and (arm, setting, seed) in choosers:
                differences.append(regret(curve, choosers[arm, setting, seed]))
            continue
        other = curves.get((claim.against, setting, seed)) if claim.against else None
        if other is not None or not claim.against:
            differences.append(claim.difference(curve, other))
    effect = paired_effect(differences)
    return effect, verdict(effect, claim.sign, claim.threshold)
