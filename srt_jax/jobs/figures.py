"""Puts finished runs side by side: a summary, a table and a figure.

    python -m srt_jax figures --out=runs/quickstart runs/quickstart/srt runs/quickstart/ground_truth
    python -m srt_jax figures runs/tiny

Writes <out>/summary.json and <out>/figure.png, and prints the table. The figure has a panel for every evaluation set
with answers, and for the mean over the sets that all runs have, without the held-out training problems (SRT v1,
Fig. 2). Each run is a curve. Without --out it prints a line for each finished run in the folders, oldest first.
"""

import argparse
import json
import math
import pathlib

from srt_jax.config import MEAN, VALIDATION, expanded
from srt_jax.errors import FiguresError
from srt_jax.files import write_json
from srt_jax.run.metrics import by_set, mean_over_sets, read_metrics

COLUMNS = 4  # panels of a row
TRAINING = {"label/pseudo_reward": "pseudo-reward", "label/label_accuracy": "label accuracy"}


def names_of(runs: list[pathlib.Path]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to distinguish them."""
    depth, paths = 1, [run.resolve() for run in runs]
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names) or depth > max(len(path.parts) for path in paths):
            return names
        depth += 1


def summarise(runs: list[pathlib.Path]) -> dict:
    """A summary of the runs. Raises FiguresError if they cannot be compared.

    k: samples of a problem. sets: those with answers that all runs have, without the held-out training problems.
    base: metrics by set, for each different base. runs: for each name the metrics by set of the `last` and the `best`
    step, the `step` of the latter, and the number of `steps`. seconds: by run and phase. versions: by run and package.
    """
    names = names_of(runs)
    summaries = dict(zip(names, (json.loads((run / "summary.json").read_text()) for run in runs)))
    k, sets = samples(summaries), common_sets(summaries)
    bases = {name: evaluations(summary["base"], sets) for name, summary in summaries.items()}
    first = next(iter(bases.values()))
    alike = all(base == first for base in bases.values())
    return {
        "k": k,
        "sets": sets,
        "base": {"base": first} if alike else {f"base of {name}": base for name, base in bases.items()},
        "runs": {
            name: {
                "last": evaluations(s["last"], sets),
                "steps": s["steps"],
                "best": {"step": s["best"].get("step"), **evaluations(s["best"], sets)} if s["best"] else {},
            }
            for name, s in summaries.items()
        },
        "seconds": {name: s["seconds"] for name, s in summaries.items()},
        "versions": {name: s["versions"] for name, s in summaries.items()},
    }


def answered(metrics: dict) -> dict[str, dict[str, float]]:
    """{set: metrics} of the evaluation sets that have answers, without their mean."""
    return {
        name: values
        for name, values in by_set(metrics).items()
        if name != MEAN and any(metric.startswith("avg@") for metric in values)
    }


def evaluations(metrics: dict, sets: list[str]) -> dict[str, dict[str, float]]:
    """{set: metrics} of the sets with answers, and their mean if there are several `sets` and all are present."""
    found = answered(metrics)
    if any(name not in found for name in sets):
        return found
    mean = mean_over_sets({f"eval/{name}/{metric}": v for name in sets for metric, v in found[name].items()})
    return found | by_set(mean)


def samples(summaries: dict[str, dict]) -> int | None:
    """k of avg@k; None if no set has answers. Raises FiguresError if it differs between the runs."""
    found = {name: largest_k(s["last"] | s["base"]) for name, s in summaries.items()}
    known = {k for k in found.values() if k}
    if len(known) > 1:
        raise FiguresError(
            f"the runs draw different numbers of samples, {found}: maj@k and pass@k of different k "
            "cannot be compared, so give runs with one eval.samples."
        )
    return next(iter(known), None)


def largest_k(metrics: dict) -> int:
    """k of avg@k; 0 if there is none."""
    return max(
        (int(metric[4:]) for values in answered(metrics).values() for metric in values if metric.startswith("avg@")),
        default=0,
    )


def common_sets(summaries: dict[str, dict]) -> list[str]:
    """The evaluation sets with answers that all runs have, in the first run's order, without training problems."""
    own = {
        name: [s for s in answered(summary["last"] | summary["base"]) if s != VALIDATION]
        for name, summary in summaries.items()
    }
    first = next(iter(own.values()))
    common = [name for name in first if all(name in sets for sets in own.values())]
    if any(own.values()) and not common:
        raise FiguresError(f"the runs share no evaluation set with answers: {own}. Give runs that do.")
    return common


def table(summary: dict) -> str:
    """The summary as text. Base and runs have a row for each set and one for the mean.

    The columns are avg, maj and pass at k of the last step, and the avg of the best step.
    """
    k, several = summary["k"], len(all_sets(summary)) > 1
    if k is None:
        return "no evaluation set has answers."
    columns = [f"avg@{k}", f"maj@{k}", f"pass@{k}"]
    rows = [(name, base, {}) for name, base in summary["base"].items()]
    rows += [(name, run["last"], run["best"]) for name, run in summary["runs"].items()]
    width = max(14, *(len(name) + 2 for name, *_ in rows))
    set_width = max(len(name) for name in [*all_sets(summary), MEAN]) + 2 if several else 0
    lines = [
        " " * width
        + (f"{'set':<{set_width}}" if several else "")
        + "".join(f"{c:>10}" for c in columns)
        + f"{'best avg':>12}{'at step':>9}"
    ]
    for name, last, best in rows:
        for eval_set, values in last.items():
            tail = f"{best[eval_set][columns[0]]:>12.3f}{best['step']:>9}" if eval_set in best else ""
            lines.append(
                f"{name:<{width}}"
                + (f"{eval_set:<{set_width}}" if several else "")
                + "".join(f"{values[c]:>10.3f}" for c in columns)
                + tail
            )
    if len(summary["sets"]) > 1:
        lines.append(f"\n{MEAN}: over {', '.join(summary['sets'])}")
    return "\n".join(lines)


def all_sets(summary: dict) -> list[str]:
    """The sets with answers of all runs, in order of appearance."""
    return list(dict.fromkeys(name for run in summary["runs"].values() for name in run["last"] if name != MEAN))


def lines(runs: list[pathlib.Path]) -> str:
    """One line per run: avg and maj of base and last step, best avg and its step, seconds of all phases."""
    names = [str(run) for run in runs]
    width = max(map(len, names)) + 2
    found = [
        f"{'run':<{width}}{'steps':>6}{'base avg':>10}{'maj':>7}{'last avg':>10}{'maj':>7}{'best avg':>10}"
        f"{'at':>5}{'seconds':>9}"
    ]
    for name, run in zip(names, runs):
        s = json.loads((run / "summary.json").read_text())
        (base, base_maj), (last, last_maj), (best, _) = (avg_and_maj(s[key]) for key in ("base", "last", "best"))
        found.append(
            f"{name:<{width}}{s['steps']:>6}{base:>10.3f}{base_maj:>7.3f}{last:>10.3f}{last_maj:>7.3f}"
            f"{best:>10.3f}{s['best'].get('step', '-'):>5}{sum(s['seconds'].values()):>9.0f}"
        )
    return "\n".join(found)


def avg_and_maj(metrics: dict) -> tuple[float, float]:
    """(avg@k, maj@k): means over the run's own sets with answers, without the held-out training problems."""
    sets, k = [name for name in answered(metrics) if name != VALIDATION], largest_k(metrics)
    values = evaluations(metrics, sets).get(MEAN if len(sets) > 1 else "".join(sets[:1]), {})
    return values.get(f"avg@{k}", float("nan")), values.get(f"maj@{k}", float("nan"))


def panels(summary: dict) -> list[tuple[str, str, str]]:
    """(title, evaluation set or "", metric) of each panel: first means or the only set, then training, then sets."""
    k, sets = summary["k"], summary["sets"]
    found = []
    if len(sets) > 1:
        found += [(f"mean of {len(sets)} sets ({metric})", MEAN, metric) for metric in (f"avg@{k}", f"maj@{k}")]
    elif sets:
        found += [
            (f"accuracy of one sample (avg@{k})", sets[0], f"avg@{k}"),
            (f"accuracy of the vote (maj@{k})", sets[0], f"maj@{k}"),
        ]
    found += [(title, "", tag) for tag, title in TRAINING.items()]
    others = [name for name in all_sets(summary) if [name] != sets]  # a single set is in the first panels
    return found + [(f"{name} (avg@{k})", name, f"avg@{k}") for name in others]


def points(records: list[dict], sets: list[str], eval_set: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a panel's curve, for the steps with this metric."""
    if not eval_set:
        return [(r["step"], r[metric]) for r in records if metric in r]
    found = ((r["step"], evaluations(r, sets).get(eval_set, {})) for r in records)
    return [(step, values[metric]) for step, values in found if metric in values]


def draw(runs: list[pathlib.Path], path: pathlib.Path, summary: dict) -> None:
    """Panels over the steps, one curve per run in each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = panels(summary)
    rows = math.ceil(len(drawn) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(16, 3.8 * rows + 0.4), constrained_layout=True, squeeze=False)
    for position, (name, run) in enumerate(zip(summary["runs"], runs)):
        records, style = read_metrics(run), ("-", "--", ":", "-.")[position // 10 % 4]
        for axis, (_, eval_set, metric) in zip(axes.flat, drawn):
            found = points(records, summary["sets"], eval_set, metric)
            axis.plot(
                *(zip(*found) if found else ((), ())),
                color=f"C{position % 10}",
                linestyle=style,
                label=name.replace("_", " "),
                marker="o" if eval_set else None,
                markersize=4,
            )
    for axis, (title, *_) in zip(axes.flat, drawn):
        axis.set(title=title, xlabel="step", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(drawn) :]:
        axis.set_axis_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(runs)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes the summary and the figure, prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of finished runs, or their parents")
    parser.add_argument(
        "--out", type=lambda path: pathlib.Path(expanded(path)), help="folder of summary.json and figure.png"
    )
    options = parser.parse_args()
    for run in options.runs:
        if not run.is_dir():
            parser.error(f"{run} is no folder: name folders of runs, or one that contains them")
    if options.out is None:
        finished = [
            file.parent
            for run in options.runs
            for file in run.rglob("summary.json")
            if (file.parent / "config.json").exists()
        ]  # a summary.json without config.json is about several runs
        finished.sort(key=lambda run: (run / "summary.json").stat().st_mtime)
        print(lines(finished) if finished else "no finished run there yet.")
        return
    for run in options.runs:
        if not (run / "summary.json").exists():
            parser.error(f"{run} has no summary.json: name folders of finished runs")
    runs = list(dict.fromkeys(options.runs))
    try:
        summary = summarise(runs)
    except FiguresError as e:
        parser.error(str(e))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(runs, options.out / "figure.png", summary)
    write_json(options.out / "summary.json", summary)
    print(table(summary))
    print(f"\n{options.out}/figure.png and summary.json written; curves: tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
