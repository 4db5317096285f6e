"""Selects the easiest or hardest share of a data set, by the scores in a file of srt label.

    python -m srt_jax subset --config=configs/X.py --labels=labels.jsonl --out=easy.jsonl
        [--by=vote_share|vote_share_parsed|pass_rate] [--fraction=0.3333] [--hardest]

The problems are those of the config's data. vote_share divides the winner's votes by all samples, vote_share_parsed by
the samples with an answer; SRT v1, appendix B.3, does not say which of them ranked its subset. pass_rate divides right
samples by all samples and needs answers. Problems with equal scores are ranked by their ids.
Writes {id, problem, answer, level, labelled} in the data's order, and <out>.provenance.json. Prints the share of the
subset that each other score would have chosen.
"""

import json
import pathlib

from absl import flags

from srt_jax import cli
from srt_jax.config.paths import expand_paths
from srt_jax.data import label_file
from srt_jax.data import problems as problem_sources
from srt_jax.data.base import Problem, fingerprint
from srt_jax.errors import DataError
from srt_jax.files import check_output_file, shown, write_json, write_jsonl


def select(rows: dict[str, dict], by: str, fraction: float, hardest: bool) -> set[str]:
    """Ids of the easiest (or hardest) `fraction` of the rows, at least one."""
    ranked = label_file.rank({id: row[by] for id, row in rows.items()})
    count = max(1, round(fraction * len(ranked)))
    return set(ranked[-count:] if hardest else ranked[:count])


def overlaps(rows: dict[str, dict], by: str, fraction: float, hardest: bool) -> dict[str, float]:
    """{other score: share of the subset that this score would have chosen, too}, for scores that all rows have."""
    chosen = select(rows, by, fraction, hardest)
    others = [
        name for name in label_file.SCORES if name != by and all(row.get(name) is not None for row in rows.values())
    ]
    return {name: len(chosen & select(rows, name, fraction, hardest)) / len(chosen) for name in others}


def subset(source, labels: str, by: str, fraction: float, hardest: bool, out: pathlib.Path) -> dict:
    """Writes the subset of a data source. Returns its report. Raises DataError."""
    problems = problem_sources.load(source)
    provenance, rows = label_file.read(labels)
    label_file.require_score(labels, rows, by, f"--by={by}")
    rows = {p.id: rows[p.id] for p in problems if p.id in rows}
    if not rows:
        raise DataError(
            f"{labels} labels none of the {len(problems)} problems of data: give the data for which it was written."
        )
    chosen = select(rows, by, fraction, hardest)
    kept = [p for p in problems if p.id in chosen]
    if scored := next((p for p in kept if p.metadata is not None), None):
        raise DataError(
            f"problem {shown(scored.id)} is scored by its task, which a JSONL file cannot hold: set "
            "data.config to easier problems instead."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "problems": len(problems),
        "labelled": len(rows),
        "kept": len(kept),
        "by": by,
        "fraction": fraction,
        "end": "hardest" if hardest else "easiest",
        "overlap": overlaps(rows, by, fraction, hardest),
    }
    write_json(
        out.with_name(f"{out.name}.provenance.json"),
        {
            **report,
            "labels": labels,
            "labels_fingerprint": label_file.fingerprint(labels),
            "data_fingerprint": fingerprint(problems),
            "labelled_by": provenance,
        },
    )
    write_jsonl(out, map(data_row, kept))
    return report


def data_row(problem: Problem) -> dict:
    """A problem as a row that data.kind=jsonl reads, with the default column names."""
    row = {
        "id": problem.id,
        "problem": problem.prompt,
        "answer": problem.answer,
        "level": problem.level,
        "labelled": problem.labelled,
    }
    return {name: value for name, value in row.items() if value is not None}


def main(argv) -> int:
    """Writes the subset and prints its report. Returns 0, or 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not (given.config and given.labels and given.out):
        return cli.complain("give --config=configs/X.py, --labels=FILE and --out=FILE, and no bare arguments.")
    if not 0 < given.fraction <= 1:
        return cli.complain(f"--fraction is {given.fraction}: it lies in (0, 1].")
    check_output_file(given.out)
    source = expand_paths(given.config).data
    report = subset(source, given.labels, given.by, given.fraction, given.hardest, pathlib.Path(given.out))
    print(
        f"{report['kept']} of {report['labelled']} problems with a label ({report['problems']} in the data): the "
        f"{report['end']} {given.fraction:.1%} by {given.by}"
    )
    for name, share in report["overlap"].items():
        print(f"{share:.1%} of them are among the {report['end']} by {name} too ({given.fraction:.1%} by chance)")
    print(json.dumps({"out": given.out, **report}))
    return 0


if __name__ == "__main__":
    cli.define_config("Experiment with the data to select from: a file or a shipped name.")
    cli.define_path("labels", "A file that srt label wrote for this data.")
    flags.DEFINE_enum("by", "vote_share", label_file.SCORES, "The score.")
    flags.DEFINE_float("fraction", 1 / 3, "Share of the problems that is kept.")
    flags.DEFINE_bool("hardest", False, "Keep the hardest instead of the easiest.")
    cli.define_path("out", "The JSONL file of the subset.")
    cli.run(main)
