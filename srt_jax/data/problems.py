"""Problems from a named kind of source: `load(source_config)`. A new kind is one more entry of LOADERS."""

from srt_jax.data.base import DataError, Problem, fingerprint
from srt_jax.data.gym import load_gym
from srt_jax.data.jsonl import load_jsonl

__all__ = ["LOADERS", "DataError", "Problem", "fingerprint", "load"]

LOADERS = {"jsonl": load_jsonl, "gym": load_gym}


def load(source_config) -> list[Problem]:
    """The problems of a source, in a fixed order, with unique ids.

    source_config: dict or ConfigDict with `kind` ("jsonl" or "gym"), `limit` (rows to keep from the start, 0 = all)
      and what the kind asks for: see `load_jsonl` and `load_gym`. Raises DataError (one sentence) for anything wrong
      with it.
    """
    kind = source_config["kind"]
    if kind not in LOADERS:
        raise DataError(f"data source kind {kind!r} is unknown; set `kind` to one of {', '.join(map(repr, LOADERS))}.")
    limit = source_config.get("limit", 0)
    if not isinstance(limit, int) or limit < 0:
        raise DataError(f"data source `limit` is {limit!r}; set it to a number of rows, or to 0 for all of them.")
    return LOADERS[kind](source_config)
