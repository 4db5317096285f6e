"""Climbing: one run per level of difficulty, each from the weights of the one before (SRT v2).

`config.levels` is a tuple of dicts: a level's `name` and the fields in which it differs from the config. The run
folders are <out>/<name>/<level>. The same command resumes a level that was stopped. Complete levels are not run again.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from srt_jax.config import run_directory
from srt_jax.config.levels import checkable, level_configs
from srt_jax.config.paths import expand_paths, initial_weights, start_from
from srt_jax.config.resolve import on_this_machine
from srt_jax.files import write_json
from srt_jax.log import logger
from srt_jax.run.prepare import prepare
from srt_jax.runtime import is_first_process
from srt_jax.train import train


def train_levels(config: ConfigDict, allowed: Sequence[str] = ()) -> list[dict]:
    """The summaries of all levels, in order; also written to <out>/<name>/levels.json. allowed: see `train`."""
    config = expand_paths(config)
    resolved = [on_this_machine(level) for level in level_configs(config)]
    configs = [level for level, _ in resolved]
    for note in dict.fromkeys(note for _, notes in resolved for note in notes):
        logger.info(note)
    for level in configs:
        prepare(checkable(level, config))
    summaries = []
    for before, level in zip([None, *configs], configs):
        if before and config.levels_from == "best":
            start_from(level, before, best_weights(before, summaries[-1]))
        logger.info(f"level {level.name}: from {initial_weights(level) or level.model.path}")
        summaries.append(train(level, allowed))
    if is_first_process():
        write_json(run_directory(config) / "levels.json", summaries)
    return summaries


def best_weights(config: ConfigDict, summary: dict) -> str:
    """The path of the best evaluated weights of a finished run. If step 0 was the best, the run started from them."""
    step = summary["best"].get("step", summary["steps"])
    if step == 0:
        return initial_weights(config)
    return str(run_directory(config) / ("final" if step == summary["steps"] else "best"))
