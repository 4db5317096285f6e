"""Puts finished runs side by side: a summary, a table and a figure.

    python -m srt_jax.figures --out=runs/quickstart runs/quickstart/srt runs/quickstart/ground_truth
    python -m srt_jax.figures runs/tiny

Writes <out>/summary.json and <out>/figure.png, and prints the table; the runs must share their first evaluation set.
Without --out it prints a line for each finished run in the folders, oldest first, beside its own base.
"""
import argparse
import json
import pathlib

from srt_jax.config import expanded
from srt_jax.metrics import read_metrics

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
CURVES = ("avg", "maj", "label/pseudo_reward", "label/label_accuracy")
TITLES = ("accuracy of one sample (avg@{k})", "accuracy of the vote (maj@{k})", "pseudo-reward", "label accuracy")


def summarise(runs: list[pathlib.Path]) -> dict:
    """base and one entry per run: the last step's metrics, the best step apart; seconds by phase; versions."""
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    out = {"base": summaries[0]["base"]}
    for run, summary in zip(runs, summaries):
        out[run.name] = {**summary["last"], "best": summary["best"], "steps": summary["steps"]}
    out["seconds"] = {run.name: summary["seconds"] for run, summary in zip(runs, summaries)}
    out["versions"] = summaries[0]["versions"]
    return strip_set_names(out)


def strip_set_names(summary: dict) -> dict:
    """`eval/<set>/avg@32` -> `avg@32`: the runs put side by side share one evaluation set."""
    return {key.rsplit("/", 1)[-1]: strip_set_names(value) if isinstance(value, dict) else value
            for key, value in summary.items()}


def table(summary: dict, k: int) -> str:
    """base and runs as rows; avg, maj and pass at k of the last step, and the best avg with its step."""
    columns = [f"avg@{k}", f"maj@{k}", f"pass@{k}"]
    lines = [f"{'':<14}" + "".join(f"{c:>10}" for c in columns) + f"{'best avg':>12}{'at step':>9}"]
    for name in [n for n in summary if n not in ("seconds", "versions")]:
        row = summary[name]
        best = row.get("best")
        tail = f"{best[columns[0]]:>12.3f}{best['step']:>9}" if best else ""
        lines.append(f"{name:<14}" + "".join(f"{row[c]:>10.3f}" for c in columns) + tail)
    return "\n".join(lines)


def lines(runs: list[pathlib.Path]) -> str:
    """One line per run: avg and maj of base and last step, best avg and its step, seconds of all phases."""
    names = [str(run) for run in runs]
    width = max(map(len, names)) + 2
    found = [f"{'run':<{width}}{'steps':>6}{'base avg':>10}{'maj':>7}{'last avg':>10}{'maj':>7}{'best avg':>10}"
             f"{'at':>5}{'seconds':>9}"]
    for name, run in zip(names, runs):
        s = json.loads((run / "summary.json").read_text())
        (base, base_maj), (last, last_maj), (best, _) = (avg_and_maj(s[key]) for key in ("base", "last", "best"))
        found.append(f"{name:<{width}}{s['steps']:>6}{base:>10.3f}{base_maj:>7.3f}{last:>10.3f}{last_maj:>7.3f}"
                     f"{best:>10.3f}{s['best'].get('step', '-'):>5}{sum(s['seconds'].values()):>9.0f}")
    return "\n".join(found)


def avg_and_maj(metrics: dict) -> tuple[float, float]:
    """Of the first evaluation set that is no validation split, at its largest k."""
    def value(kind):
        found = (v for key, v in metrics.items() if f"/{kind}@" in key and "validation" not in key)
        return next(found, float("nan"))

    return value("avg"), value("maj")


def draw(runs: list[pathlib.Path], path: pathlib.Path, k: int) -> None:
    """Four panels over the steps of each run: avg@k, maj@k, pseudo-reward, label accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), constrained_layout=True)
    for run, colour in zip(runs, COLOURS):
        records = read_metrics(run)
        for axis, curve in zip(axes, CURVES):
            points = [(r["step"], value) for r in records for name, value in r.items()
                      if name == curve or (name.startswith("eval/") and name.endswith(f"/{curve}@{k}"))]
            axis.plot(*zip(*points), color=colour, label=run.name.replace("_", " "),
                      marker="o" if "/" not in curve else None, markersize=4)
    for axis, title in zip(axes, TITLES):
        axis.set(title=title.format(k=k), xlabel="step", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes the summary and the figure, prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of finished runs, or that hold such")
    parser.add_argument("--out", type=lambda path: pathlib.Path(expanded(path)),
                        help="folder of summary.json and figure.png")
    options = parser.parse_args()
    if options.out is None:
        finished = [file.parent for run in options.runs for file in run.rglob("summary.json")
                    if (file.parent / "config.json").exists()]  # not a summary of several runs
        finished.sort(key=lambda run: (run / "summary.json").stat().st_mtime)
        print(lines(finished) if finished else "no finished run there yet.")
        return
    for run in options.runs:
        if not (run / "summary.json").exists():
            parser.error(f"{run} has no summary.json: name folders of finished runs")
    summary = summarise(options.runs)
    k = max(int(name.split("@")[1]) for name in summary["base"] if name.startswith("avg@"))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(options.runs, options.out / "figure.png", k)
    print(table(summary, k))
    print(f"\n{options.out}/figure.png and summary.json written; curves: tensorboard --logdir {options.out}")


if __name__ == "__main__":
    main()
