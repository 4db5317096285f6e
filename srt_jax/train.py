"""The training loop: Algorithm 1 of "Can Large Reasoning Models Self-Train?".

    problems -> rollouts -> answers -> labels -> rewards -> one update -> the sampler gets the new weights

`train` is the run, `train_step` one turn of the loop; everything else here watches or ends a run, which start.py
begins. Steps count updates: step s trains on rollouts of weights version s - 1, one less with rollout.steps_ahead, and
an evaluation at step s sees s updates.
"""

import contextlib
import importlib.metadata
import time
from concurrent.futures import ThreadPoolExecutor, wait

import jax
import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import MEAN, VALIDATION, run_directory
from srt_jax.config.resolve import on_this_machine
from srt_jax.errors import RolloutError, TrainingStoppedError
from srt_jax.files import write_json
from srt_jax.log import logger
from srt_jax.model import flops, weights
from srt_jax.reward import measures
from srt_jax.rl.collate import collate
from srt_jax.run import board, metrics, recording
from srt_jax.run.checkpoint import best_step
from srt_jax.run.collapse import should_stop
from srt_jax.run.evaluation import evaluate_all, evaluation_samples, rollout_rows
from srt_jax.run.interrupt import Signals
from srt_jax.run.prepare import prepare
from srt_jax.run.progress import announced
from srt_jax.run.rollouts import Collected, Grading, collect, response_texts, temperature_at, training_samples
from srt_jax.run.setup import Run, begin, completed_summary
from srt_jax.runtime import is_first_process, processes, profiled

EVALUATION_SHOWN_AFTER = 5.0  # seconds; a shorter evaluation has no progress line
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "sympy", "numpy")


def train(config: ConfigDict) -> dict:
    """Runs the experiment of a config, or goes on with it; returns the summary that is also written to summary.json.

    Raises ConfigError, DataError, ModelError or CheckpointError before anything is computed, and TrainingStoppedError
    once it runs.
    """
    config, notes = on_this_machine(config)
    directory = run_directory(config)
    if finished := processes.from_first(lambda: completed_summary(config, directory)):
        logger.info(f"{directory} is complete ({finished['steps']} steps): nothing to do.")
        return finished
    for note in notes:
        logger.info(note)
    run, state, step = begin(config, prepare(config), directory)
    # The thread is waited for last: closing the sampler ends what it samples.
    with (
        contextlib.closing(run.log),
        contextlib.closing(run.checkpoints),
        run.grader,
        ThreadPoolExecutor(1) as thread,
        contextlib.closing(run.sampler),
        stop_signals() as stop,
    ):
        try:
            run.stop = stop
            run.ended = end_reason(run)
            load_sampler(run, state, step)
            if is_evaluated(run, step) and str(step) not in run.record["evals"]:
                run.log.write(step, evaluate_sets(run, step) | pop_seconds(run))
                run.ended = end_reason(run)
            run.log.progress(step, "")
            pending = None
            for following in profiled(range(step + 1, config.steps + 1), directory, config.log.profile):
                if run.ended:
                    break
                collected = take_rollouts(run, following, pending)
                if config.rollout.steps_ahead and following < config.steps:
                    pending = thread.submit(collect_step, run, following + 1)
                state, values = train_step(run, state, following, collected)
                step = following
                load(run, state, step, values, pending)
                stopping = processes.any_of(stop.requested)
                watch(run, state, step, values, collected, stopping)
                if stopping and step < config.steps:
                    raise TrainingStoppedError(
                        f"stopped after step {step}; the state is saved in {directory}: the same command goes on."
                    )
        except StopRequestedError:
            save(run, state, step)
            raise TrainingStoppedError(
                f"stopped in the evaluation after step {step}; {directory} holds what there is: "
                "the same command goes on, and evaluates again."
            ) from None
        except RolloutError as e:
            save(run, state, step)
            saved = f"The state after step {step} is saved in {directory}" if step else "Nothing is trained yet"
            raise TrainingStoppedError(f"{e} {saved}: the same command goes on.") from e
        return finish(run, state, step)


