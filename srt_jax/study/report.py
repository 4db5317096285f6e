"""The report of a study: Markdown, a figure, and the table as Parquet. It needs the study's table, but not the runs."""

import importlib.metadata
import math
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from srt_jax.figures import panels
from srt_jax.files import replaced_file
from srt_jax.study import rules, stops, table
from srt_jax.study.rules import Claim, Curve
from srt_jax.study.runner import commits
from srt_jax.study.spec import Study, planned

SHOWN = ("start", "peak", "last", "drop", "best", "area")
PANELS = {
    "label/pseudo_reward": "pseudo-reward",
    "label/label_accuracy": "label accuracy",
    "label/same_answer": "same answer in different prompts",
}
MOST_BANDS = 8  # arms in a panel with bands
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def markdown(study: Study, rows: Sequence[table.Row], command: str, figure: str) -> str:
    """The report as Markdown. command: the command of the study. figure: the file name of the figure."""
    runs, done = planned(study), {(row["arm"], row.get("setting", ""), row["seed"]) for row in rows}
    pending = [run for run in runs if (run.arm, run.setting, run.seed) not in done]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    made = ", ".join(commits(rows))
    parts = [
        f"# Study {study.name}",
        study.text.strip(),
        f"`{command}`; {len(runs) - len(pending)} of {len(runs)} runs are in the table. Runs made at commit {made}; "
        f"report with {versions}. Curve: `{study.column}`; peak and last are means of {rules.WINDOW} evaluations, "
        f"+- is the standard deviation over seeds.{cpu_time(rows)}",
        "## Claims" if study.claims else "",
        claims_table(study, rows),
        f"## Stops without labels\n\n{stops.markdown(rows, study.column, study.bars)}" if study.bars else "",
        *(
            stops_figures(figure, study.bars)
            if study.bars and stops.stopped_runs(rows, study.column, study.bars)
            else ()
        ),
        "## Arms",
        arms_table(study, rows),
        f"## Survival\n\n{survival_table(study, rows)}",
        "A line is the mean of an arm's seeds, and its band goes from the lowest seed to the highest. Panels with more "
        f"than {MOST_BANDS} arms have no bands.",
        f"![curves]({figure})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def stops_figures(figure: str, bars: stops.Bars) -> tuple[str, str]:
    """The figures of the stops, as Markdown."""
    return (
        f"A dot is a run; the line is {bars.kept:.0%} of the top.\n\n![stops]({beside(figure, 'stops')})",
        f"A line is a run, and its dot the checkpoint that the guard chooses.\n\n![runs]({beside(figure, 'runs')})",
    )


def cpu_time(rows: Sequence[table.Row]) -> str:
    """A sentence with the CPU time of the runs that recorded it. "" if none did."""
    found = {
        (row["arm"], row.get("setting", ""), row["seed"]): float(row[table.CPU]) for row in rows if table.CPU in row
    }
    return (
        f" CPU time of {len(found)} runs: {sum(found.values()):,.0f} s, without base models and labels."
        if found
        else ""
    )


def claims_table(study: Study, rows: Sequence[table.Row]) -> str:
    """A Markdown table with one row per claim: effect, 95% interval, number of pairs, threshold, verdict."""
    if not study.claims:
        return ""
    lines = ["| claim | | effect | 95% interval | pairs | threshold | verdict |", "|---|---|---|---|---|---|---|"]
    for claim in study.claims:
        effect, found = judged(claim, study, rows)
        interval = f"{effect.low:+.3f} to {effect.high:+.3f}" if effect.n > 1 else "-"
        mean = f"{effect.mean:+.3f}" if effect.n else "-"
        sign = ">" if claim.sign > 0 else "<"
        lines.append(
            f"| {claim.name} | {claim.sentence} ({described(claim)}) | {mean} | {interval} | {effect.n} | "
            f"{sign} {claim.sign * claim.threshold:+.3f} | **{found}** |"
        )
    return "\n".join(lines)


def described(claim: Claim) -> str:
    """The comparison that a claim makes, such as `last: votes - ground_truth`."""
    measure = claim.measure if claim.step is None else f"step {claim.step:g}"
    column = f" of `{claim.column}`" if claim.column else ""
    if claim.chosen_by:
        return f"regret{column} at the peak of `{claim.chosen_by}`: {claim.arm}"
    if claim.against:
        return f"{measure}{column}: {claim.arm} - {claim.against}"
    return f"{measure}{column}: {claim.arm}" + (" - its start" * (claim.measure not in rules.OWN))


def verdicts(study: Study, rows: Sequence[table.Row]) -> dict[str, str]:
    """{name of the claim: verdict}."""
    return {claim.name: judged(claim, study, rows)[1] for claim in study.claims}


def judged(claim: Claim, study: Study, rows: Sequence[table.Row]) -> tuple[rules.Effect, str]:
    """(effect, verdict) of a claim on the rows of a study."""
    choosers = table.curves(rows, claim.chosen_by) if claim.chosen_by else None
    return rules.judge(claim, table.curves(rows, claim.column or study.column), choosers)


def grouped(curves: Mapping[tuple[str, str, int], Curve]) -> dict[tuple[str, str], list[Curve]]:
    """{(arm, setting): curves of its seeds} from {(arm, setting, seed): curve}."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for (arm, setting, _), curve in curves.items():
        found.setdefault((arm, setting), []).append(curve)
    return found


def arms_table(study: Study, rows: Sequence[table.Row]) -> str:
    """A Markdown table with one row per arm and setting.

    `at tokens` is the value of an arm when it has generated as many tokens as the cheapest arm in its whole run. Arms
    with fewer steps than the others, such as an untrained base, do not count, and get no such value.
    """
    by_step = grouped(table.curves(rows, study.column))
    by_tokens = grouped(table.curves(rows, study.column, over="tokens"))
    if not by_step:
        return "No run is finished yet."
    whole, budget = whole_arms(by_step), {setting: math.inf for _, setting in by_tokens}
    for (arm, setting), curves in by_tokens.items():
        if (arm, setting) in whole:
            budget[setting] = min(budget[setting], *(curve[-1][0] for curve in curves))
    several = any(setting for _, setting in by_step)
    columns = ["arm", *["setting"] * several, "seeds", *SHOWN, "collapsed", "at tokens", "tokens", "seconds"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    seconds = grouped(table.curves(rows, "seconds"))
    for (arm, setting), curves in by_step.items():
        cells = [_spread([rules.MEASURES[name](curve) for curve in curves]) for name in SHOWN]
        times = [rules.collapse_time(curve) for curve in curves]
        when = [f"{time:g}" for time in times if time is not None]
        cells.append(f"{len(when)} of {len(times)}" + (f" (step {', '.join(when)})" if when else ""))
        in_tokens = by_tokens[arm, setting]
        at = [_at_tokens(curve, budget[setting]) for curve in in_tokens if (arm, setting) in whole]
        cells.append(_spread(at))
        cells.append(f"{np.mean([curve[-1][0] for curve in in_tokens]):,.0f}")
        cells.append(f"{np.mean([curve[-1][1] for curve in seconds[arm, setting]]):.0f}")
        lines.append(f"| {' | '.join([arm, *[setting] * several, str(len(curves)), *cells])} |")
    return "\n".join(lines)


def whole_arms(curves: Mapping[tuple[str, str], Sequence[Curve]]) -> set[tuple[str, str]]:
    """The (arm, setting) whose curves end at the last step of their setting."""
    ends = {key: max(curve[-1][0] for curve in group) for key, group in curves.items()}
    horizon = {where: max(end for (_, setting), end in ends.items() if setting == where) for _, where in ends}
    return {(arm, setting) for (arm, setting), end in ends.items() if end == horizon[setting]}


def _at_tokens(curve: Curve, budget: float) -> float:
    """The value of a curve over tokens at `budget` tokens. It is the start if the teacher alone took more tokens."""
    found = rules.smoothed(curve)
    return rules.start(curve) if budget < curve[0][0] else rules.at(found, max(budget, found[0][0]))


def _spread(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    return f"{np.mean(known):.3f}" + (f" +- {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")


def survival_table(study: Study, rows: Sequence[table.Row]) -> str:
    """A Markdown table of the share of each arm's runs that have not collapsed, at up to eleven steps.

    It leaves out arms with fewer steps than the others of their setting. There is no share after the last step.
    """
    curves = grouped(table.curves(rows, study.column))
    if not curves:
        return "No run is finished yet."
    curves = {key: curves[key] for key in curves if key in whole_arms(curves)}
    horizon = max(curve[-1][0] for group in curves.values() for curve in group)
    steps = np.unique(np.linspace(0, horizon, 11).round())
    lines = ["| arm | " + " | ".join(f"{step:g}" for step in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    for (arm, setting), group in curves.items():
        found = rules.survival([rules.collapse_time(curve) for curve in group], horizon)
        ends = max(curve[-1][0] for curve in group)
        shares = [next(share for step, share in reversed(found) if step <= at) for at in steps]
        cells = [f"{share:.2f}" if at <= ends else "" for at, share in zip(steps, shares)]
        lines.append(f"| {' '.join(filter(None, (arm, setting)))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(study: Study, rows: Sequence[table.Row], path: pathlib.Path) -> None:
    """Draws one row of panels per setting into a PNG file: one panel per measure and one of survival.

    Each arm has the mean of its seeds as a line and, with at most MOST_BANDS arms, a band from its lowest seed to its
    highest. Arms with fewer steps than the others of their setting are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = {study.column: study.column} | {c: t for c, t in PANELS.items() if any(c in row for row in rows)}
    whole = whole_arms(grouped(table.curves(rows, study.column)))
    settings = list(dict.fromkeys(setting for _, setting in sorted(whole)))
    shape = len(settings), len(columns) + 1
    size = 4.2 * shape[1] + 1.5, 3.2 * shape[0]
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for line, setting in zip(axes, settings):
        looks = {arm: panels.style(i) for i, arm in enumerate(study.arms) if (arm, setting) in whole}
        for axis, (column, title) in zip(line, columns.items()):
            curves = grouped(table.curves(rows, column))
            for arm, look in looks.items():
                if (arm, setting) in curves:
                    _draw_mean(axis, curves[arm, setting], look, arm.replace("_", " "), len(looks) <= MOST_BANDS)
            axis.set(title=" ".join(filter(None, (title, setting and f"({setting})"))), xlabel="step")
            if all(0 <= value <= 1 for group in curves.values() for curve in group for _, value in curve):
                axis.set_ylim(panels.SHARES)
        curves = grouped(table.curves(rows, study.column))
        for arm, look in looks.items():
            horizon = max(curve[-1][0] for curve in curves[arm, setting])
            found = rules.survival([rules.collapse_time(curve) for curve in curves[arm, setting]], horizon)
            line[-1].step(*zip(*found), where="post", linewidth=1.2, **look)
        line[-1].set(title="share of runs without a collapse", xlabel="step", ylim=panels.SHARES)
        columns_of_legend = -(-len(looks) // 10)
        line[-1].legend(
            *line[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.02, 0.5), ncols=columns_of_legend
        )
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    panels.save(figure, path, dpi=65, colours=256)  # it is committed
    plt.close(figure)


def beside(figure: str, name: str) -> str:
    """The file name of another figure of the study, from that of the curves."""
    return f"{figure.removesuffix('.png')}-{name}.png"


KINDS = {"collapsed": "C3", "fallen": "C1", "healthy": "C0"}  # colours of the runs of each kind


def draw_runs(study: Study, rows: Sequence[table.Row], path: pathlib.Path) -> None:
    """Draws each run's accuracy with a dot at the checkpoint that the guard chooses: a panel per arm and setting.

    The colour shows the kind of the run. Draws nothing if no run has readings of the guard.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = stops.stopped_runs(rows, study.column, study.bars)
    if not found:
        return
    arms = [arm for arm in study.arms if any(run[0] == arm for run in found)]
    settings = [setting for setting in study.settings if any(run[1] == setting for run in found)]
    size = 1.7 * len(settings) + 1.5, 0.95 * len(arms) + 1.0
    shape = len(arms), len(settings)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained")
    for (arm, setting, _), run in found.items():
        axis, colour = axes[arms.index(arm)][settings.index(setting)], KINDS[run.kind]
        axis.plot(*zip(*run.truth), color=colour, linewidth=0.8)
        axis.scatter(run.stops["guard"], run.value("guard"), color=colour, s=10, zorder=3)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_ylim(panels.SHARES)
        if not axis.has_data():
            axis.text(0.5, 0.5, "no run", transform=axis.transAxes, ha="center", va="center", color="gray")
    for axis, setting in zip(axes[0], settings):
        axis.set_title(setting.replace("_", " "), fontsize="medium")
    for axis, arm in zip(axes[:, 0], arms):
        axis.set_ylabel(textwrap.fill(arm.replace("_", " "), 14), rotation=0, ha="right", va="center")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    panels.legend(figure, [plt.Line2D([], [], color=colour) for colour in KINDS.values()], list(KINDS))
    panels.save(figure, path, dpi=65, colours=256)  # it is committed
    plt.close(figure)


def draw_stops(study: Study, rows: Sequence[table.Row], path: pathlib.Path) -> None:
    """Draws the accuracy at each rule's stop as a share of the run's top: a panel per rule, a line per arm and setting.

    Each dot is a run. The vertical line is the share that a run must have to count as kept. Draws nothing if no run has
    readings of the guard.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = stops.stopped_runs(rows, study.column, study.bars)
    if not found:
        return
    names = list(dict.fromkeys((arm, setting) for arm, setting, _ in found))[::-1]
    size = 2.4 * len(stops.SHOWN) + 2.5, 0.28 * len(names) + 1.4
    figure, axes = plt.subplots(1, len(stops.SHOWN), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, rule in zip(axes[0], stops.SHOWN):
        axis.axvline(study.bars.kept, color="gray", linewidth=1)
        for kind, colour in KINDS.items():
            dots = [
                (run.value(rule) / stops.top(run.truth), names.index((arm, setting)))
                for (arm, setting, _), run in found.items()
                if run.kind == kind
            ]
            x, y = zip(*dots) if dots else ((), ())
            face = colour if kind == "collapsed" else "none"
            axis.scatter(x, y, s=22, facecolors=face, edgecolors=colour, label=kind)
        axis.set(title=rule, xlabel="accuracy at the stop / top", xlim=(-0.03, 1.15))
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(names)), [f"{arm} {setting}".replace("_", " ") for arm, setting in names])
    axes[0][0].set_ylim(-0.6, len(names) - 0.4)
    panels.legend(figure, *axes[0][0].get_legend_handles_labels())
    panels.save(figure, path, dpi=80, colours=256)  # it is committed
    plt.close(figure)


def _draw_mean(axis, curves: Sequence[Curve], look: dict, label: str, band: bool) -> None:
    """Draws the mean of the curves at their common steps. band: also a band from the lowest value to the highest."""
    steps = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
    values = np.array([[value for step, value in curve if step in steps] for curve in curves])
    axis.plot(steps, values.mean(0), label=label, linewidth=1.2, **look)
    if band:
        axis.fill_between(steps, values.min(0), values.max(0), color=look["color"], alpha=0.2, linewidth=0)


def write_parquet(rows: Sequence[table.Row], path: pathlib.Path) -> None:
    """Writes the table as Parquet. Unknown values are null."""
    import pyarrow
    from pyarrow import parquet

    columns = dict.fromkeys(name for row in rows for name in row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), file)
