"""The identity of a run: the config, data and model with which every step of a run folder is made.

A run of another identity is refused. --allow_change names the differences that it may have. <run>/changes.jsonl records
them: from which step on, the field, and both values.
"""

import pathlib
from collections.abc import Sequence

from srt_jax.config import base
from srt_jax.config.records import differences
from srt_jax.config.versions import check_not_older, migrated
from srt_jax.errors import CheckpointError, ConfigError
from srt_jax.files import read_jsonl, remove, write_jsonl
from srt_jax.log import logger

# Fields that by default follow the hardware. If they change, results change by rounding only.
FOLLOW_HARDWARE = ("mesh", "batch.microbatch_sequences", "model.dtype")
# Fields and contents that determine shapes and dtypes of the training state, or the reference model.
FIXED = (
    "model.path",
    "model contents",
    "model.lora.rank",
    "model.lora.targets",
    "model.lora.path",
    "adapter contents",
    "optimizer.moments_dtype",
)
CONTENTS = {
    "data": "restore the data file",
    "prompts": "restore the tokenizer, its chat template and the evaluation files",
    "labels": "restore the label files",
    "model": "restore the initial model",
    "adapter": "restore the adapter of model.lora.path",
    "functions": "restore the modules of your own functions",
}
Difference = tuple[str, object, object]  # (dotted name of a field or "data contents", value there, value here)


def check_allowed(names: Sequence[str]) -> None:
    """Raises ConfigError if --allow_change names something that is neither a field, nor a section, nor a content."""
    fields = base().to_dict()
    for name in names:
        section, *keys = name.split(".")
        found = fields.get(section, fields if section in CONTENTS else None)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) and found else found  # the user chooses the names of sets
        if found is None:
            raise ConfigError(
                f"--allow_change names {name!r}, which is no field: give names of fields or sections with commas "
                f"between them, or of contents ({', '.join(CONTENTS)})."
            )


def check_same_run(record: dict, here: dict, directory, allowed: Sequence[str] = ()) -> list[Difference]:
    """The allowed differences between the recorded config, data, prompts, label files and model and this run's.

    record: that of a checkpoint, with the `identity` of the run that wrote it and its `format`. here: the identity of
    this run. allowed: names of --allow_change. Raises CheckpointError for any other difference, and FormatError if this
    version cannot resume from a record of that format.
    """
    there = record["identity"]
    versioned = {"format": record["format"]} if "format" in record else {}
    check_not_older({**versioned, **there["config"]}, here["config"], directory)
    there = {**there, "config": migrated({**versioned, **there["config"]}, here["config"], directory)}
    found = differences(there["config"], here["config"])
    found += [(f"{what} contents", there.get(what, {}), here.get(what, {})) for what in CONTENTS]
    found = [(name, x, y) for name, x, y in found if x != y]
    refused = [difference for difference in found if not _is_allowed(difference, allowed)]
    if refused:
        raise CheckpointError(f"{directory} holds a run that differs in {_shown(refused)}: {_remedy(refused)}.")
    return found


def record_changes(directory: pathlib.Path, step: int, changes: Sequence[Difference]) -> None:
    """Adds the changes from `step` on to changes.jsonl, and reports them. Earlier changes after `step` are dropped."""
    path = directory / "changes.jsonl"
    before = [row for _, row in read_jsonl(path) if row["step"] < step] if path.exists() else []
    rows = before + [{"step": step, "field": name, "from": x, "to": y} for name, x, y in changes]
    if rows:
        write_jsonl(path, rows)
    else:
        remove(path)
    for name, x, y in changes:
        values = "" if name.endswith(" contents") else f": {x!r} until step {step}, then {y!r}"
        logger.info(f"changed, as --allow_change permits: {name}{values}")
    if any(name.startswith(FOLLOW_HARDWARE) for name, _, _ in changes):
        logger.info(
            "other devices add numbers in another order: results differ by rounding, and sometimes a sampled token "
            "differs for that reason"
        )


def _is_allowed(difference: Difference, allowed: Sequence[str]) -> bool:
    name_or_section = (difference[0].removesuffix(" contents") + ".").startswith(tuple(f"{a}." for a in allowed))
    return not _is_fixed(difference) and bool(allowed) and name_or_section


def _is_fixed(difference: Difference) -> bool:
    name, there, here = difference
    return name in FIXED or (name == "labels.source" and "ema" in (there, here))  # the teacher is part of the state


def _shown(found: Sequence[Difference]) -> str:
    return "; ".join(
        name if name.endswith(" contents") else f"{name} ({x!r} there, {y!r} here)" for name, x, y in found[:5]
    )


def _remedy(found: Sequence[Difference]) -> str:
    """Returns the advice that tells the user what to do about the differences."""
    names = [name for name, _, _ in found]
    if all(name.startswith(FOLLOW_HARDWARE) for name in names):
        first = "give it the devices that it had, or set these fields to their values there"
    elif all(name.endswith(" contents") for name in names):
        first = CONTENTS[names[0].removesuffix(" contents")]
    else:
        first = "use the old config"
    fixed = [difference[0] for difference in found if _is_fixed(difference)]
    if fixed:
        return f"{first}, or give the run another name, because the training state depends on {' and '.join(fixed)}"
    wanted = dict.fromkeys("mesh" if name.startswith("mesh.") else name.removesuffix(" contents") for name in names)
    return f"{first}, give the run another name, or change it from here on with --allow_change={','.join(wanted)}"
