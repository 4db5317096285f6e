"""The paths in a config: the fields that are paths, and the expansion of `~` to the home directory."""

import os
import pathlib

from ml_collections import ConfigDict

PATHS = (
    "out",
    "model.path",
    "model.lora.path",
    "labels.path",
    "curriculum.path",
    "rollout.vllm.weights_directory",
    "rollout.vllm.python",
)
SOURCE_PATHS = ("path", "root", "paraphrases")


def run_directory(config: ConfigDict) -> pathlib.Path:
    """<out>/<name>."""
    return pathlib.Path(config.out) / config.name


def initial_weights(config: ConfigDict) -> str:
    """The weights from which a run starts: its model, or its adapter ("": a new one)."""
    return config.model.lora.path if config.model.lora.rank else config.model.path


def weights_field(config: ConfigDict) -> str:
    """The field by which another run can start from the weights that a run with this config exports."""
    return "model.lora.path" if config.model.lora.rank else "model.path"


def start_from(config: ConfigDict, before: ConfigDict, weights: str) -> None:
    """Makes a run start from weights that the run `before` exported."""
    if before.model.lora.rank:
        config.model.lora.path = weights
    else:
        config.model.path = weights


def expanded(path: str) -> str:
    """The path with a leading `~` expanded. Shells do not expand `~` inside an argument such as `--out=~/runs`."""
    return os.path.expanduser(path)


def expand_paths(config: ConfigDict) -> ConfigDict:
    """A copy of the config with a leading `~` expanded in every path."""
    config = config.copy_and_resolve_references()
    for field in PATHS:
        *sections, name = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = expanded(section[name])
    for source in (config.data, *config.eval.sets.values()):
        for name in SOURCE_PATHS:
            source[name] = expanded(source[name])
    return config