def load_sampler(run: Run, state, step: int) -> None:
    """The sampler gets its first weights and compiles for all prompts there are, so that no step does."""
    with announced("preparing the sampler"):
        run.sampler.load(state.params, step)
        if step < run.config.steps and not run.ended:
            run.sampler.compile(run.prepared.prompts, *training_samples(run.config, step + 1))
            for eval_set in run.prepared.eval_sets:
                run.sampler.compile(eval_set.prompts, *evaluation_samples(run.config))


def collect_step(run: Run, step: int) -> Collected:
    """The graded rollouts of a step."""
    return collect(run.config, run.prepared, run.sampler, run.grading, step)


def take_rollouts(run: Run, step: int, pending) -> Collected:
    """The step's rollouts: collected now, or those of `pending`, collected during the step before."""
    if pending is None:
        collected = collect_step(run, step)
        run.phases.add(collected.seconds)
    else:
        with run.phases("wait"):
            collected = pending.result()
    version = collected.rollouts.version
    if not step - 1 - run.config.rollout.steps_ahead <= version < step:
        raise RolloutError(
            f"the rollouts of step {step} come from version {version} of the weights: the sampler is out of step."
        )
    return collected


def train_step(run: Run, state, step: int, collected: Collected):
    """The update on a step's rollouts. Returns (new state, the step's metrics)."""
    config, n = run.config, run.config.batch.samples_per_prompt
    rollouts = collected.rollouts.first(n)
    with run.phases("update"):
        batch = collate(
            rollouts,
            np.stack([g.rewards[:n] for g in collected.graded]),
            np.array([g.labelled for g in collected.graded]),
            run.update_config.layout,
            run.mesh,
            config.rl.temperature or temperature_at(config, step),
            np.stack([g.kept[:n] for g in collected.graded]),
        )
        state, update_metrics = run.update(state, run.reference, batch)
        update_metrics = jax.device_get(update_metrics)
    with run.phases("log"):
        log_rollouts(run, step, collected)
    if not update_metrics["finite"]:
        save(run, state, step - 1)
        export(run, state, "last_good")
        raise TrainingStoppedError(
            f"the gradient of step {step} is not finite; the state before it is saved in {run.directory}: look at "
            f"{recording.rollouts_path(run.directory, step, recording.ROWS)}, then start a new run with a lower "
            f"optimizer.learning_rate and model.path={run.directory}/last_good."
        )
    return state, measures.metrics(collected.graded) | {f"update/{k}": v for k, v in update_metrics.items()} | {
        "rollout/response_tokens": rollouts.lengths.mean(),
        "rollout/response_tokens_max": rollouts.lengths.max(),
        "rollout/truncated": 1 - rollouts.stopped.mean(),
        "rollout/weights_version": rollouts.version,
        "rollout/tokens_per_second": collected.rollouts.lengths.sum() / collected.seconds["sample"],
        "rollout/rounds": collected.rounds,
        "rollout/temperature": temperature_at(config, step),
        "update/mfu": update_mfu(run, rollouts),
    } | {tag: v for k, v in run.grader.metrics().items() if (tag := f"workers/{k}") in metrics.TAGS}


def update_mfu(run: Run, rollouts) -> float:
    """Share of the devices' peak that the passes the update requires reach; NaN where the peak is not known."""
    lengths = np.array([len(p) for p in rollouts.prompts])[:, None] + rollouts.lengths
    c = run.update_config
    passes = flops.update(
        run.prepared.model.config, lengths.reshape(-1), c.scores_policy, c.scores_reference, c.epochs_per_step
    )
    found = flops.mfu(sum(passes.values()), run.phases.seconds["update"], run.mesh.devices.flat)
    return float("nan") if found is None else found


