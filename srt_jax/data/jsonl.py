"""JSONL files (one JSON object per line) as problems."""

from collections.abc import Iterator
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.data.rows import problems_of
from srt_jax.errors import DataError
from srt_jax.files import read_jsonl


def load_jsonl(config) -> list[Problem]:
    """Problems of the file `config["path"]`, in file order. Reads line by line, and stops after `limit` problems.

    `problems_of` explains the columns. Blank lines are skipped. Raises DataError for a missing or empty file, for a
    line that is not a JSON object, and for the errors of `problems_of`.
    """
    path = Path(config["path"])
    return problems_of(jsonl_rows(path), path, config)


def jsonl_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not blank. Raises DataError for a missing file."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; set `path` to a JSONL file that exists.")
    if path.suffix == ".parquet":
        raise DataError(f"{path} is a Parquet file; set `kind` to 'parquet'.")
    yield from read_jsonl(path)
