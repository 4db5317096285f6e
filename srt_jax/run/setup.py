"""Starts a run. From then on `Run` is fixed, and `RunState` changes from step to step."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from srt_jax.config import (
    describe,
    fingerprint_fields,
    needs_reference,
    plans_checkpoint,
    reward_weights,
    stores_teacher,
    takes_readings,
)
from srt_jax.config.fields import CONFIDENCES
from srt_jax.config.records import is_recorded, resolved
from srt_jax.errors import CheckpointError
from srt_jax.files import read_json_object, remove_leftovers, write_file
from srt_jax.grading.grader import Grader
from srt_jax.log import logger
from srt_jax.model import lora, sharding
from srt_jax.rl.collate import abstract_batch
from srt_jax.rl.confidence import make_confidence
from srt_jax.rl.optimizer import TrainState, experiment_optimizer, init_state, optimizer_key, teacher_of
from srt_jax.rl.update import UpdateConfig, make_update
from srt_jax.rollout.sampler import Sampler
from srt_jax.run import budget, metrics_log, timing
from srt_jax.run.anchor import Anchor
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.collapse import Detector, Fallback, Reading
from srt_jax.run.diagnosis import Diagnosis
from srt_jax.run.identity import Difference, check_same_run, record_changes
from srt_jax.run.interrupt import Signals
from srt_jax.run.loading import load_weights, open_mesh, open_sampler, sampler_patience
from srt_jax.run.prepare import Prepared
from srt_jax.run.progress import announced
from srt_jax.run.rollouts import Grading, answer_format
from srt_jax.run.watchdog import Watchdog
from srt_jax.runtime import is_first_process, processes, programs


@dataclasses.dataclass(frozen=True)
class Learner:
    """Computes rewards and updates, and is fixed for a run. `srt replay` needs no other part of a run."""

    config: ConfigDict
    prepared: Prepared
    mesh: jax.sharding.Mesh
    graphdef: nnx.GraphDef  # of the reference
    # The initial weights, in model.reference_dtype; None if no KL is measured. With adapters it is their frozen base.
    reference: Any
    update_config: UpdateConfig
    update: Any  # compiled: update(state, reference, batch) -> (state, metrics)
    confidence: Any  # compiled: confidence(params, batch) -> {reward: [P, n]}; None if no reward needs it
    grader: Grader
    grading: Grading  # of training rollouts

    def policy(self, state: TrainState) -> Any:
        """The policy's parameters, without a copy."""
        return lora.join(state.params, self.reference)

    def teacher(self, state: TrainState, frozen: Any = None) -> Any:
        """The parameters of the teacher whose votes are the labels, without a copy.

        frozen: the trained parameters of a frozen teacher. None: the state's EMA teacher (labels.source = ema).
        """
        return lora.join(teacher_of(state) if frozen is None else frozen, self.reference)


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that is fixed for a run."""

    config: ConfigDict
    prepared: Prepared
    directory: pathlib.Path
    identity: dict  # a checkpoint of another identity is refused
    learner: Learner
    sampler: Sampler
    teacher: Sampler | None  # samples from the teacher's weights; None if the run never has a teacher
    log: metrics_log.RunLog | metrics_log.NoLog
    checkpoints: Checkpoints


@dataclasses.dataclass
class RunState:
    """Everything that changes from step to step."""

    step: int  # the last finished step; 0 before the first one
    train_state: TrainState  # parameters and optimizer
    evals: dict[str, dict[str, float]]  # the evaluations so far, by step
    detector: Detector  # finds signs of a collapse in the metrics of all steps so far
    diagnosis: Diagnosis  # finds faults of the set-up in the same metrics
    phases: timing.Phases
    pace: timing.Pace
    compilations: timing.CompilationCounter
    watchdog: Watchdog
    fallback: Fallback | None = None  # the return to a checkpoint after an alarm of the guard; None before it
    frozen: Any = None  # the trained parameters of that checkpoint, which are the teacher's; None before it
    anchor: Anchor | None = None  # the base's votes; None before they are drawn, or if the guard takes no readings
    anchor_checksum: str | None = None  # of the votes that the checkpoint records
    unlogged: dict[str, float] | None = None  # metrics of `step` that are not in the log yet
    stop: Signals | None = None  # has a signal requested a stop? None: signals are not watched
    ended: str | None = None  # why the run ends before config.steps


def begin(
    config: ConfigDict, prepared: Prepared, directory: pathlib.Path, allowed: Sequence[str] = ()
) -> tuple[Run, RunState]:
    """Starts a run, or resumes it from its newest checkpoint, and compiles the update.

    allowed: fields that may differ from those of the checkpoint (run/identity.py).
    Raises CheckpointError, ConfigError or RolloutError.
    """
    # Before the run has a folder of checkpoints, and before the report says the same.
    budget.check(config, prepared.model.config)
    logger.info(describe(config, jax.device_count()))
    logger.info("\n".join(prepared.report))
    checkpoints = Checkpoints(directory, config.checkpoint.keep, functools.partial(plans_checkpoint, config))
    start = step_to_go_on_from(checkpoints, directory, config.checkpoint.every)
    identity = {"config": fingerprint_fields(config), **prepared.identity}
    record = checkpoints.record(start) if start else {"identity": identity, "evals": {}, "seconds": {}}
    changes = check_same_run(record, identity, directory, allowed)
    weights = load_initial(config, prepared)
    state = weights.state
    # Before the compilation, so that the sampler refuses impossible settings early.
    recorded = record.get("guard", {})
    fallback = Fallback(**recorded["fallback"]) if "fallback" in recorded else None
    samplers = [
        open_sampler(config, prepared.model, weights.graphdef, weights.mesh, directory, training=True)
        for _ in range(1 + (stores_teacher(config) or fallback is not None))
    ]
    frozen = None
    if fallback:
        if fallback.chosen:
            use = f"whose votes are the labels from step {fallback.step + 1} on (guard.action)"
            processes.from_first(lambda: checkpoints.check(fallback.chosen, use))
            state = checkpoints.restore(state, fallback.chosen)
        frozen = jax.tree.map(jnp.copy, state.params)
    if start:
        state = checkpoints.restore(state, start)
        logger.info(f"resuming from step {start} of {config.steps} in {directory}")
    learner = compile_learner(config, prepared, weights, state)
    log = metrics_log.NoLog()
    if is_first_process():
        log = metrics_log.RunLog(directory, config.steps, last_step=start or None)
    log.introduce(config)
    sampler, teacher = (*samplers, None)[:2]
    run = Run(config, prepared, directory, identity, learner, sampler, teacher, log, checkpoints)
    readings = recorded.get("readings", []) if takes_readings(config) else []
    detector, diagnosis = judgement_so_far(run, [Reading.from_json(row) for row in readings], fallback)
    watchdog = Watchdog(directory, config.stop.hang_seconds, start, sampler_patience(config), jax.process_index())
    log.activity = watchdog.activity
    now = RunState(
        step=start,
        train_state=state,
        evals=record["evals"],
        detector=detector,
        anchor_checksum=recorded.get("checksum"),
        diagnosis=diagnosis,
        phases=timing.Phases(record["seconds"], watchdog.progress),
        pace=pace(config, record),
        compilations=timing.CompilationCounter(),
        watchdog=watchdog,
        fallback=fallback,
        frozen=frozen,
    )
    processes.from_first(lambda: note_start(config, directory, start, changes))
    return run, now


def judgement_so_far(run: Run, readings: Sequence[Reading], fallback: Fallback | None) -> tuple[Detector, Diagnosis]:
    """The detector and the diagnosis after all records of metrics.jsonl and these readings.

    Warnings of that time are not given again. The detector does not see the steps that a fallback undid.
    """
    model = run.prepared.model
    diagnosis = Diagnosis(run.config, model.tokenizer.convert_ids_to_tokens(list(model.stop_ids)))
    records = processes.from_first(lambda: metrics_log.read_metrics(run.directory))
    detector, by_step = Detector(), {record["step"]: record for record in records}
    read = {reading.step: reading for reading in readings}
    for step in sorted(by_step | read):
        undone = fallback is not None and fallback.undoes(step)
        if step in by_step:
            diagnosis.repeat(by_step[step], None if undone else detector.update(by_step[step]))
        if step in read:
            diagnosis.update({}, detector.read(read[step]))
    return detector, diagnosis


def note_start(config: ConfigDict, directory: pathlib.Path, step: int, changes: Sequence[Difference]) -> None:
    """Writes config.json and changes.jsonl for a run that goes on from `step`."""
    # An old summary describes fewer steps, and would be wrong if this run is stopped.
    (directory / "summary.json").unlink(missing_ok=True)
    record_changes(directory, step, changes)
    write_file(directory / "config.json", resolved(config))


@dataclasses.dataclass
class Initial:
    """The model of a run on the mesh, before its first step."""

    mesh: jax.sharding.Mesh
    graphdef: nnx.GraphDef
    reference: Any
    state: TrainState


def load_initial(config: ConfigDict, prepared: Prepared) -> Initial:
    """The initial weights, the reference and the state of the optimizer."""
    mesh = open_mesh(config)
    graphdef, params = load_weights(config, prepared.model, mesh)
    logger.info(sharding.describe(mesh, params))
    trained, reference = lora.split(params)
    if reference is None and needs_reference(config):
        reference = reference_weights(config, prepared, mesh)
    return Initial(mesh, graphdef, reference, init_state(trained, experiment_optimizer(config), mesh))


def compile_learner(config: ConfigDict, prepared: Prepared, weights: Initial, state: TrainState) -> Learner:
    """Compiles the programs of a step before the loop. Meanwhile the workers of the grader start."""
    update_config = UpdateConfig.of(config)
    names = tuple(name for name in reward_weights(config.reward) if name in CONFIDENCES)
    layout = update_config.layout
    arguments = state, weights.reference, abstract_batch(layout, weights.mesh, update_config.mask_answer)

    def compiled() -> jax.stages.Compiled:
        update = make_update(weights.graphdef, experiment_optimizer(config), update_config, weights.mesh, state)
        return update.lower(*arguments).compile()

    grader = Grader(
        config.grader.workers, match=config.vote.match, timeout=config.grader.timeout, truth=config.eval.match
    )
    policy, confidence = lora.join(state.params, weights.reference), None

    def compiled_confidence() -> jax.stages.Compiled:
        program = make_confidence(weights.graphdef, update_config, weights.mesh, names)
        return program.lower(policy, abstract_batch(layout, weights.mesh)).compile()

    key = weights.graphdef, weights.mesh, update_config, optimizer_key(config), programs.shape(arguments)
    with announced("compiling the update"), ThreadPoolExecutor(1) as thread:
        tested = thread.submit(grader.self_test)
        update = programs.shared(key, compiled)
        if names:
            confidence = programs.shared((names, *key), compiled_confidence)
        tested.result()
    grading = Grading(prepared.model.tokenizer, answer_format(config), grader, prepared.label_settings)
    base = lora.base_graphdef(weights.graphdef, policy)
    return Learner(
        config, prepared, weights.mesh, base, weights.reference, update_config, update, confidence, grader, grading
    )


def step_to_go_on_from(checkpoints: Checkpoints, directory: pathlib.Path, every: int) -> int:
    """The step of the newest undamaged checkpoint, 0 if the run has none yet. Warns about newer, damaged ones.

    every: checkpoint.every of a run without config.json. Raises CheckpointError if the run lost its checkpoints.
    """

    def find() -> int:
        recorded = metrics_log.last_recorded_step(directory)
        # At its second checkpoint a run records the step, waits for the first checkpoint, and writes the second.
        had_one = recorded > 2 * recorded_every(directory, every)
        if recorded and (not (directory / "checkpoints").exists() or (had_one and not checkpoints.steps())):
            raise CheckpointError(
                f"{directory} has the metrics of {recorded} steps, but its checkpoints are missing: restore them, "
                f"give the run another name, or delete {directory} to start again."
            )
        step, damaged = checkpoints.newest_whole()
        checkpoints.open([bad for bad, _ in damaged])
        remove_leftovers(directory)
        remove_leftovers(directory / "rollouts")
        for bad, fault in damaged:
            logger.warning(
                f"the checkpoint of step {bad} is damaged ({fault}); the run resumes from step {step}. The "
                f"damaged files are in {directory}/checkpoints/{bad}.damaged, and nothing needs them: delete them."
            )
        if recorded and not step:
            logger.info(
                f"{directory} stopped before its first checkpoint: it starts again, and its metrics are replaced."
            )
        if step:
            metrics_log.restore_records(directory, step)
        return step or 0

    return processes.from_first(find)


def recorded_every(directory: pathlib.Path, default: int) -> int:
    """The checkpoint.every with which the run wrote its records. A config that resumes it may have another one."""
    try:
        return int(read_json_object(directory / "config.json")["checkpoint"]["every"])
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged
        return default


def reference_weights(config: ConfigDict, prepared: Prepared, mesh: jax.sharding.Mesh):
    """A second copy of the initial weights, in model.reference_dtype: the update donates the first one."""
    params = load_weights(config, prepared.model, mesh)[1]
    return jax.tree.map(lambda x: x.astype(config.model.reference_dtype), params)


def pace(config: ConfigDict, record: dict) -> timing.Pace:
    """The pace of a run, with the mean seconds of the evaluations in the record."""
    done = len(record["evals"])
    before = [record["seconds"].get("eval", 0.0) / done] * done if done else []
    return timing.Pace(config.steps, config.eval.every, config.checkpoint.every, before)


def completed_summary(config: ConfigDict, directory: pathlib.Path) -> dict | None:
    """The summary of a run that finished with exactly this config, else None."""
    try:
        return read_json_object(directory / "summary.json") if is_recorded(config, directory) else None
    except (OSError, ValueError):  # missing or damaged: the checkpoints tell the step of the run
        return None
