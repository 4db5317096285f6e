"""A user's function as a source of problems: `kind` is MODULE:FUNCTION.

    def problems(source: dict) -> Iterable[dict]

source: all fields of the source in the config, e.g. `path`, `size`, `seed` and `config`, whose keys the user chooses.
The function returns rows like those of a JSONL file: `problem` and, if known, `answer`, `id` and `level`. It must
always return them in the same order.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from srt_jax.config.functions import call, load
from srt_jax.data.base import Problem
from srt_jax.data.rows import problems_of
from srt_jax.errors import DataError
from srt_jax.files import shown


def load_function(config: Any) -> list[Problem]:
    """The problems of the function that `config["kind"]` names, in its order, up to `limit`.

    Raises ConfigError for a function that is missing or fails, and DataError for rows that are no problems.
    """
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return problems_of(enumerate(_rows(config["kind"], fields), 1), config["kind"], config, "row")


def _rows(kind: str, source: dict) -> Iterator[dict]:
    rows = call("kind", kind, load("kind", kind), source)
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | dict):
        raise DataError(f"kind is {kind!r}, which returns {shown(rows)}: let it return a list of rows, one dict each.")
    remaining, end = iter(rows), object()
    while (row := call("kind", kind, next, remaining, end)) is not end:  # row by row, because `rows` may be a generator
        if not isinstance(row, dict):
            raise DataError(f"kind is {kind!r}, which returns the row {shown(row)}: let each row be a dict.")
        yield row
