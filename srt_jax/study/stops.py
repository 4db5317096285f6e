"""Finds where rules without labels would have stopped the runs of a study, and the accuracy that each stop costs.

The runs only warn (guard.action=warn), so that one run serves all rules. The stops are computed from its rows of the
study's table:

    last    the last step
    fixed   the fixed step that keeps most runs. It is chosen in hindsight, so no other fixed step does better
    kl      the newest evaluation before the KL to the initial model jumps (run/collapse.py, with evaluations instead of
            steps)
    guard   the checkpoint that the guard chooses at its alarm, or at the end if there is no alarm
    teacher no stop: the last value of another run, with the same seed and labels of the frozen base

A run keeps its accuracy with a rule if the accuracy at the stop, of one evaluation, is at least `kept` times its top:
the peak, which is a mean of five evaluations, or the start if that is higher. The regret is the top minus the accuracy
at the stop. All functions are pure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from srt_jax.run import collapse
from srt_jax.study import rules, table
from srt_jax.study.rules import Curve

AGREEMENT, FALLS = "guard/agreement", "guard/falls"
SHOWN = ("last", "fixed", "kl", "guard", "teacher")
Run = tuple[str, str, int]  # (arm, setting, seed)


@dataclasses.dataclass(frozen=True)
class Bars:
    """The thresholds of the two bars, which a study file sets before its runs.

    The bar `collapses` holds if the guard keeps at least the share `share` of the collapsed runs, and the best fixed
    step keeps a share that is lower by at least `margin`. There must be at least `runs` collapsed runs of at least
    `arms` arms, and their T_c must differ by a factor of at least `spread`.

    The bar `healthy` holds if no alarm costs more than `cost` in the runs that end within rules.FALL of their peak.
    The cost is the last value minus the accuracy at the stop. There must be at least `runs` such runs.

    kl: the column with the KL to the initial model. teacher: the arm with labels of the frozen base. kept: see the top
    of this module. mirrors: pairs of settings that differ in the known answers only.
    """

    kl: str
    teacher: str
    kept: float
    share: float
    margin: float
    runs: int
    arms: int
    spread: float
    cost: float
    mirrors: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A run with the step at which each rule stops it.

    alarm: the step of the guard's alarm. teacher: the last accuracy of the run with labels of the frozen base, or NaN.
    """

    truth: Curve
    stops: Mapping[str, float]
    alarm: float | None
    teacher: float = rules.NAN

    def value(self, rule: str) -> float:
        """The accuracy at the stop of a rule."""
        return self.teacher if rule == "teacher" else rules.at(self.truth, self.stops[rule])

    def regret(self, rule: str) -> float:
        """The top minus the accuracy at the stop."""
        return top(self.truth) - self.value(rule)

    def keeps(self, rule: str, kept: float) -> bool:
        """Is the accuracy at the stop at least the share `kept` of the top?"""
        return self.value(rule) >= kept * top(self.truth)

    def cost(self) -> float:
        """The last value minus the accuracy at the guard's stop; 0 without an alarm."""
        return 0.0 if self.alarm is None else rules.last(self.truth) - self.value("guard")

    @property
    def collapse_time(self) -> float | None:
        """T_c of the accuracy (rules.collapse_time)."""
        return rules.collapse_time(self.truth)

    @property
    def is_healthy(self) -> bool:
        """Does the run end within rules.FALL of its peak?"""
        return self.collapse_time is None and rules.drop(self.truth) <= rules.FALL

    @property
    def rises(self) -> bool:
        """Is the top more than rules.FALL above the start?"""
        return top(self.truth) > rules.start(self.truth) + rules.FALL

    @property
    def kind(self) -> str:
        """`collapsed`, `healthy`, or `fallen` for a run that is neither."""
        return "collapsed" if self.collapse_time is not None else "healthy" if self.is_healthy else "fallen"


