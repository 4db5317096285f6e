"""Loads problems from any kind of source: `load(source_config)`. A new kind needs one more entry in LOADERS."""

from srt_jax.config.functions import is_function
from srt_jax.data import sets
from srt_jax.data.base import Problem
from srt_jax.data.function import load_function
from srt_jax.data.gym import load_gym
from srt_jax.data.jsonl import load_jsonl
from srt_jax.data.parquet import load_parquet
from srt_jax.errors import DataError

LOADERS = {"jsonl": load_jsonl, "parquet": load_parquet, "gym": load_gym, "set": sets.load_set}


def load(source_config) -> list[Problem]:
    """The problems of a source, in a fixed order, with unique ids.

    source_config: dict or ConfigDict with `kind` (a key of LOADERS, or MODULE:FUNCTION as in function.py), `limit` (the
      number of problems to read from the start; 0 for all) and the fields that the loader of this kind documents.
    Raises DataError, in one sentence, for any error in it.
    """
    kind = source_config["kind"]
    if is_function(kind):
        return load_function(source_config)
    if kind not in LOADERS:
        raise DataError(f"data source kind {kind!r} is unknown; set `kind` to one of {', '.join(map(repr, LOADERS))}.")
    limit = source_config.get("limit", 0)
    if not isinstance(limit, int) or limit < 0:
        raise DataError(f"data source `limit` is {limit!r}; set it to a number of rows, or to 0 for all of them.")
    return LOADERS[kind](source_config)


def title(source_config) -> str:
    """The name of a source in reports: its file, its task, its function, or the named set with its place."""
    if source_config["kind"] == "set":
        return sets.describe(source_config)
    if is_function(source_config["kind"]):
        return source_config["kind"]
    return source_config["task"] if source_config["kind"] == "gym" else source_config["path"]
