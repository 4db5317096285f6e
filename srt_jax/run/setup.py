"""How a run starts: what stays the same from step to step, and the state it begins or goes on with."""

import dataclasses
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from srt_jax.config import describe, fingerprint_fields
from srt_jax.config.records import is_recorded, resolved
from srt_jax.config.versions import FORMAT
from srt_jax.errors import CheckpointError
from srt_jax.files import read_json_object, remove_leftovers, write_file
from srt_jax.grading.grader import Grader
from srt_jax.log import logger
from srt_jax.model import sharding
from srt_jax.rl.collate import abstract_batch
from srt_jax.rl.optimizer import experiment_optimizer, init_state
from srt_jax.rl.update import UpdateConfig, make_update
from srt_jax.rollout.sampler import Sampler
from srt_jax.run import budget, metrics
from srt_jax.run.checkpoint import Checkpoints, check_same_run
from srt_jax.run.collapse import Detector
from srt_jax.run.diagnosis import Diagnosis
from srt_jax.run.loading import load_weights, open_mesh, open_sampler
from srt_jax.run.prepare import Prepared
from srt_jax.run.progress import announced
from srt_jax.run.rollouts import Grading, answer_format
from srt_jax.runtime import is_first_process, processes


@dataclasses.dataclass
class Run:
    """What stays the same from step to step, and the record that goes into every checkpoint."""

    config: ConfigDict
    prepared: Prepared
    directory: pathlib.Path
    mesh: jax.sharding.Mesh
    reference: Any
    update_config: UpdateConfig
    update: Any
    sampler: Sampler
    grader: Grader
    grading: Grading  # of training rollouts
    log: metrics.RunLog | metrics.NoLog
    checkpoints: Checkpoints
    record: dict  # identity of the run; evaluations so far by step; seconds by phase
    detector: Detector  # of a collapse; it has seen all the steps so far
    diagnosis: Diagnosis  # warns where the set-up looks wrong; it has seen them, too
    phases: metrics.Phases
    pace: metrics.Pace
    compilations: metrics.CompilationCounter
    stop: Any = None  # its `requested` tells whether a signal asks the run to stop; None: signals are not watched
    ended: str | None = None  # why the run ends before config.steps


def begin(config: ConfigDict, prepared: Prepared, directory: pathlib.Path):
    """Model, optimizer and checkpoint of a run, the update compiled: (Run, state, step to go on from)."""
    checkpoints = Checkpoints(directory, config.checkpoint.keep)
    start = step_to_go_on_from(checkpoints, directory)
    identity = {"config": fingerprint_fields(config), **prepared.identity}
    record = checkpoints.record(start) if start else {"identity": identity, "evals": {}, "seconds": {}}
    check_same_run(record, identity, directory)
    record |= {"format": FORMAT, "identity": identity}
    logger.info(describe(config, jax.device_count()))
    logger.info("\n".join(prepared.report))

    budget.check(config, prepared.model.config)
    mesh = open_mesh(config)
    graphdef, params = load_weights(config, prepared.model, mesh)
    logger.info(sharding.describe(mesh, params))
    reference = reference_weights(config, prepared, mesh) if config.rl.kl_coef else None
    update_config, optimizer = UpdateConfig.of(config), experiment_optimizer(config)
    state = init_state(params, optimizer, mesh)
    sampler = open_sampler(config, prepared.model, graphdef, mesh, directory, training=True)  # it refuses what it can
    if start:
        state = checkpoints.restore(state, start)
        logger.info(f"going on from step {start} of {config.steps} in {directory}")
    update = compile_update(
        make_update(graphdef, optimizer, update_config, mesh, state),
        state,
        reference,
        abstract_batch(update_config.layout, mesh),
    )
    grader = Grader(
        config.grader.workers, match=config.vote.match, timeout=config.grader.timeout, truth=config.eval.match
    )
    grader.self_test()
    log = metrics.RunLog(directory, config.steps, last_step=start or None) if is_first_process() else metrics.NoLog()
    log.introduce(config)
    detector = Detector()
    diagnosis = Diagnosis(config, prepared.model.tokenizer.convert_ids_to_tokens(list(prepared.model.stop_ids)))
    for recorded in processes.from_first(lambda: metrics.read_metrics(directory)):
        diagnosis.update(recorded, detector.update(recorded))
    run = Run(
        config,
        prepared,
        directory,
        mesh,
        reference,
        update_config,
        update,
        sampler,
        grader,
        Grading(prepared.model.tokenizer, answer_format(config), grader, prepared.label_settings),
        log,
        checkpoints,
        record,
        detector,
        diagnosis,
        metrics.Phases(record["seconds"]),
        pace(config, record),
        metrics.CompilationCounter(),
    )
    if is_first_process():
        (directory / "summary.json").unlink(missing_ok=True)  # of fewer steps: what follows may be stopped
        write_file(directory / "config.json", resolved(config))
    return run, state, start


def step_to_go_on_from(checkpoints: Checkpoints, directory: pathlib.Path) -> int:
    """The step of the newest checkpoint that is whole, 0 if the run has none yet; prints why it is not the newest.

    Raises CheckpointError if the run lost its checkpoints.
    """

    def find() -> int:
        recorded = metrics.last_recorded_step(directory)
        if recorded and not (directory / "checkpoints").exists():
            raise CheckpointError(
                f"{directory} has the metrics of {recorded} steps, but its folder checkpoints/ is missing: restore it, "
                f"give the run another name, or delete {directory} to start again."
            )
        step, damaged = checkpoints.newest_whole()
        checkpoints.open([bad for bad, _ in damaged])
        remove_leftovers(directory)
        remove_leftovers(directory / "rollouts")
        for bad, fault in damaged:
            logger.warning(
                f"the checkpoint of step {bad} is damaged ({fault}); the run goes on from step {step}. The "
                f"damaged files are in {directory}/checkpoints/{bad}.damaged, and nothing needs them: delete them."
            )
        if recorded and not step:
            logger.info(
                f"{directory} stopped before its first checkpoint: it starts again, and its metrics are replaced."
            )
        if step:
            metrics.restore_records(directory, step)
        return step or 0

    return processes.from_first(find)


def reference_weights(config: ConfigDict, prepared: Prepared, mesh: jax.sharding.Mesh):
    """The initial weights once more, in model.reference_dtype: the update donates the others."""
    params = load_weights(config, prepared.model, mesh)[1]
    return jax.tree.map(lambda x: x.astype(config.model.reference_dtype), params)


def compile_update(update, *arguments):
    """The update's one program, compiled before the loop so that no step does."""
    with announced("compiling the update"):
        return update.lower(*arguments).compile()


def pace(config: ConfigDict, record: dict) -> metrics.Pace:
    """The pace of a run, which knows the mean cost of the evaluations in the record."""
    done = len(record["evals"])
    before = [record["seconds"].get("eval", 0.0) / done] * done if done else []
    return metrics.Pace(config.steps, config.eval.every, config.checkpoint.every, before)


def completed_summary(config: ConfigDict, directory: pathlib.Path) -> dict | None:
    """The summary of a run that was finished with this very config, else None."""
    try:
        return read_json_object(directory / "summary.json") if is_recorded(config, directory) else None
    except (OSError, ValueError):  # it is not there, or damaged: the checkpoints say how far the run is
        return None
