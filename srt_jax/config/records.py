"""The config that a run folder records: how it is read again, and what of it must not change when the run goes on."""

import json
import pathlib

from ml_collections import ConfigDict

from srt_jax.config.fields import base, source
from srt_jax.errors import ConfigError
from srt_jax.files import read_json_object


def recorded(directory: pathlib.Path) -> ConfigDict:
    """The config of a run folder; fields that its config.json lacks get their defaults. Raises ConfigError."""
    config = base().unlock()
    try:
        config.update(ConfigDict(read_json_object(directory / "config.json")))
        for name, judge in config.eval.sets.items():
            config.eval.sets[name] = source(**judge)
    except OSError:
        raise ConfigError(f"{directory} has no config.json: name the folder of a run.") from None
    except ValueError as e:
        raise ConfigError(f"{directory}/config.json is damaged ({e}): restore it, or make the run again.") from None
    except TypeError as e:
        raise ConfigError(
            f"{directory}/config.json is of another version ({e}): use the version that made the run."
        ) from None
    return config


def fingerprint_fields(config: ConfigDict) -> dict:
    """The fields that must not change when a run is resumed: all but its length and what it only shows or saves.

    The length may change only where the learning rate does not depend on it.
    """
    fields = json.loads(config.to_json_best_effort())
    for shown in ("out", "name", "log", "checkpoint", "grader"):
        del fields[shown]
    if config.optimizer.schedule == "constant" or config.optimizer.schedule_steps:
        del fields["steps"]
    # The servers may change, and so may the limit of rounding errors. The servers' dtype may not.
    fields["rollout"]["vllm"] = {"dtype": config.rollout.vllm.dtype}
    for where in ("servers", "max_logprob_gap"):
        del fields["rollout"][where]
    return fields


def differing_fields(there: dict, here: dict, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two resolved configs differ, with both values."""
    names = []
    for key in sorted(there.keys() | here.keys()):
        x, y = there.get(key), here.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            names += differing_fields(x, y, f"{prefix}{key}.")
        elif x != y:
            names.append(f"{prefix}{key} ({x!r} there, {y!r} here)")
    return names
