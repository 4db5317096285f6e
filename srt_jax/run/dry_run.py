"""`--dry_run` prints how a config differs from base(), the fields that follow the machine, and all checks of a run.

The checks are those that a run makes before it computes (run/prepare.py). A dry run downloads, computes and writes
nothing, so some checks may be impossible: it reports each of them as not checked.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from srt_jax.config import base, describe, fingerprint_fields, run_directory
from srt_jax.config.levels import checkable, level_configs
from srt_jax.config.paths import expand_paths, initial_weights
from srt_jax.config.records import changes
from srt_jax.config.resolve import on_this_machine, resolve
from srt_jax.data import gym
from srt_jax.data import problems as problem_sources
from srt_jax.data.batching import batch_indices
from srt_jax.errors import DataError, DataNotHereError, ModelNotHereError, ServerSetupError
from srt_jax.log import logger
from srt_jax.model import weights
from srt_jax.model.config import ModelConfig, model_shape, similar_folder
from srt_jax.rollout.vllm.command import package
from srt_jax.rollout.vllm.delivery import servable_rank
from srt_jax.run import budget
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.identity import check_same_run
from srt_jax.run.prepare import Prepared, adapters_line, check_fit, encode_source, prepare, read_model

SECONDS_OF_DATA = 1.0  # A dry run generates the problems of one source for at most this long.
NOT_SHOWN = ("name", "levels", "model.path", "model.lora.path")  # These differ in each level.
NOT_HERE = "is not on this machine, and the run downloads it"
NEVER_CHECKED = "compilation, measured memory and speed, the values of the weights, free disk space"


@dataclasses.dataclass(frozen=True)
class Report:
    """One line for each check that passed, and for each one that was impossible, with the reason."""

    checked: list[str]
    unchecked: list[str]


def dry_run(config: ConfigDict, allowed: Sequence[str] = ()) -> None:
    """Prints the report. Raises UserError where a check fails. The environment must set HF_HUB_OFFLINE.

    allowed: fields that may differ from those of a checkpoint from which the run would resume (run/identity.py).
    """
    whole, notes = resolve(config, jax.default_backend(), jax.device_count())
    expanded = expand_paths(config)
    levels = level_configs(expanded)
    logger.info(f"dry run of {run_directory(whole)}: nothing is computed, downloaded or written")
    title = "fields that differ from base() in srt_jax/config/fields.py, whose value is in parentheses"
    _print(title, _table(changes(config, base())))
    if not levels:
        _print_run(on_this_machine(whole)[0], notes, whole, allowed)
    before = {}
    for level in levels:
        logger.info(f"\nlevel {level.name}, from {initial_weights(level) or level.model.path}")
        differing = [row for row in changes(level, expanded) if row[0] not in NOT_SHOWN]
        _print("fields that differ from those above, whose value is in parentheses", _table(differing))
        resolved_level, level_notes = on_this_machine(level)  # as in train_levels, it follows the hardware by itself
        before = _print_run(resolved_level, level_notes, whole, allowed, before)
    _print("not checked by any dry run", [NEVER_CHECKED])
    where = run_directory(whole) / "LEVEL" if levels else run_directory(whole)
    logger.info(f"\nA run writes all fields of its config to {where}/config.json.")


def _print_run(
    config: ConfigDict,
    notes: list[str],
    whole: ConfigDict,
    allowed: Sequence[str],
    before: Mapping[str, list[str]] | None = None,
) -> dict[str, list[str]]:
    """Prints the report on a resolved config: `whole` itself, or one of its levels.

    Returns the first sections by title. Those that are equal in `before`, the ones of the previous level, are left out.
    """
    report = check(checkable(config, whole), allowed)
    sections = {"decided by this machine": notes, "arithmetic": describe(config, jax.device_count()).split("; ")}
    for title, lines in sections.items():
        _print(title, lines if lines != (before or {}).get(title) else [])
    _print("checked", ["config: names, types, values and combinations of all fields", *report.checked])
    _print("not checked", report.unchecked)
    return sections


def _print(title: str, lines: list[str]) -> None:
    if lines:
        logger.info("\n".join([f"\n{title}:", *(f"  {line}" for line in lines)]))


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    """A line for each (name, value, other value), the values in one column."""
    width = max((len(name) for name, _, _ in rows), default=0)
    return [f"{name:{width}}  {value}  ({other})" for name, value, other in rows]


def check(config: ConfigDict, allowed: Sequence[str] = ()) -> Report:
    """Makes the checks of a run of this resolved config; allowed: as in `dry_run`. Raises UserError if one fails."""
    some, not_made = with_some_data(config)
    servers = check_servers(config)
    try:
        prepared = prepare(some)
    except (ModelNotHereError, DataNotHereError):
        here = check_what_is_here(some)
        return Report([*here.checked, *servers.checked], [*here.unchecked, *not_made, *servers.unchecked])
    resuming = check_resuming(config, prepared, not not_made, allowed)
    return Report([*prepared.report, *servers.checked, *resuming], [*not_made, *servers.unchecked])


def check_resuming(config: ConfigDict, prepared: Prepared, all_data: bool, allowed: Sequence[str]) -> list[str]:
    """Lines about the checkpoint from which the run would resume. Raises CheckpointError if another run wrote it.

    all_data: whether `prepared` has all problems. Otherwise the fingerprints cannot be compared.
    """
    directory = run_directory(config)
    if not (directory / "checkpoints").exists():
        return []
    checkpoints = Checkpoints(directory)
    step, damaged = checkpoints.newest_whole()
    if not step:
        return []
    there = checkpoints.record(step)
    here = {"config": fingerprint_fields(config), **prepared.identity}
    if not all_data:
        here |= {what: there["identity"][what] for what in ("data", "prompts")}
    changed = check_same_run(there, here, directory, allowed)
    notes = [f"{name} would change from {x!r} to {y!r}" for name, x, y in changed]
    notes += [f"the checkpoint of step {bad} is damaged ({fault})" for bad, fault in damaged]
    return [*notes, f"{directory}: would resume from step {step}"]


def check_what_is_here(config: ConfigDict) -> Report:
    """Makes the checks that are possible if the model or some data is on the hub and not on this machine.

    The package has the shapes of some hub models. Raises ConfigError, DataError or ModelError.
    """
    tokenizer = None
    try:
        model = read_model(config)
        weights.check(model.directory)
        shape, tokenizer = model.config, model.tokenizer
        report = Report([], [])
    except ModelNotHereError:
        shape = _known_shape(config)
        missing = "weights, tokenizer and prompt lengths" + ("" if shape else ", shape and memory")
        near = similar_folder(config.model.path)
        hint = f" (or did you mean {near}?)" if near else ""
        report = Report([], [f"{missing} of model.path: {config.model.path} {NOT_HERE}{hint}"])
    if shape:
        report.checked.append(f"model: {config.model.path} ({shape.family}, {shape.num_params:,} parameters)")
        report.checked.extend(adapters_line(config, shape))
        report.checked.append(budget.report(config, shape))
    for field, source in _sources(config):
        title = problem_sources.title(source)
        try:
            if tokenizer:
                problems, _, line = encode_source(field, source, tokenizer, config)
            else:
                problems = problem_sources.load(source)
                line = f"{field}: {title}: {len(problems)} problems"
        except DataNotHereError:
            report.unchecked.append(f"{field}: {title} {NOT_HERE}")
            continue
        if field == "data":
            batch_indices(len(problems), config.batch.prompts_per_step, config.seed, 0)
        report.checked.append(line)
    report.unchecked.append(", ".join(_need_model_and_data(config)))
    return report


def _known_shape(config: ConfigDict) -> ModelConfig | None:
    """The shape of a hub model that ships with the package, checked against the config; None for another model."""
    try:
        shape = model_shape(config.model.path)
    except ModelNotHereError:
        return None
    check_fit(config, shape)
    return shape


def _need_model_and_data(config: ConfigDict) -> list[str]:
    """The checks of `prepare` and `check_resuming` that need the model and all data."""
    return [
        "labels and label files",
        *(["the curriculum"] if config.curriculum.path else []),
        *(["the validation set"] if config.stop.validation_fraction else []),
        "overlap of training and evaluation data",
        *(["whether the run can resume"] if (run_directory(config) / "checkpoints").exists() else []),
    ]


def _sources(config: ConfigDict):
    """(field, source) of the training data and of each evaluation set."""
    return [("data", config.data), *((f"eval.sets.{name}", source) for name, source in config.eval.sets.items())]


def with_some_data(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """(a copy of the config that limits generated problems, a line for each source that it limits).

    Each source gets the problems that are generated within SECONDS_OF_DATA. The training data has at least the problems
    of two steps, so that one step is possible even if problems are held out.
    """
    config, lines = config.copy_and_resolve_references(), []
    least = {"data": 2 * config.batch.prompts_per_step}
    for field, source in _sources(config):
        if source.kind == "gym":
            try:
                made, count = gym.make_some(source, SECONDS_OF_DATA, least.get(field, 1)), gym.wanted(source)
            except DataError as e:
                raise DataError(f"{field}: {e}") from None
            if made < count:
                source.limit = made
                lines.append(f"{field}: {count - made} of {count} problems, which take long to make")
    return config, lines


def check_servers(config: ConfigDict) -> Report:
    """Checks the environment of the vLLM servers. Starts none, and sends no request to running ones."""
    if config.rollout.sampler == "jax":
        return Report([], [])
    if config.rollout.servers:
        return Report([], [f"vLLM: the servers {', '.join(config.rollout.servers)}"])
    python = config.rollout.vllm.python
    try:
        checked = [f"vLLM: {python} has {package(python)}"]
    except ServerSetupError as e:
        return Report([], [f"vLLM: not on this machine: {e}"])
    if config.model.lora.rank and not servable_rank(config):
        checked.append("vLLM: it cannot serve adapters of this rank, so servers get merged models in float32")
    return Report(checked, ["vLLM: whether a server starts"])
