"""The configs of the levels of a run. `config.levels` is a tuple of dicts: a level's `name` and its changed fields."""

import pathlib

from ml_collections import ConfigDict

from srt_jax.config.paths import initial_weights, run_directory, start_from
from srt_jax.config.types import USERS_OWN
from srt_jax.errors import ConfigError
from srt_jax.files import shown


def level_configs(config: ConfigDict) -> list[ConfigDict]:
    """The config of each level. Raises ConfigError for a missing or repeated name, or an unknown field."""
    configs, names = [], set()
    for changes in map(dict, config.levels):
        if not (name := changes.pop("name", "")) or not isinstance(name, str):
            raise ConfigError(f"levels has an entry without a name ({shown(changes)}): give it a text as its name.")
        if name in names:
            raise ConfigError(
                f"levels has two entries of the name {name!r}, whose runs would share a folder: rename one."
            )
        names.add(name)
        level = config.copy_and_resolve_references()
        level.levels = ()
        _overlay(level, changes, f"levels.{name}")
        if level.guard.action in ("stop", "teacher"):  # teacher ends it at the second alarm
            raise ConfigError(
                f"guard.action is {level.guard.action!r} in level {name!r}, but the next level would start from the "
                "weights that are left behind: set it to 'warn'."
            )
        level.name = f"{config.name}/{name}"
        if configs:
            start_from(level, configs[-1], str(run_directory(configs[-1]) / "final"))
        configs.append(level)
    return configs


def checkable(level: ConfigDict, config: ConfigDict) -> ConfigDict:
    """The level's config, for checks. If the weights it will start from do not exist yet, it has the first one's."""
    level = level.copy_and_resolve_references()
    if not pathlib.Path(initial_weights(level)).is_dir():
        level.model.path, level.model.lora.path = config.model.path, config.model.lora.path
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
