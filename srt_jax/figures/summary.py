"""The summary of several runs, and its tables: base, last and best evaluation by set, and the mean over the sets."""

import pathlib
from collections.abc import Sequence

from srt_jax.config import MEAN, VALIDATION
from srt_jax.errors import FiguresError
from srt_jax.figures.runs import names_of, read_summary
from srt_jax.run.metrics import by_set, mean_over_sets


def summarise(runs: Sequence[pathlib.Path]) -> dict:
    """A summary of the runs. Raises FiguresError if they cannot be compared.

    k: samples of a problem. sets: those with answers that all runs have, without the held-out training problems.
    base: metrics by set, for each different base. runs: for each name the metrics by set of the `last` and the `best`
    step, the `step` of the latter, the number of `steps`, and the `fallback` if the guard returned. seconds: by run and
    phase. versions: by run and package.
    """
    names = names_of(runs)
    summaries = dict(zip(names, map(read_summary, runs)))
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
                **({"fallback": s["fallback"]} if s.get("fallback") else {}),
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

    The columns are avg, maj and pass at k of the last step, and the avg of the best step. A line below says where the
    guard returned a run to an earlier checkpoint.
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
    for name, run in summary["runs"].items():
        if fallback := run.get("fallback"):
            lines.append(f"\n{name}: the guard returned from step {fallback['step']} to step {fallback['chosen']}")
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
        s = read_summary(run)
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
