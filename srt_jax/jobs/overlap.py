"""Prints the problems that two data sets share. Differences in white space do not count.

    python -m srt_jax overlap dapo math500 amc83       which problems of MATH-500 and AMC are in DAPO
    python -m srt_jax overlap mine.jsonl yours.parquet

The first set is the training data. A set is a name (srt_jax/data/sets.py) or a JSONL or Parquet file with columns
`problem` and `id`.
"""

import argparse

from srt_jax import cli
from srt_jax.config import expanded, source
from srt_jax.data import overlap, problems
from srt_jax.errors import DataError


def main(argv: list[str]) -> int:
    """Prints a line for each shared problem and a line for each set."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax overlap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", help="the training set")
    parser.add_argument("test", nargs="+", help="evaluation sets")
    arguments = parser.parse_args(argv)
    train = problems.load(named_or_file(arguments.train))
    for name in arguments.test:
        test = problems.load(named_or_file(name))
        for problem, twin in overlap.overlap(train, test):
            print(f"{name} {problem.id} = {arguments.train} {twin.id}: {' '.join(problem.prompt.split())[:80]}")
        print(overlap.report(name, train, test))
    return 0


def named_or_file(text: str):
    """The data source for the name of a set or the path of a file."""
    kinds = {"jsonl": "jsonl", "parquet": "parquet"}
    ending = text.rpartition(".")[2]
    return source(kind=kinds[ending], path=expanded(text)) if ending in kinds else source(kind="set", name=text)


if __name__ == "__main__":
    import sys

    try:
        sys.exit(main(sys.argv[1:]))
    except DataError as e:
        sys.exit(cli.complain(str(e)))