def load(run: Run, state, step: int, values: dict, pending) -> None:
    """The sampler gets the weights of a step, whose metrics are logged even where that raises RolloutError."""
    with run.phases("load"):
        if pending:
            wait([pending])  # new weights come between the rollouts of two steps, never within one's
        try:
            run.sampler.load(state.params, step)
        except RolloutError:
            run.log.write(step, values)
            raise


def stop_signals() -> Signals:
    """Ctrl-C or SIGTERM ends the run after the step that is under way; a second one ends it at once."""
    return Signals("finishing this step, then saving; once more ends the run at once ...", leave=False)


class StopRequestedError(Exception):
    """An evaluation was left because a signal asked the run to stop; the evaluation is made when the run goes on."""


# ---- watch


def watch(run: Run, state, step: int, values: dict, collected: Collected, stopping: bool) -> None:
    """Evaluates, logs and saves what is due after a step, and decides whether the run ends here."""
    config, alarm = run.config, run.detector.update(values)
    warn(run, values, collected, alarm)
    evaluated = is_evaluated(run, step)
    try:
        if evaluated:
            values |= evaluate_sets(run, step)
    finally:
        values |= pop_seconds(run) | {"time/compilations": run.compilations.count} | run.sampler.report
        run.log.write(step, values)
    run.log.progress(step, progress_summary(values), run.pace.seconds_left(step))
    run.ended = end_reason(run)
    if evaluated or run.ended or step % config.checkpoint.every == 0 or stopping:
        save(run, state, step)


def pop_seconds(run: Run) -> dict[str, float]:
    """`time/*` since the last call, which the pace of the run takes note of."""
    seconds = run.phases.pop()
    run.pace.add(seconds)
    return seconds


def warn(run: Run, values: dict, collected: Collected, alarm: str | None = None) -> None:
    """Says what looks wrong in the metrics of these rollouts, unless it has been said."""

    def texts():
        return response_texts(collected.rollouts.flat(), run.prepared.model.tokenizer)

    for text in run.diagnosis.update(values, alarm, texts):
        run.log.warn(text)


def end_reason(run: Run) -> str | None:
    """Why the run ends now: signs of a collapse, or evaluations without progress. None where it goes on."""
    if run.detector.alarm and run.config.stop.collapse:
        return run.detector.alarm
    if should_stop(list(scores(run).items()), run.config.stop.patience):
        return f"the last {run.config.stop.patience} evaluations brought nothing better than the ones before."
    return None


def is_evaluated(run: Run, step: int) -> bool:
    """Is there an evaluation after this step? Also where a collapse ends the run."""
    config = run.config
    return step % config.eval.every == 0 or step == config.steps or bool(run.detector.alarm and config.stop.collapse)


def evaluate_sets(run: Run, step: int) -> dict[str, float]:
    """`eval/<set>/<metric>` of every evaluation set and `eval/mean/<metric>` of several; also kept in the run's record,
    and shown as probes at the ends.

    Raises StopRequestedError where a signal asks the run of one process to stop meanwhile.
    """
    config, values, tokenizer = run.config, {}, run.prepared.model.tokenizer
    grading = Grading(tokenizer, run.grading.form, run.grader)  # by the vote, without the settings of training

    def check():
        if run.stop and run.stop.requested and jax.process_count() == 1:
            raise StopRequestedError

    run.log.pause()
    with run.phases("eval"):
        for name, found, collected in evaluate_all(
            run.prepared.eval_sets,
            run.sampler,
            grading,
            config,
            f" after step {step}",
            EVALUATION_SHOWN_AFTER,
            check,
        ):
            if not values and step in (0, config.steps) and is_first_process():
                show_probes(run, step, rollout_rows(collected, tokenizer))
            tagged = {f"eval/{name}/{metric}": value for metric, value in found.items()}
            warn(run, tagged, collected)
            values |= tagged
    values |= metrics.mean_over_sets(values)
    run.record["evals"][str(step)] = values
    return values


