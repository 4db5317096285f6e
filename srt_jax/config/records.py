"""Writes the config of a run folder, reads it, and compares it with others."""

import json
import pathlib
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from srt_jax.config.fields import base, source
from srt_jax.config.types import USERS_OWN
from srt_jax.config.versions import FORMAT, migrated
from srt_jax.errors import ConfigError, FormatError
from srt_jax.files import read_json_object


def recorded(directory: pathlib.Path) -> ConfigDict:
    """The config of a run folder, also of an older version. Fields that are still missing get their defaults.

    Raises ConfigError, or FormatError for a newer version.
    """
    config = base().unlock()
    try:
        fields = migrated(read_json_object(directory / "config.json"), as_json(config), directory)
        config.update(ConfigDict(fields))
        for name, eval_set in config.eval.sets.items():
            config.eval.sets[name] = source(**eval_set)
    except OSError:
        raise ConfigError(f"{directory} has no config.json: name the folder of a run.") from None
    except ValueError as e:
        raise ConfigError(f"{directory}/config.json is damaged ({e}): restore it, or make the run again.") from None
    except TypeError as e:
        raise ConfigError(
            f"{directory}/config.json is of another version ({e}): use the version that made the run."
        ) from None
    return config


def as_json(config: ConfigDict) -> dict:
    """All fields as plain values: tuples become lists."""
    return json.loads(config.to_json_best_effort())


def resolved(config: ConfigDict) -> str:
    """The text of <run>/config.json: all fields, and the version of the format."""
    return json.dumps({"format": FORMAT, **as_json(config)}, indent=2, sort_keys=True) + "\n"


# Fields that never change a step. `checkpoint` decides among which steps the guard may choose.
WITHOUT_EFFECT = ("checkpoint", "stop.hang_seconds", "stop.peer_seconds", "stop.join_seconds")
# Further fields that may change when a run is resumed.
MAY_CHANGE = (
    "out",
    "name",
    "log",
    "grader",
    "model.lora.merged",  # exports only
    "eval.kl",
    "rollout.vllm",  # but not the servers' dtype
    "rollout.servers",
    "rollout.allow_unauthenticated",
    "rollout.max_logprob_gap",
)


def is_recorded(config: ConfigDict, directory: pathlib.Path) -> bool:
    """Tells whether a run folder records the same config, apart from the fields WITHOUT_EFFECT."""
    try:
        here, there = as_json(config), read_json_object(directory / "config.json")
        there = migrated(there, here, directory)
    except (OSError, ValueError, FormatError):  # the file is missing, damaged or of another version
        return False
    return _without(there, WITHOUT_EFFECT) == _without(here, WITHOUT_EFFECT)


def fingerprint_fields(config: ConfigDict) -> dict:
    """The fields that must not change when a run is resumed.

    The number of steps may change only if the learning rate does not depend on it.
    """
    fields = _without(as_json(config), (*WITHOUT_EFFECT, *MAY_CHANGE))
    if config.optimizer.schedule == "constant" or config.optimizer.schedule_steps:
        del fields["steps"]
    fields["rollout"]["vllm"] = {"dtype": config.rollout.vllm.dtype}
    return fields


def _without(fields: dict, names: Sequence[str]) -> dict:
    """The fields without those of these dotted names. A damaged config.json may lack some of them."""
    rest = {key: value for key, value in fields.items() if key not in names}
    for name in names:
        section, _, inner = name.partition(".")
        if inner and isinstance(rest.get(section), dict):
            rest[section] = _without(rest[section], (inner,))
    return rest


def differing_fields(there: dict, here: dict) -> list[str]:
    """Dotted names of the fields in which two resolved configs differ, with both values."""
    return [f"{name} ({x!r} there, {y!r} here)" for name, x, y in differences(there, here)]


def differences(there: dict, here: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    """(dotted name, value there, value here) of the fields in which two resolved configs differ. None: missing."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        x, y = there.get(key), here.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            found += differences(x, y, f"{prefix}{key}.")
        elif x != y:
            found.append((f"{prefix}{key}", x, y))
    return found


def changes(config: ConfigDict, other: ConfigDict) -> list[tuple[str, str, str]]:
    """(dotted name, value, value in the other config) of each field that differs. Values are Python text.

    An evaluation set counts as one field, and so does a section whose keys the user chooses.
    """
    return list(_changes(config.to_dict(), other.to_dict(), ""))


def _changes(fields: dict, others: dict, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, value in fields.items():
        field, other = prefix + name, others[name]
        if value == other:
            continue
        if field == "eval.sets":
            for key in {**other, **value}:
                if value.get(key) != other.get(key):
                    yield f"{field}.{key}", _source_text(value.get(key)), _source_text(other.get(key))
        elif field == "levels":
            yield field, *(", ".join(level["name"] for level in levels) or "()" for levels in (value, other))
        elif isinstance(value, dict) and name not in USERS_OWN:
            yield from _changes(value, other, f"{field}.")
        else:
            yield field, repr(value), repr(other)


def _source_text(fields: dict | None) -> str:
    """The call of `source` that makes this source."""
    if fields is None:
        return "none"
    prefix = "source."  # a source has a field `levels`, too, which is not that of a run
    rows = _changes(fields, source().to_dict(), prefix)
    return f"source({', '.join(f'{name.removeprefix(prefix)}={value}' for name, value, _ in rows)})"
