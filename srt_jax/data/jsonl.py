"""JSONL files (one JSON object per line) as problems."""

from collections.abc import Iterator
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.data.rows import problems_of
from srt_jax.errors import DataError
from srt_jax.files import parse_json, shown


def load_jsonl(config) -> list[Problem]:
    """Problems of the file `config["path"]`, in file order; reads line by line and no further than `limit` asks.

    Columns: see `problems_of`. White lines are skipped. Raises DataError for a missing or empty file, a line that is
    not a JSON object, and what `problems_of` refuses.
    """
    path = Path(config["path"])
    return problems_of(jsonl_rows(path), path, config)


def jsonl_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not white."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; set `path` to a JSONL file that exists.")
    if path.suffix == ".parquet":
        raise DataError(f"{path} is a Parquet file, to be read with `kind` 'parquet'.")
    # Binary: only \n ends a line (str.splitlines would also cut at U+2028), and a cut UTF-8 character is found with
    # its line.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                half = not line.endswith(b"\n")
                what = "is the last one and looks half-written" if half else "is not valid JSON"
                remedy = "write the file again or delete that line" if half else "correct or delete that line"
                if number == 1:  # rather another format than a slip: CSV, or one JSON array over many lines
                    remedy = "a JSONL file has one JSON object on each line"
                raise DataError(f"{path} line {number} {what} ({error}); {remedy}.") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path} line {number} is {shown(row)}, not a JSON object; "
                    "write every line as an object with named columns."
                )
            yield number, row
