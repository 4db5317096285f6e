"""Draws figures of runs, and prints a table of them.

    python -m srt_jax figures --out=runs/quickstart runs/quickstart/srt runs/quickstart/ground_truth
    python -m srt_jax figures --out=runs/quickstart --figure=collapse --board runs/quickstart/srt
    python -m srt_jax figures runs/tiny

Writes <out>/<figure>.png for each figure. Runs that differ in their seed only are one curve with a band. The figure
`curves` also writes <out>/summary.json and prints the table. Without --out it prints a line for each finished run in
the folders, oldest first.
"""

import argparse
import pathlib

from srt_jax.config import expanded
from srt_jax.errors import FiguresError, UserError
from srt_jax.figures.kinds import KINDS, RUNS
from srt_jax.figures.summary import lines, summarise, table
from srt_jax.files import write_json


def parse() -> argparse.ArgumentParser:
    """The arguments of the command."""
    kinds = "\n".join(f"  {name:<14}{kind.shows} (of {kind.reads})" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax figures",
        description=f"{__doc__}\nfigures:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=pathlib.Path, help="folders of runs or their parents; files for some figures"
    )
    parser.add_argument("--out", type=lambda path: pathlib.Path(expanded(path)), help="folder of the PNG files")
    parser.add_argument("--figure", choices=KINDS, action="append", help="a figure; repeat it for several (curves)")
    parser.add_argument("--board", action="store_true", help="also add the figures to <out> as TensorBoard images")
    return parser


def main() -> None:
    """Draws the figures, or prints the lines of the runs."""
    parser = parse()
    options = parser.parse_args()
    given = list(dict.fromkeys(options.runs))
    for path in given:
        if not path.exists():
            parser.error(f"{path} does not exist: name folders of runs, or one that contains them")
    if options.out is None:
        if options.figure or options.board:
            parser.error("--figure and --board need --out: give the folder of the PNG files")
        print(overview(given))
        return
    figures = list(dict.fromkeys(options.figure or ["curves"]))
    try:
        for name in figures:
            KINDS[name].draw(options.out / f"{name}.png", arguments(name, given))
        if "curves" in figures:
            summary = summarise(arguments("curves", given))
            write_json(options.out / "summary.json", summary)
            print(table(summary) + "\n")
    except UserError as e:
        parser.error(str(e))
    print("\n".join(f"{options.out}/{name}.png written" for name in figures))
    if options.board:
        to_board(options.out, figures)
        print(f"tensorboard --logdir {options.out}")


def arguments(figure: str, given: list[pathlib.Path]) -> list[pathlib.Path]:
    """The folders or files that a figure reads. A folder that is no run stands for all runs in it.

    Raises FiguresError if a folder has no run, or if the figure cannot read a file or a folder.
    """
    kind = KINDS[figure]
    for path in given:
        if path.is_dir() != kind.folders:
            raise FiguresError(
                f"{path} is {'a folder' if path.is_dir() else 'no folder'}: --figure={figure} reads {kind.reads}."
            )
    return [run for path in given for run in runs_in(path)] if kind.reads == RUNS else given


def runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folder if it is a run, else the runs in it, sorted by name. Raises FiguresError if there is none."""
    if (folder / "metrics.jsonl").exists():
        return [folder]
    found = sorted(file.parent for file in folder.rglob("metrics.jsonl"))
    if not found:
        raise FiguresError(f"{folder} has no run: name folders with a metrics.jsonl, or their parents.")
    return found


def overview(folders: list[pathlib.Path]) -> str:
    """A line for each finished run in the folders, oldest first."""
    finished = [
        file.parent
        for folder in folders
        for file in folder.rglob("summary.json")
        if (file.parent / "config.json").exists()
    ]  # a summary.json without config.json is about several runs
    finished.sort(key=lambda run: (run / "summary.json").stat().st_mtime)
    return lines(finished) if finished else "no finished run there yet."


def to_board(out: pathlib.Path, figures: list[str]) -> None:
    """Adds the figures to TensorBoard's Images tab, as images of the folder `out`."""
    from srt_jax.run.board import Board

    board = Board(out)
    for name in figures:
        board.image(f"figures/{name}", (out / f"{name}.png").read_bytes(), 0)
    board.close()


if __name__ == "__main__":
    main()
