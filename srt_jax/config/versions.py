"""The format of run folders and label files: its version number, and the changes from one version to the next.

config.json, the record of a checkpoint and the provenance of a label file have the number as `format`. Files of an
older version are read as if this version had written them. If you rename or add a field of the config, raise FORMAT and
add an entry to CHANGES. `added` has the value with which the new field behaves like the older version.
"""

import copy
import dataclasses

from srt_jax.config.types import USERS_OWN
from srt_jax.errors import FormatError

FORMAT = 14
# Files without a number are of version 1, which was used until 2026-11-26. Even older files lack some of its fields.
UNNUMBERED = 1


@dataclasses.dataclass(frozen=True)
class Change:
    """The difference between a version and the previous one, by dotted names of fields."""

    added: dict[str, object] = dataclasses.field(default_factory=dict)
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)  # old name -> new name
    # (field, old value) -> the fields that replace it
    replaced: dict[tuple[str, object], dict[str, object]] = dataclasses.field(default_factory=dict)


CHANGES = {
    2: Change(
        added={
            "checkpoint.keep": 1,  # version 1 kept the newest checkpoint and the best one
            "reward.shape": "agreement",
        }
    ),
    3: Change(added={"stop.hang_seconds": 0.0}),
    4: Change(
        added={
            "model.lora.rank": 0,
            "model.lora.alpha": 32.0,
            "model.lora.rslora": False,
            "model.lora.targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            "model.lora.path": "",
            "model.lora.merged": False,
        }
    ),
    5: Change(added={"eval.kl": False}),
    6: Change(replaced={("labels.source", "soft_vote"): {"labels.source": "vote", "reward.shape": "soft_vote"}}),
    7: Change(added={"labels.ema_rate": 0.01}),
    8: Change(added={"rl.mask_answer": False}),
    9: Change(
        renamed={"stop.collapse": "guard.action"},
        added={"guard.votes": 64},
        replaced={
            ("guard.action", False): {"guard.action": "off"},
            ("guard.action", True): {"guard.action": "stop", "guard.votes": 0},
        },
    ),
    10: Change(added={"reward.mixture": {}}),
    11: Change(
        added={
            "rollout.allow_unauthenticated": True,  # older versions accepted servers on any host
            "rollout.vllm.tensor_parallel": 1,
            "rollout.vllm.data_parallel": 1,
        }
    ),
    12: Change(added={"stop.peer_seconds": 30.0, "stop.join_seconds": 50.0}),
    13: Change(added={"data.paraphrases": ""}),
    14: Change(added={"labels.penalty": 0.0}),
}


def version_of(there: dict, where) -> int:
    """The format of recorded fields. Raises FormatError if this version cannot read it."""
    version = there.get("format", UNNUMBERED)
    if version not in range(UNNUMBERED, FORMAT + 1):
        raise FormatError(
            f"{where} has format {version!r}, but this version of srt_jax reads formats {UNNUMBERED} to {FORMAT}: use "
            "the version of srt_jax that made it, or choose another name for the output."
        )
    return version


def migrated(there: dict, here: dict, where) -> dict:
    """The recorded fields as this version would have recorded them, without `format`.

    there: the fields of a config or a provenance, with `format`, from any version.
    here: the same kind of fields from this version. An added field is set only if `here` has it.
    where: the folder or file, for messages.
    Raises FormatError for an unknown version.
    """
    version, fields = version_of(there, where), copy.deepcopy(there)
    fields.pop("format", None)
    for change in (CHANGES[v] for v in range(version + 1, FORMAT + 1)):
        for old, new in change.renamed.items():
            for old_place, new_place in zip(_places(old, fields), _places(new, fields)):
                if _has(fields, old_place):
                    _put(fields, new_place, _take(fields, old_place))
        for name, value in change.added.items():
            for place in _places(name, here):
                if _has(here, place) and not _has(fields, place):
                    _put(fields, place, copy.deepcopy(value))
        for (name, old), new in change.replaced.items():
            if _has(fields, name) and _section(fields, name)[name.rpartition(".")[2]] == old:
                for other, value in new.items():
                    _put(fields, other, value)
    return fields


def check_not_older(there: dict, here: dict, where) -> None:
    """Raises FormatError if fields without `format` lack a field of version 1, because an older version wrote them."""
    if "format" in there:
        return
    missing = _missing(migrated(there, here, where), here)
    if missing:
        raise FormatError(
            f"{where} was made by a version of srt_jax before 2026-11-26, since it has no field {missing[0]}, but this "
            f"version resumes formats {UNNUMBERED} to {FORMAT}: use the version that made it, or give the run another "
            "name."
        )


def _missing(there: dict, here: dict, prefix: str = "") -> list[str]:
    names = []
    for key, value in here.items():
        if key not in there:
            names.append(prefix + key)
        elif isinstance(value, dict) and isinstance(there[key], dict) and key not in ("sets", *USERS_OWN):
            names += _missing(there[key], value, f"{prefix}{key}.")
    return names


def _places(name: str, fields: dict) -> list[str]:
    """The places of a field. A field of `data` is in each evaluation set, too."""
    sets = fields.get("eval", {}).get("sets", {}) if name.startswith("data.") else {}
    return [name, *(f"eval.sets.{of}.{name.removeprefix('data.')}" for of in sets)]


def _section(fields: dict, name: str) -> dict | None:
    for key in name.split(".")[:-1]:
        fields = fields.get(key) if isinstance(fields, dict) else None
    return fields if isinstance(fields, dict) else None


def _has(fields: dict, name: str) -> bool:
    section = _section(fields, name)
    return section is not None and name.rpartition(".")[2] in section


def _put(fields: dict, name: str, value) -> None:
    *sections, key = name.split(".")
    for section in sections:
        fields = fields.setdefault(section, {})
    fields[key] = value


def _take(fields: dict, name: str):
    return _section(fields, name).pop(name.rpartition(".")[2])
