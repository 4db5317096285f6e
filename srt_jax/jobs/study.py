"""Runs a study and judges its claims: arms x settings x seeds from a Python file.

    python -m srt_jax study studies/rival.py              all runs that the table lacks, then the report
    python -m srt_jax study studies/rival.py --quick      the file's smaller version, with its own table
    python -m srt_jax study studies/rival.py --report     only the report, from the table
    python -m srt_jax study studies/rival.py --dry_run    lists the missing runs
    python -m srt_jax study studies/rival.py --arms=votes only the runs of this arm; --settings=A,B works alike
    python -m srt_jax study studies/rival.py --shard=2/8  every eighth run from the third on, e.g. in a SLURM array

Shards on several hosts share the current folder and write the same table as one process.
Each finished run adds its rows to studies/results/NAME.csv. The same command resumes a study that was stopped; another
machine needs only that table. The report is studies/results/NAME.md with NAME.png, and NAME-stops.png for stops without
labels. Its table is also written to runs/studies/NAME/table.parquet. docs/laboratory.md explains study files and rules.
"""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from srt_jax import cli, runtime
from srt_jax.errors import TrainingStoppedError, UserError
from srt_jax.files import check_output_folder, write_file
from srt_jax.run import interrupt
from srt_jax.runtime.place import check_alone
from srt_jax.study import Study, load
from srt_jax.study.table import Row, locked


def shard(text: str) -> tuple[int, int]:
    """(i, N) of `i/N`."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard: give I/N with I from 0 to N-1, such as 2/8")
    return int(found[1]), int(found[2])


def names(text: str) -> tuple[str, ...]:
    """The names in `A,B`."""
    return tuple(filter(None, text.split(",")))


def study(options) -> int:
    """Makes the runs, judges the claims and writes the report. Returns the exit status."""
    from srt_jax.study import report, runner

    found = load(options.file, options.quick)
    results = options.results
    path = results / f"{found.name}.csv"
    if options.dry_run:
        todo = runner.missing(found, path, options.shard, options.arms, options.settings)
        print("\n".join(f"missing: {run.name}" for run in todo) or f"{path} has all runs.")
        return 0
    if not options.report:
        check_alone(os.environ, "srt study", "give each process its own runs by --shard={index}/{count}")
        runtime.start(found.config.mesh.cpu_devices)
        runner.make_runs(found, path, options.shard, options.arms, options.settings)
    if not runner.rows_of(found, path):
        return cli.complain(f"{path} has no run of this study: leave out --report to make them.")
    # If shards end together, the one that writes last must have read the rows of all.
    with locked(results / f"{found.name}.md"):
        rows = runner.rows_of(found, path)
        write_report(options, found, rows)
    print(report.arms_table(found, rows))
    for name, verdict in report.verdicts(found, rows).items():
        print(f"{name}: {verdict}")
    print(f"report: {results / f'{found.name}.md'}")
    return 0


def write_report(options, found: Study, rows: Sequence[Row]) -> None:
    """Writes the report with its figures, and the table as Parquet."""
    from srt_jax.study import report
    from srt_jax.study.spec import RUNS

    results = options.results
    report.draw(found, rows, results / f"{found.name}.png")
    if found.bars:
        report.draw_stops(found, rows, results / report.beside(f"{found.name}.png", "stops"))
        report.draw_runs(found, rows, results / report.beside(f"{found.name}.png", "runs"))
    command = f"python -m srt_jax study {options.file}" + " --quick" * options.quick
    write_file(results / f"{found.name}.md", report.markdown(found, rows, command, f"{found.name}.png"))
    report.write_parquet(rows, RUNS / found.name / "table.parquet")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=pathlib.Path, help="a Python file with get_study(quick)")
    parser.add_argument("--quick", action="store_true", help="the smaller version of the study")
    parser.add_argument("--report", action="store_true", help="make no run")
    parser.add_argument("--dry_run", action="store_true", help="name the missing runs and make none")
    parser.add_argument("--shard", type=shard, default=(0, 1), help="I/N: only every N-th run from the I-th on")
    parser.add_argument("--arms", type=names, default=(), help="A,B: only the runs of these arms")
    parser.add_argument("--settings", type=names, default=(), help="A,B: only the runs in these settings")
    parser.add_argument(
        "--results", type=pathlib.Path, default=pathlib.Path("studies/results"), help="folder of tables and reports"
    )
    options = parser.parse_args()
    try:
        check_output_folder(options.results)
    except OSError as e:
        parser.error(f"--results={options.results} cannot be made ({e}): choose another folder.")
    try:
        sys.exit(
            interrupt.run(
                lambda: study(options),
                "interrupted: finished runs are in the table. The same command resumes the study.",
            )
        )
    except TrainingStoppedError as e:
        print(e, file=sys.stderr)
        sys.exit(1)
    except UserError as e:
        sys.exit(cli.complain(str(e)))


if __name__ == "__main__":
    main()
