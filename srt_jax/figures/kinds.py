"""The figures of the papers, drawn from runs of this project. Each function writes one PNG file.

`KINDS` names them. docs/experiments.md has the command and the runs for each of them.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from srt_jax.config import MEAN
from srt_jax.data import label_file
from srt_jax.errors import FiguresError
from srt_jax.figures import panels
from srt_jax.figures.panels import SHARES, Panel
from srt_jax.figures.runs import Points, RunData, groups, mean_and_range, names_of, read_runs
from srt_jax.figures.summary import all_sets, common_sets, evaluations, largest_k, summarise
from srt_jax.run.probe import pass_at_k

THRESHOLDS = np.round(np.arange(0, 1.0001, 0.05), 2)  # vote shares, as in SRT v1, figure 9


RUNS = "folders of runs"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of figure. draw(path of the PNG file, the arguments of the command). reads: the kind of the arguments."""

    shows: str
    draw: Callable[[pathlib.Path, Sequence[pathlib.Path]], None]
    reads: str = RUNS
    folders: bool = True  # whether the arguments are folders


def of_training(tag: str) -> Callable[[RunData], Points]:
    """The curve of a metric of training steps."""
    return lambda run: [(record["step"], record[tag]) for record in run.records if tag in record]


def of_evaluation(sets: Sequence[str], eval_set: str, metric: str) -> Callable[[RunData], Points]:
    """The curve of a metric of an evaluation set; the set `mean` is the mean over `sets`."""

    def points(run: RunData) -> Points:
        found = ((record["step"], evaluations(record, list(sets)).get(eval_set, {})) for record in run.records)
        return [(step, values[metric]) for step, values in found if metric in values]

    return points


def of_samples(sets: Sequence[str]) -> Callable[[RunData], Points]:
    """The curve of avg@k with the run's own k, of the only set or of the mean over the sets."""

    def points(run: RunData) -> Points:
        k = largest_k(run.summary["last"] | run.summary["base"])
        return of_evaluation(sets, MEAN if len(sets) > 1 else sets[0], f"avg@{k}")(run)

    return points


def accuracies(summary: dict) -> list[Panel]:
    """Two panels: avg@k and maj@k, of the mean over the sets or of the only set. [] without answers."""
    k, sets = summary["k"], summary["sets"]
    if not sets:
        return []
    name, of = (MEAN, f"mean of {len(sets)} sets") if len(sets) > 1 else (sets[0], sets[0])
    return [
        Panel(f"{of}: {what} ({metric})", of_evaluation(sets, name, metric), "accuracy", SHARES, dots=True)
        for metric, what in ((f"avg@{k}", "one sample"), (f"maj@{k}", "majority vote"))
    ]


