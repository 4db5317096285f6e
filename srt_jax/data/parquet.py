"""Parquet files as problems. They may have any columns, or verl's format, which SRT, SePT and TTRL use."""

from collections.abc import Iterator
from pathlib import Path

from srt_jax.data.base import Problem
from srt_jax.data.rows import problems_of
from srt_jax.errors import DataError


def load_parquet(config) -> list[Problem]:
    """Problems of the file `config["path"]`, in file order. `problems_of` explains the columns and the errors."""
    path = Path(config["path"])
    return problems_of(parquet_rows(path), path, config, unit="row")


def parquet_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(row number from 1, columns) of every row. Raises DataError for a missing file or another format."""
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise DataError(f"{path} is not a file; set `path` to a Parquet file that exists.")
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
        for start, batch in enumerate(batches):
            yield from enumerate(batch.to_pylist(), 1 + 1024 * start)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read as Parquet ({reason}); write or download it again.") from error