def top(truth: Curve) -> float:
    """The peak, or the start if that is higher: a run that falls at once has a low mean of five evaluations."""
    return max(rules.peak(truth), rules.start(truth))


def guard_stop(agreement: Curve, falls: Curve) -> tuple[float, float | None]:
    """(step that the guard chooses, step of its alarm or None). agreement: the mean over prompts in each reading."""
    counts = dict(falls)
    for k, (step, _) in enumerate(agreement):
        alarm = counts[step] >= collapse.IN_A_ROW
        if alarm or k == len(agreement) - 1:
            means = np.array([value for _, value in agreement[: k + 1]])
            peak = collapse.highest(means, int(collapse.peaks(means[:, None])[-1]))
            return (agreement[peak][0] if counts[step] else step), (step if alarm else None)
    raise ValueError("the run has no readings of the guard.")


def kl_stop(kl: Curve) -> float:
    """The newest evaluation before the KL jumps, or the last one."""
    for k in range(1, len(kl) + 1):
        if collapse.kl_jump([value for _, value in kl[:k]]):
            return kl[k - 1 - collapse.WINDOW][0]
    return kl[-1][0]


def stopped_runs(rows: Sequence[table.Row], column: str, bars: Bars) -> dict[Run, Stopped]:
    """The runs that have readings of the guard, with the stop of each rule."""
    truth, kl = table.curves(rows, column), table.curves(rows, bars.kl)
    agreement, falls = table.curves(rows, AGREEMENT), table.curves(rows, FALLS)
    found = {}
    for run in truth.keys() & kl.keys() & agreement.keys():
        chosen, alarm = guard_stop(agreement[run], falls[run])
        stops = {"last": truth[run][-1][0], "kl": kl_stop(kl[run]), "guard": chosen}
        labelled = truth.get((bars.teacher, run[1], run[2]))
        found[run] = Stopped(truth[run], stops, alarm, rules.last(labelled) if labelled else rules.NAN)
    fixed = best_fixed_step([run for run in found.values() if run.collapse_time is not None], bars.kept)
    return {
        run: dataclasses.replace(s, stops={**s.stops, "fixed": s.stops["last"] if fixed is None else fixed})
        for run, s in sorted(found.items())
    }


def best_fixed_step(runs: Sequence[Stopped], kept: float) -> float | None:
    """The step at which most runs keep their accuracy, the earliest of equal ones. None without runs."""
    steps = sorted({step for run in runs for step, _ in run.truth})

    def keeping(step: float) -> int:
        return sum(rules.at(run.truth, step) >= kept * top(run.truth) for run in runs)

    return max(steps, key=lambda step: (keeping(step), -step), default=None)


