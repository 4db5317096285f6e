"""Climbing: one run per level of difficulty, each from the weights of the one before (SRT v2).

`config.levels` is a tuple of dicts: a level's `name` and the fields in which it differs from the config. The runs lie
in <out>/<name>/<level>; a level that is complete is not run again: the same command goes on where a run was stopped.
"""

import pathlib

from ml_collections import ConfigDict

from srt_jax.config import run_directory
from srt_jax.config.paths import expand_paths
from srt_jax.config.resolve import on_this_machine
from srt_jax.config.types import USERS_OWN
from srt_jax.errors import ConfigError
from srt_jax.files import shown, write_json
from srt_jax.log import logger
from srt_jax.run.prepare import prepare
from srt_jax.runtime import is_first_process
from srt_jax.train import train


def train_levels(config: ConfigDict) -> list[dict]:
    """The summaries of all levels, in order; also written to <out>/<name>/levels.json."""
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
            level.model.path = best_weights(before, summaries[-1])
        logger.info(f"level {level.name}: from {level.model.path}")
        summaries.append(train(level))
    if is_first_process():
        write_json(run_directory(config) / "levels.json", summaries)
    return summaries


def best_weights(config: ConfigDict, summary: dict) -> str:
    """Where the weights of a finished run's best evaluated step lie: of step 0 they are those it started from."""
    step = summary["best"].get("step", summary["steps"])
    if step == 0:
        return config.model.path
    return str(run_directory(config) / ("final" if step == summary["steps"] else "best"))


def level_configs(config: ConfigDict) -> list[ConfigDict]:
    """The config of each level. Raises ConfigError for a level without name, or with an unknown field."""
    configs, names = [], set()
    for changes in map(dict, config.levels):
        if not (name := changes.pop("name", "")) or not isinstance(name, str):
            raise ConfigError(f"levels holds an entry without a name ({shown(changes)}): give it one, a text.")
        if name in names:
            raise ConfigError(
                f"levels holds two entries of the name {name!r}, whose runs would share a folder: rename one."
            )
        names.add(name)
        level = config.copy_and_resolve_references()
        level.levels = ()
        _overlay(level, changes, f"levels.{name}")
        level.name = f"{config.name}/{name}"
        if configs:
            level.model.path = str(run_directory(configs[-1]) / "final")
        configs.append(level)
    return configs


def checkable(level: ConfigDict, config: ConfigDict) -> ConfigDict:
    """The level's config, with the first level's model where the one it will start from is not there yet."""
    level = level.copy_and_resolve_references()
    if not pathlib.Path(level.model.path).is_dir():
        level.model.path = config.model.path
    return level


def _overlay(config: ConfigDict, changes: dict, where: str) -> None:
    for key, value in changes.items():
        if key not in config:
            raise ConfigError(f"{where}.{key} is set, but there is no such config field: correct its name.")
        if isinstance(value, dict) and isinstance(config[key], ConfigDict) and key not in (*USERS_OWN, "sets"):
            _overlay(config[key], value, f"{where}.{key}")
        else:
            try:
                with config.unlocked():
                    config[key] = ConfigDict(value) if isinstance(value, dict) else value
            except TypeError:
                raise ConfigError(
                    f"{where}.{key} is {shown(value)}, which is of another type than {shown(config[key])}: correct it."
                ) from None