def draw_curves(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """Accuracy of the mean over the sets and of each set, pseudo-reward and label accuracy over the steps."""
    summary, runs = summarise(folders), groups(read_runs(folders))
    k, sets = summary["k"], summary["sets"]
    others = [name for name in all_sets(summary) if [name] != sets]  # a single set is in the first panels
    drawn = [
        *accuracies(summary),
        Panel("pseudo-reward", of_training("label/pseudo_reward"), "mean reward", SHARES),
        Panel("label accuracy", of_training("label/label_accuracy"), "share of labels that are right", SHARES),
        *(
            Panel(f"{name} (avg@{k})", of_evaluation(sets, name, f"avg@{k}"), "accuracy", SHARES, dots=True)
            for name in others
        ),
    ]
    panels.draw_curves(path, drawn, runs)


def draw_collapse(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """The signs of a collapse over the steps: pseudo-reward beside true reward, KL, entropy, answers, length.

    The runs may draw different numbers of samples, because the expected value of avg@k does not depend on k.
    """
    found = read_runs(folders)
    runs, sets = groups(found), common_sets({run.name: run.summary for run in found})
    what = f"mean of {len(sets)} sets" if len(sets) > 1 else "".join(sets)
    drawn = [
        *([Panel(f"{what}: one sample (avg@k)", of_samples(sets), "accuracy", SHARES, dots=True)] if sets else []),
        Panel(
            "pseudo-reward (dashed: true reward)",
            of_training("label/pseudo_reward"),
            "mean reward",
            SHARES,
            second=of_training("label/true_reward"),
        ),
        Panel("KL to the initial model", kl, "nats per token"),
        Panel("entropy", of_training("update/entropy"), "nats per token"),
        Panel("prompts with the most common winner", of_training("label/top_answer_share"), "share", SHARES),
        Panel("answer information", of_training("label/answer_information"), "nats"),
        Panel("response length", of_training("rollout/response_tokens"), "tokens"),
        Panel("responses with an answer", of_training("label/parse_rate"), "share", SHARES),
    ]
    panels.draw_curves(path, drawn, runs)


def kl(run: RunData) -> Points:
    """The KL to the initial model in training, else on evaluation samples (mean over the sets)."""
    found = of_training("update/kl")(run)
    if found:
        return found
    values = (
        (record["step"], [v for tag, v in record.items() if tag.startswith("eval/") and tag.endswith("/kl")])
        for record in run.records
    )
    return [(step, float(np.mean(of))) for step, of in values if of]


def draw_bars(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """Accuracy before and after training on each set, as bars: test-time training (SRT v1, figure 4)."""
    summary, found = summarise(folders), groups(read_runs(folders))
    k, sets = summary["k"], summary["sets"]
    if not sets:
        raise FiguresError("no evaluation set of these runs has answers, so there is no accuracy to draw.")
    names = [
        "\n".join(part for part, several in ((group.label, len(found) > 1), (name, len(sets) > 1)) if several) or name
        for group in found
        for name in sets
    ]
    with panels.sheet(path, 2, width=panels.width_of_bars(names), columns=2) as (figure, axes):
        for axis, metric, what in zip(axes, (f"maj@{k}", f"avg@{k}"), ("majority vote", "one sample")):
            series = {
                label: [
                    [evaluations(run.summary[when], sets)[name][metric] for run in group.runs]
                    for group in found
                    for name in sets
                ]
                for label, when in (("before training", "base"), ("after training", "last"))
            }
            panels.draw_bars(axis, names, series)
            axis.set(title=f"{what} ({metric})", ylabel="accuracy")
        panels.legend(figure, *axes[0].get_legend_handles_labels())


def draw_pass_at_k(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """pass@k over k for the base and the last weights of each run: a panel for the mean or only set, then each set."""
    summary, found = summarise(folders), groups(read_runs(folders))
    sets = summary["sets"]
    if not sets:
        raise FiguresError("no evaluation set of these runs has answers, so there is no pass@k to draw.")
    shown = [MEAN, *sets] if len(sets) > 1 else sets
    with panels.sheet(path, len(shown), width=5.0 if len(shown) > 1 else 7.0, columns=3) as (figure, axes):
        for axis, name in zip(axes, shown):
            bases = {tuple(curve_over_k(run, "base", sets, name)) for group in found for run in group.runs}
            x, mean, low, high = mean_and_range([list(base) for base in bases if base])
            axis.plot(x, mean, color="black", linestyle="--", marker="o", markersize=4, label="base")
            axis.fill_between(x, low, high, color="black", alpha=0.12, linewidth=0)
            for position, group in enumerate(found):
                curves = group.curves(functools.partial(curve_over_k, when="last", sets=sets, name=name))
                panels.draw_group(axis, curves, group.label, position, dots=True)
            axis.set_xscale("log", base=2)
            ticks = sorted({x for line in axis.lines for x in line.get_xdata()})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
            axis.set(title=f"pass@k: {name}", xlabel="k", ylabel="solved problems, share", ylim=SHARES)
        panels.add_legend(figure, axes, found, stopped=False)


def curve_over_k(run: RunData, when: str, sets: Sequence[str], name: str) -> Points:
    """[(k, pass@k)] of an evaluation set, `when`: base or last."""
    return sorted(pass_at_k(evaluations(run.summary[when], list(sets)).get(name, {})).items())


def draw_ladder(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    """Levels of a climb: the accuracy over all steps, level after level, and before and after each level."""
    climbs = [read_levels(folder) for folder in folders]
    with panels.sheet(path, 2 * len(folders), width=6.0, columns=2) as (_, axes):
        for row, (title, levels) in enumerate(zip(names_of(folders), climbs)):
            draw_climb(axes[2 * row], levels)
            axes[2 * row].set_title(f"{title}: level after level")
            k, own = only_sets(levels)
            series = {
                label: [[evaluations(run.summary[when], [])[name][f"avg@{k}"]] for run, name in zip(levels, own)]
                for label, when in (("before the level", "base"), ("after the level", "last"))
            }
            panels.draw_bars(axes[2 * row + 1], [run.folder.name for run in levels], series)
            axes[2 * row + 1].set(title=f"{title}: one sample (avg@{k})", ylabel="accuracy")
            axes[2 * row + 1].legend()


def draw_climb(axis, levels: Sequence[RunData]) -> None:
    """avg@k (solid) and maj@k (dashed) of each level over the steps of the climb, in one colour per level."""
    start, (k, own) = 0, only_sets(levels)
    for position, (run, name) in enumerate(zip(levels, own)):
        for metric, dash in ((f"avg@{k}", "-"), (f"maj@{k}", "--")):
            found = of_evaluation([], name, metric)(run)
            label = f"{run.folder.name.replace('_', ' ')}, {metric}"
            axis.plot(
                [start + step for step, _ in found],
                [value for _, value in found],
                color=f"C{position % 10}",
                linestyle=dash,
                marker="o",
                markersize=4,
                label=label,
            )
        start += run.summary["steps"]
        if position + 1 < len(levels):
            axis.axvline(start, color="gray", linewidth=1, linestyle=":")
    axis.set(xlabel="steps of all levels", ylabel="accuracy", ylim=SHARES)
    axis.legend(fontsize=8, loc="lower right")


def read_levels(folder: pathlib.Path) -> list[RunData]:
    """The runs of a climb's finished levels, in order. Raises FiguresError if the folder has no levels.json."""
    if not (folder / "levels.json").exists():
        raise FiguresError(f"{folder} has no levels.json: name the folder of a finished run with levels.")
    names = [summary["name"].rpartition("/")[2] for summary in json.loads((folder / "levels.json").read_text())]
    return read_runs([folder / name for name in names])


def only_sets(levels: Sequence[RunData]) -> tuple[int, list[str]]:
    """(k, the first evaluation set with answers of each level). Raises FiguresError if a level has none."""
    found = [summarise([run.folder]) for run in levels]
    if not all(summary["sets"] for summary in found):
        raise FiguresError("a level has no evaluation set with answers, so there is no accuracy to draw.")
    return found[0]["k"], [summary["sets"][0] for summary in found]


def draw_gap(path: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
    """Accuracy of votes and of samples above a vote share, and the share of such prompts (SRT v1, figure 9)."""
    found = {name: vote_shares(file) for name, file in labels_of(files)}
    with panels.sheet(path, 2, width=5.0, columns=2) as (figure, axes):
        for position, (name, rows) in enumerate(found.items()):
            x, vote, sample, kept = above_thresholds(*rows)
            color = f"C{position % 10}"
            axes[0].plot(x, vote, color=color, label=f"{name}: majority vote")
            axes[0].plot(x, sample, color=color, linestyle="--", label=f"{name}: one sample")
            axes[0].fill_between(x, sample, vote, color=color, alpha=0.15, linewidth=0)
            axes[1].plot(x, kept, color=color)
        axes[0].set(title="accuracy above a vote share", ylabel="accuracy", ylim=SHARES)
        axes[1].set(title="prompts above a vote share", ylabel="share of prompts", ylim=SHARES)
        for axis in axes:
            axis.set(xlabel="vote share of the majority", xlim=SHARES)
        panels.legend(figure, *axes[0].get_legend_handles_labels())


def labels_of(files: Sequence[pathlib.Path]) -> list[tuple[str, pathlib.Path]]:
    """[(the file's name without its ending, the file)]."""
    return list(zip(names_of([file.with_suffix("") for file in files]), files))


def vote_shares(file: pathlib.Path) -> tuple[np.ndarray, ...]:
    """(vote_share, vote_share_parsed, label_correct, pass_rate) [P] of a label file's problems with known answers.

    Raises DataError if it is no label file, and FiguresError if no answer is known.
    """
    names = ("vote_share", "vote_share_parsed", "label_correct", "pass_rate")
    rows = [row for row in label_file.read(file)[1].values() if row.get("pass_rate") is not None]
    rows = [row for row in rows if all(row.get(name) is not None for name in names)]
    if not rows:
        raise FiguresError(f"{file} has no row with vote_share, label_correct and pass_rate: label data with answers.")
    return tuple(np.array([float(row[name]) for row in rows]) for name in names)


def above_thresholds(
    share: np.ndarray, parsed: np.ndarray, correct: np.ndarray, passed: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(thresholds, accuracy of votes, accuracy of samples, share of prompts) [T]; thresholds without prompts are cut.

    The accuracies count prompts whose vote share among parsed answers is at least the threshold. The share of prompts
    counts all samples in the vote share (SRT v1, A.1).
    """
    known = [t for t in THRESHOLDS if (parsed >= t).any()]
    vote = [correct[parsed >= t].mean() for t in known]
    sample = [passed[parsed >= t].mean() for t in known]
    return np.array(known), np.array(vote), np.array(sample), np.array([(share >= t).mean() for t in known])


def draw_temperatures(path: pathlib.Path, files: Sequence[pathlib.Path]) -> None:
    """pass@1, pass@8, pass@32 and their mean AVG over the sampling temperature (SePT). A star marks the best AVG."""
    found = {name: read_sweep(file) for name, file in labels_of(files)}
    metrics = [m for m in ("pass@1", "pass@8", "pass@32", "AVG") if any(m in v for s in found.values() for _, v in s)]
    known = [temperature for sweep in found.values() for temperature, _ in sweep]
    margin = 0.05 * (max(known) - min(known)) or 0.05
    with panels.sheet(path, len(metrics)) as (figure, axes):
        for axis, metric in zip(axes, metrics):
            for position, (name, sweep) in enumerate(found.items()):
                curve = [(t, values[metric]) for t, values in sweep if metric in values]
                axis.plot(*zip(*curve), label=name, marker="o", markersize=4, **panels.style(position))
                if metric == "AVG":
                    size = max(7, 16 - 4 * position)  # stars at one place are all visible
                    top = max(curve, key=lambda point: point[1])
                    axis.plot(*top, "*", color=f"C{position % 10}", markersize=size, clip_on=False)
            axis.set(title=metric, xlabel="sampling temperature", ylabel="share of problems", ylim=SHARES)
            axis.set_xlim(min(known) - margin, max(known) + margin)  # a sweep has no pass@8 at temperature 0
        panels.legend(figure, *axes[0].get_legend_handles_labels())


def read_sweep(file: pathlib.Path) -> list[tuple[float, dict[str, float]]]:
    """[(temperature, averages)] from the output of `srt evaluate --temperatures`, whose last line is JSON."""
    for line in reversed(file.read_text().splitlines()):
        try:
            found = json.loads(line)["temperatures"]
        except (ValueError, KeyError, TypeError):
            continue
        return sorted((float(temperature), values) for temperature, values in found.items())
    raise FiguresError(f"{file} is no output of srt evaluate --temperatures: redirect that command's output to a file.")


KINDS = {
    "curves": Kind("accuracy by set and of the mean, pseudo-reward, label accuracy", draw_curves),
    "collapse": Kind("pseudo-reward, true reward, KL, entropy, answers, length", draw_collapse),
    "bars": Kind("accuracy before and after training", draw_bars),
    "pass_at_k": Kind("pass@k of base and trained weights", draw_pass_at_k),
    "ladder": Kind("accuracy level after level", draw_ladder, "folders of runs with levels"),
    "gap": Kind("accuracy of votes and samples by vote share", draw_gap, "label files of srt label", folders=False),
    "temperatures": Kind(
        "pass@k by sampling temperature", draw_temperatures, "outputs of srt evaluate --temperatures", folders=False
    ),
}