def interval(count: int, n: int) -> tuple[float, float]:
    """The exact 95% interval of a share, count of n (Clopper and Pearson 1934)."""
    from scipy import stats

    tail = (1 - rules.CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
    return low, float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0


def share(runs: Sequence[Stopped], rule: str, bars: Bars) -> tuple[int, float]:
    """(number, share) of the runs that keep their accuracy with a rule."""
    count = sum(run.keeps(rule, bars.kept) for run in runs)
    return count, count / len(runs) if runs else rules.NAN


def judge_collapses(runs: Mapping[Run, Stopped], bars: Bars) -> tuple[str, str]:
    """(verdict, sentence) of the bar `collapses`."""
    fallen = {run: s for run, s in runs.items() if s.collapse_time is not None}
    times = [max(1.0, s.collapse_time or 0.0) for s in fallen.values()]
    arms, spread = {arm for arm, _, _ in fallen}, max(times) / min(times) if times else 0.0
    (count, mine), (_, fixed) = (share(list(fallen.values()), rule, bars) for rule in ("guard", "fixed"))
    low, high = interval(count, len(fallen)) if fallen else (0.0, 1.0)
    sentence = (
        f"the guard keeps {bars.kept:.0%} of the top in {count} of {len(fallen)} collapsed runs (95% interval of the "
        f"share: {low:.2f} to {high:.2f}), the best fixed step in a share of {fixed:.2f}; arms: {len(arms)}, "
        f"T_c spread: {spread:.1f}"
    )
    if len(fallen) < bars.runs or len(arms) < bars.arms or spread < bars.spread:
        return "undecided", sentence
    return ("holds" if mine >= bars.share and fixed <= mine - bars.margin else "fails"), sentence


def judge_healthy(runs: Mapping[Run, Stopped], bars: Bars) -> tuple[str, str]:
    """(verdict, sentence) of the bar `healthy`."""
    whole = [s for s in runs.values() if s.is_healthy]
    false = sum(s.cost() > bars.cost for s in whole)
    low, high = interval(false, len(whole)) if whole else (0.0, 1.0)
    sentence = (
        f"{false} of {len(whole)} healthy runs have a stop that costs more than {bars.cost} (95% interval of the share "
        f"{low:.2f} to {high:.2f}); {sum(s.alarm is not None for s in whole)} have an alarm"
    )
    if false:
        return "fails", sentence
    return ("undecided" if len(whole) < bars.runs else "holds"), sentence


def risen(runs: Mapping[Run, Stopped], bars: Bars) -> str:
    """A table of the collapsed runs that rise first, by setting: how many does each rule keep?

    A run that falls from its start is easy to stop: step 0 is right. So the bar `collapses` says little about them.
    """
    rising = {run: s for run, s in runs.items() if s.kind == "collapsed" and s.rises}
    if not rising:
        return ""
    lines = [
        f"{len(rising)} of the collapsed runs have a top more than {rules.FALL} above their start. For the others "
        "step 0 is a good stop, and easy to find. How many of the runs that rise first does each rule keep? The fixed "
        "step is the best one of each row, chosen with the known answers.",
        "",
        "| setting | collapsed runs that rise first | guard | best fixed step | kl |",
        "|---|---|---|---|---|",
    ]
    settings = sorted({setting for _, setting, _ in rising})
    for name, chosen in {"all": settings, **{setting: [setting] for setting in settings}}.items():
        group = [s for (_, setting, _), s in rising.items() if setting in chosen]
        step = best_fixed_step(group, bars.kept)
        fixed = sum(rules.at(s.truth, step) >= bars.kept * top(s.truth) for s in group)
        counts = [share(group, rule, bars)[0] for rule in ("guard", "kl")]
        lines.append(f"| {name} | {len(group)} | {counts[0]} | {fixed} (step {step:g}) | {counts[1]} |")
    return "\n".join(lines)


def healthy_kinds(runs: Mapping[Run, Stopped]) -> str:
    """A sentence on what the healthy runs are like: when they rise, and how often their KL jumps."""
    healthy = [s for s in runs.values() if s.is_healthy]
    rises = [
        next(step for step, value in s.truth if value > rules.start(s.truth) + rules.FALL) for s in healthy if s.rises
    ]
    if not rises:
        return ""
    quarter = healthy[0].stops["last"] / 4
    jumps = sum(s.stops["kl"] < s.stops["last"] for s in healthy)
    return (
        f"{len(rises)} of the {len(healthy)} healthy runs rise by more than {rules.FALL} above their start. They first "
        f"do so at step {np.median(rises):g} (median), the latest at step {max(rises):g}; "
        f"{sum(step > quarter for step in rises)} of them rise after a quarter of the run. The KL jumps before the end "
        f"in {jumps} healthy runs."
    )


def mirrored(runs: Mapping[Run, Stopped], bars: Bars) -> str:
    """A sentence on the pairs of runs whose known answers differ: are the decisions equal, and what do they cost?"""
    pairs = [
        (s, runs[arm, there, seed])
        for here, there in bars.mirrors
        for (arm, setting, seed), s in runs.items()
        if setting == here and (arm, there, seed) in runs
    ]
    if not pairs:
        return ""
    equal = sum(a.stops["guard"] == b.stops["guard"] and a.alarm == b.alarm for a, b in pairs)
    costs = ", ".join(f"{rule} {mean_regret([s for pair in pairs for s in pair], rule)}" for rule in SHOWN)
    return f"The guard decides alike in {equal} of {len(pairs)} pairs. Mean regret over a pair: {costs}."


def others(runs: Mapping[Run, Stopped]) -> str:
    """A sentence on the best fixed step, and one on the runs that count for neither bar."""
    step = next(iter(runs.values())).stops["fixed"]
    neither = [s for s in runs.values() if s.kind == "fallen"]
    alarms = sum(s.alarm is not None for s in neither)
    return (
        f"The best fixed step of the collapsed runs is {step:g}. {len(neither)} of {len(runs)} runs fall from their "
        f"peak without a collapse and count for neither bar; the guard gives an alarm in {alarms} of them, and its "
        f"mean regret there is {mean_regret(neither, 'guard')} ({mean_regret(neither, 'last')} at the last step)."
    )


def mean_regret(runs: Sequence[Stopped], rule: str) -> str:
    """The mean regret of a rule as text, "-" if it is unknown."""
    known = [regret for run in runs if not np.isnan(regret := run.regret(rule))]
    return f"{np.mean(known):+.3f}" if known else "-"


DEFINITIONS = f"""\
A run collapses at T_c, the first step at which a mean of {rules.WINDOW} evaluations is more than {rules.FALL} below the
start. The top of a run is its highest mean of {rules.WINDOW} evaluations, or the start if that is higher. The regret of
a rule is the top minus the accuracy at its stop. That accuracy is a single evaluation, so a regret may be negative. The
guard reads the samples of the same evaluation, so the accuracy at its stop may be a little too high. A run is healthy
if it does not collapse and its last mean is within {rules.FALL} of its peak. The intervals treat runs as independent.
Runs of one seed share their base model, so the intervals are too narrow.

| rule | stop |
|---|---|
| last | the last step |
| fixed | the step that keeps most of the collapsed runs, the same for all runs, chosen with the known answers |
| kl | the newest evaluation before the KL to the initial model jumps (a run reads the KL in each step) |
| guard | the checkpoint that the guard chooses at its alarm, or at the end if there is no alarm |
| teacher | no stop: the last accuracy of a run with the same seed and labels of the frozen base |"""


def markdown(rows: Sequence[table.Row], column: str, bars: Bars) -> str:
    """The section of the report: definitions, the verdicts on the bars, and a table with a row per arm and setting."""
    runs = stopped_runs(rows, column, bars)
    if not runs:
        return "No run with readings of the guard is finished yet."
    lines = [DEFINITIONS, "", "| bar | | verdict |", "|---|---|---|"]
    for name, (verdict, sentence) in {
        "collapses": judge_collapses(runs, bars),
        "healthy": judge_healthy(runs, bars),
    }.items():
        lines.append(f"| {name} | {sentence} | **{verdict}** |")
    lines += ["", *filter(None, [mirrored(runs, bars), others(runs), healthy_kinds(runs)]), ""]
    if rising := risen(runs, bars):
        lines += [rising, ""]
    head = ["arm", "setting", "runs", "collapsed", "alarms (step)", *(f"regret, {rule}" for rule in SHOWN)]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, setting in dict.fromkeys((arm, setting) for arm, setting, _ in runs):
        group = [s for (a, where, _), s in runs.items() if (a, where) == (arm, setting)]
        alarms = ", ".join(f"{s.alarm:g}" for s in group if s.alarm is not None)
        cells = [arm, setting, len(group), sum(s.collapse_time is not None for s in group), alarms or "none"]
        cells += [mean_regret(group, rule) for rule in SHOWN]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