def show_probes(run: Run, step: int, rows: list[dict]) -> None:
    """One response to each of the first evaluation problems, in TensorBoard and in a file."""
    shown = rows[:: run.config.eval.samples][: run.config.log.shown]
    run.log.text("probes", board.table(board.shown_rows(rows, run.config.log.shown, per_prompt=1)), step)
    write_json(run.directory / f"probes_step_{step:06d}.json", shown)


def log_rollouts(run: Run, step: int, collected: Collected) -> None:
    """Saves the step's rollouts, and shows a few of them in TensorBoard, as often as the config asks for."""
    saved, shown = step % run.config.log.rollouts_every == 0, step == 1 or step % run.config.eval.every == 0
    rows = rollout_rows(collected, run.prepared.model.tokenizer) if saved or shown else []
    if saved and is_first_process():
        recording.write_rows(run.directory, step, rows)
        recording.write(run.directory, step, collected)
    if shown:
        run.log.text("rollouts", board.table(board.shown_rows(rows, run.config.log.shown)), step)


def progress_summary(values: dict) -> str:
    """The few numbers of the progress line."""
    shown = [
        ("reward", "label/pseudo_reward"),
        ("true", "label/true_reward"),
        ("label", "label/label_accuracy"),
        ("share", "label/vote_share"),
        ("kl", "update/kl"),
        ("s/step", "time/step"),
    ]
    return "  ".join(
        f"{name} {float(values[key]):.3f}" for name, key in shown if key in values and not np.isnan(values[key])
    )


# ---- end


def scores(run: Run) -> dict[int, float]:
    """What the best step is chosen by, of every evaluation so far that has it."""
    found = {int(step): score(values, run.config) for step, values in run.record["evals"].items()}
    return {step: value for step, value in found.items() if value is not None}


def score(evals: dict, config: ConfigDict) -> float | None:
    """What the best step is chosen by: avg@k on the validation set, else its mean over the sets that have answers."""
    avg = f"avg@{config.eval.samples}"
    found = {name: values[avg] for name, values in metrics.by_set(evals).items() if avg in values and name != MEAN}
    return found.get(VALIDATION, float(np.mean(list(found.values()))) if found else None)


def save(run: Run, state, step: int) -> None:
    """A checkpoint of this step, unless there is one or there is nothing to save yet."""
    if step == 0:
        return
    run.record["seconds"] = run.phases.total
    run.log.flush()  # TensorBoard drops the steps up to a checkpoint's when a run goes on, but has them all by now
    with run.phases("save"):
        run.checkpoints.save(step, state, run.record, scores(run))


def export(run: Run, state, name: str) -> None:
    """The weights as a Hugging Face directory in the run folder, with the initial model's tokenizer.

    Its generation config names the tokens that ended a response in training.
    """
    model = run.prepared.model
    weights.save(
        run.directory / name,
        state.params,
        model.hf_config,
        run.config.model.dtype,
        tokenizer_from=model.directory,
        extra=model.exported_files,
    )


def finish(run: Run, state, step: int) -> dict:
    """Exports the final weights, and the best where these are others; writes summary.json and closes everything."""
    config, evals = run.config, {int(s): values for s, values in run.record["evals"].items()}
    export(run, state, "final")
    run.checkpoints.wait()
    best = best_step(scores(run), [0, *run.checkpoints.steps(), step])
    if best not in (None, 0, step):
        export(run, run.checkpoints.restore(state, best), "best")
    summary = {
        "name": config.name,
        "steps": step,
        "labels": config.labels.source,
        "base": evals.get(0, {}),
        "last": evals.get(step, {}),
        "best": {"step": best, **evals[best]} if best is not None else {},
        "ended_early": run.ended,
        "seconds": {name: round(s, 2) for name, s in run.phases.total.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if is_first_process():
        write_json(run.directory / "summary.json", summary)
    run.log.close()
    if run.ended:
        logger.info(f"ended after step {step} of {config.steps}: {run.ended}")
    logger.info(
        f"done: {run.directory}/final holds the model, summary.json the figures; "
        f"tensorboard --logdir {run.directory.parent}"
    )
    return summary
