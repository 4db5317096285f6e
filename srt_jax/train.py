"""The training loop: Algorithm 1 of "Can Large Reasoning Models Self-Train?".

`train_loop` is the algorithm, and `learn` is its update. The other functions evaluate, log, save and finish a run.
run/setup.py starts it. The weights after step s have version s, and an evaluation after step s measures them. Step s
trains on rollouts of version s - 1; with rollout.steps_ahead, of s - 2 from the second step after a start on. It makes
one update, or several (batch.minibatches_per_step, batch.epochs_per_step).
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax
import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import (
    MEAN,
    VALIDATION,
    may_fall_back,
    plans_checkpoint,
    policy_samples,
    run_directory,
    takes_readings,
    votes_per_prompt,
)
from srt_jax.config.paths import initial_weights, weights_field
from srt_jax.config.resolve import on_this_machine
from srt_jax.config.versions import FORMAT
from srt_jax.errors import ConfigError, RolloutError, TrainingStoppedError, raised_by_all
from srt_jax.files import write_json
from srt_jax.log import logger
from srt_jax.model import flops, lora
from srt_jax.model.lora import LoRA
from srt_jax.reward import measures
from srt_jax.reward.rewards import Graded, with_confidence
from srt_jax.rl.collate import Batch, collate
from srt_jax.rl.optimizer import TrainState
from srt_jax.run import anchor, board, exports, metrics, recording, timing
from srt_jax.run.checkpoint import best_step
from srt_jax.run.collapse import should_stop
from srt_jax.run.evaluation import evaluate_all, evaluation_samples, rollout_rows
from srt_jax.run.fallback import choosable, fall_back, voting_teacher
from srt_jax.run.interrupt import Signals
from srt_jax.run.prepare import prepare
from srt_jax.run.probe import answer_tokens, kl_metrics
from srt_jax.run.progress import announced
from srt_jax.run.rollouts import Collected, Grading, collect, response_texts, sampling_at, temperature_at
from srt_jax.run.setup import Learner, Run, RunState, begin, completed_summary
from srt_jax.runtime import is_first_process, processes, profiled

LOOK_SECONDS = 1.0  # between two looks at rollouts of the next step
EVALUATION_SHOWN_AFTER = 5.0  # seconds; a shorter evaluation has no progress line
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "sympy", "numpy")


class StopRequestedError(Exception):
    """A signal ended the sampling of a step or of an evaluation. It is sampled again when the run resumes."""


def train(config: ConfigDict, allowed: Sequence[str] = ()) -> dict:
    """Runs or resumes the experiment of a config. Returns the summary, which is also written to summary.json.

    allowed: fields in which the config may differ from the resumed run's (run/identity.py).
    Raises ConfigError, DataError, ModelError or CheckpointError before anything is computed, and TrainingStoppedError
    after that.
    """
    config, notes = on_this_machine(config)
    directory = run_directory(config)
    if finished := processes.from_first(lambda: completed_summary(config, directory)):
        logger.info(f"{directory} is complete ({finished['steps']} steps): nothing to do.")
        return finished
    for note in notes:
        logger.info(note)
    run, now = begin(config, prepare(config), directory, allowed)
    # These close in reverse order: the sampler before the thread, which may be sampling and must not wait for the end.
    with (
        contextlib.closing(now.compilations),
        contextlib.closing(run.log),
        contextlib.closing(run.checkpoints),
        run.learner.grader,
        ThreadPoolExecutor(1) as thread,
        contextlib.closing(run.sampler),
        now.watchdog.watching(functools.partial(rescue, run, now)),
        stop_signals() as now.stop,
    ):
        try:
            if react(run, now):
                save(run, now, replace=True)
            prepare_sampler(run, now)
            leave_if_stopped(now)
            anchor_guard(run, now)
            evaluate_first(run, now)
            with transfer_guard():
                train_loop(run, now, thread)
        except StopRequestedError:
            save(run, now)
            raise stopped(f"stopped. {how_to_resume(run, now)}") from None
        except RolloutError as e:
            save(run, now)
            raise TrainingStoppedError(f"{e} {how_to_resume(run, now)}") from e
        except ConfigError as e:  # a user's function failed, or a server has other settings
            # There is nothing to save. The other processes may not see a new checkpoint yet.
            if now.step == 0 or processes.from_first(lambda: now.step in run.checkpoints.steps()):
                raise
            save(run, now)
            raise TrainingStoppedError(f"{e} {how_to_resume(run, now)}") from e
        return finish(run, now)


def train_loop(run: Run, now: RunState, thread: ThreadPoolExecutor) -> None:
    """Runs Algorithm 1 from step now.step + 1 on, and updates `now` in place.

    With rollout.steps_ahead, `thread` collects the rollouts of the next step during the update. Raises RolloutError,
    StopRequestedError or TrainingStoppedError.
    """
    config, pending = run.config, None
    for step in profiled(range(now.step + 1, config.steps + 1), run.directory, config.log.profile):
        if now.ended:
            break
        # Problems -> rollouts -> answers -> votes -> labels -> rewards: run/rollouts.py, reward/rewards.py.
        collected = take_rollouts(run, now, step, pending)
        if config.rollout.steps_ahead and step < config.steps:
            pending = thread.submit(collect_ahead, run, now, step + 1)
        if run.learner.confidence and not now.fallback:
            with now.phases("score"):
                collected = reward_confidence(run.learner, now.train_state, collected, step)
        # Rewards -> batch -> update.
        with now.phases("update"):
            now.train_state, values = learn(run.learner, now.train_state, collected, step)
        with now.phases("log"):
            log_rollouts(run, step, collected)
        check_finite(run, now, step, values, collected)
        now.step, now.unlogged = step, values
        values |= teacher_metrics(now, collected) | speed_metrics(run, now, collected)
        # The sampler gets the new weights.
        publish_weights(run, now, pending)
        stopping = processes.any_of(now.stop.requested)
        # Evaluate, log, save, stop.
        finish_step(run, now, values, collected, stopping)
        if stopping and step < config.steps:
            raise stopped(f"stopped. {how_to_resume(run, now)}")


def transfer_guard() -> contextlib.AbstractContextManager:
    """In a run of one process, makes JAX refuse implicit transfers from the host to the devices: they cost time unseen.

    Several processes agree on flags and results by JAX's own functions, which transfer implicitly.
    """
    return jax.transfer_guard_host_to_device("disallow" if jax.process_count() == 1 else "allow")


def learn(
    learner: Learner, train_state: TrainState, collected: Collected, step: int
) -> tuple[TrainState, dict[str, float]]:
    """Updates the state on a step's rollouts. Returns (new state, metrics of the step without those of its speed).

    It is a pure function, except that it donates the state. `srt replay` calls it with recorded rollouts.
    """
    config, rollouts = learner.config, collected.trained().rollouts
    grading = learner.grading
    answer_mask = answer_tokens(rollouts, grading.tokenizer, grading.form) if config.rl.mask_answer else None
    batch = to_batch(learner, collected, step, answer_mask)
    train_state, update_metrics = learner.update(train_state, learner.reference, batch)
    values = {f"update/{name}": value for name, value in jax.device_get(update_metrics).items()}
    return train_state, measures.metrics(collected.graded) | values | {
        "rollout/response_tokens": rollouts.lengths.mean(),
        "rollout/response_tokens_max": rollouts.lengths.max(),
        "rollout/truncated": 1 - rollouts.stopped.mean(),
        "rollout/weights_version": rollouts.version,
        "rollout/rounds": collected.rounds,
        "rollout/temperature": temperature_at(config, step),
    }


def reward_confidence(learner: Learner, train_state: TrainState, collected: Collected, step: int) -> Collected:
    """The rollouts with rewards from the policy's confidence in their tokens (rl/confidence.py)."""
    found = jax.device_get(learner.confidence(learner.policy(train_state), to_batch(learner, collected, step)))
    graded = [
        with_confidence(g, {name: values[p] for name, values in found.items()}, learner.grading.settings)
        for p, g in enumerate(collected.graded)
    ]
    return dataclasses.replace(collected, graded=graded)


def to_batch(learner: Learner, collected: Collected, step: int, answer_mask: np.ndarray | None = None) -> Batch:
    """The batch of a step, on the devices. answer_mask [P, n, T] bool: True on the tokens that the loss leaves out."""
    temperature = learner.config.rl.temperature or temperature_at(learner.config, step)
    return collate(collected.trained(), learner.update_config.layout, learner.mesh, temperature, answer_mask)


# ---- the sampler


def prepare_sampler(run: Run, now: RunState) -> None:
    """Loads the first weights into the sampler, and compiles its programs for all prompts, so that no step compiles."""
    with announced("preparing the sampler"):
        load_samplers(run, now)
        if now.step < run.config.steps and not now.ended:
            prompts, sampling = run.prepared.prompts, sampling_at(run.config, now.step + 1)
            run.sampler.compile(prompts, policy_samples(run.config), sampling)
            if teacher := voting_teacher(run, now):
                teacher.compile(prompts, votes_per_prompt(run.config.batch), sampling)
            for eval_set in run.prepared.eval_sets:
                leave_if_stopped(now)
                run.sampler.compile(eval_set.prompts, *evaluation_samples(run.config))
        leave_if_stopped(now)


def load_samplers(run: Run, now: RunState) -> None:
    """The samplers get the weights of the policy and, if there is one, of the teacher."""
    run.sampler.load(run.learner.policy(now.train_state), now.step, lambda: leave_if_stopped(now))
    if teacher := voting_teacher(run, now):
        teacher.load(run.learner.teacher(now.train_state, now.frozen), now.step)


def anchor_guard(run: Run, now: RunState) -> None:
    """Draws the base's votes on the evaluation prompts before step 1, or reads them again (run/anchor.py)."""
    config, directory = run.config, run.directory
    if not takes_readings(config):
        return
    sets = run.prepared.eval_sets
    if now.step:
        now.anchor = processes.from_first(lambda: anchor.read_again(directory, now.anchor_checksum, sets))
    else:
        identity = anchor.fingerprint(run.identity)
        stored = processes.from_first(lambda: anchor.read(directory))
        if stored and stored[1] == identity:  # drawn before a stop
            now.anchor = stored[0]
        else:
            now.anchor = anchor.draw(config, sets, run.sampler, vote_grading(run), functools.partial(sampled, now))
            drawn = now.anchor
            processes.from_first(lambda: anchor.write(directory, drawn, identity))
        run.learner.grader.metrics()  # resets the counters: step 1 counts its own rollouts only
    now.anchor_checksum = now.anchor.checksum
    logger.info(now.anchor.describe())


def vote_grading(run: Run) -> Grading:
    """Grades samples by their vote, whatever labels.source is: for evaluations and the guard."""
    return Grading(run.prepared.model.tokenizer, run.learner.grading.form, run.learner.grader)


def evaluate_first(run: Run, now: RunState) -> None:
    """Evaluates before the loop if now.step has none yet: at step 0, or after a signal stopped the last evaluation."""
    if is_evaluated(run, now) and str(now.step) not in now.evals:
        run.log.write(now.step, evaluate_sets(run, now) | pop_seconds(now))
        if react(run, now):
            save(run, now, replace=True)
            load_samplers(run, now)
    run.log.progress(now.step, "")


def collect_step(run: Run, now: RunState, step: int) -> Collected:
    """The graded rollouts of a step. Raises StopRequestedError if a signal requests a stop meanwhile."""
    with transfer_guard():  # JAX keeps this setting by thread, and this may be another thread than the loop's
        collected = collect(
            run.config,
            run.prepared,
            run.sampler,
            run.learner.grading,
            step,
            functools.partial(sampled, now),
            voting_teacher(run, now),
        )
    # Now, because with rollout.steps_ahead the loop logs a step while the next one is collected.
    return dataclasses.replace(collected, workers=run.learner.grader.metrics())


def collect_ahead(run: Run, now: RunState, step: int) -> Collected | None:
    """The rollouts of the next step, in a thread beside the update. Only the first process samples: None in others."""
    if not is_first_process():
        return None
    with processes.alone():
        return collect_step(run, now, step)


def wait_for(now: RunState, pending: Future) -> None:
    """Waits in all processes until `collect_ahead` ends in the first one. A signal to any of them ends the wait."""

    def watch(report: processes.Report) -> None:
        while wait([pending], LOOK_SECONDS).not_done:
            report(*now.watchdog.last_sampled)

    processes.led_by_first(watch, functools.partial(sampled, now))


def take_rollouts(run: Run, now: RunState, step: int, pending: Future | None) -> Collected:
    """Returns the step's rollouts: the result of `pending`, which began during the step before, or newly collected."""
    if pending is None:
        now.watchdog.progress("sample")
        collected = collect_step(run, now, step)
        now.phases.add(collected.seconds)
    else:
        with now.phases("wait"):
            wait_for(now, pending)
            collected = processes.from_first(pending.result)
    version = collected.rollouts.version
    if not step - 1 - run.config.rollout.steps_ahead <= version < step:
        raise RolloutError(
            f"the rollouts of step {step} come from version {version} of the weights: the sampler is out of step."
        )
    return collected


def publish_weights(run: Run, now: RunState, pending: Future | None) -> None:
    """The sampler gets the weights of a step."""
    with now.phases("load"):
        if pending:
            wait_for(now, pending)  # one step's rollouts all come from the same weights
        load_samplers(run, now)


# ---- the end of a step


def stop_signals() -> Signals:
    """Ctrl-C or SIGTERM ends sampling or an evaluation within seconds, and an update after its end; then the run saves.

    A second one ends the run at once.
    """
    return Signals("stopping: the state will be saved; once more ends the run at once ...", leave=False)


def leave_if_stopped(now: RunState) -> None:
    """Raises StopRequestedError if a signal has requested a stop. Several processes must finish their common work."""
    if now.stop and now.stop.requested and processes.decides_alone():
        raise StopRequestedError


def sampled(now: RunState, share: float, tokens: int) -> None:
    """A callback for samplers: notes the progress, and raises StopRequestedError if a signal requests a stop."""
    now.watchdog.sampled(share, tokens)
    leave_if_stopped(now)


def check_finite(run: Run, now: RunState, step: int, values: dict, collected: Collected) -> None:
    """Ends the run if a loss or gradient of the step is not finite. The update did not change the state then."""
    if values["update/finite"]:
        return
    save_rollouts(run, step, collected, rollout_rows(collected, run.prepared.model.tokenizer))
    save(run, now)
    export(run, now.train_state, "last_good")
    field = weights_field(run.config)
    raise stopped(
        f"the gradient of step {step} is not finite (loss {values['update/loss']:.3g}, gradient norm "
        f"{values['update/grad_norm']:.3g}); the state before it is saved in {run.directory}: look at "
        f"{recording.rollouts_path(run.directory, step, recording.ROWS)}, then start a new run with a lower "
        f"optimizer.learning_rate and {field}={run.directory}/last_good."
    )


def teacher_metrics(now: RunState, collected: Collected) -> dict[str, float]:
    """The metrics of the teacher's samples, if there is a teacher."""
    if (votes := collected.teacher) is None:
        return {}
    true = np.concatenate([graded.true_rewards for graded in votes.graded])
    known = true[~np.isnan(true)]
    return {
        "teacher/vote_share": float(np.mean([graded.vote.share for graded in votes.graded])),
        "teacher/true_reward": float(known.mean()) if known.size else measures.NAN,
        "teacher/response_tokens": float(votes.rollouts.lengths.mean()),
        **({"teacher/step": now.fallback.chosen} if now.fallback else {}),
    }


def speed_metrics(run: Run, now: RunState, collected: Collected) -> dict[str, float]:
    """The metrics of a step that depend on the clock or on the grader's workers."""
    workers = {f"workers/{name}": value for name, value in collected.workers.items()}
    return {tag: value for tag, value in workers.items() if tag in metrics.TAGS} | {
        "rollout/tokens_per_second": collected.tokens / collected.seconds["sample"],
        "update/mfu": update_mfu(run.learner, collected, now.phases.seconds["update"]),
    }


def update_mfu(learner: Learner, collected: Collected, seconds: float) -> float:
    """FLOPs that the update requires, divided by its seconds and by the devices' peak; NaN if the peak is unknown."""
    rollouts, c = collected.trained().rollouts, learner.update_config
    lengths = np.array([len(p) for p in rollouts.prompts])[:, None] + rollouts.lengths
    model, settings = learner.prepared.model.config, LoRA.of(learner.config.model.lora)
    passes = flops.update(
        model,
        lengths.reshape(-1),
        c.scores_policy,
        c.scores_reference,
        c.epochs_per_step,
        lora.num_params(settings, model) if settings else 0,
    )
    found = flops.mfu(sum(passes.values()), seconds, learner.mesh.devices.flat)
    return float("nan") if found is None else found


def finish_step(run: Run, now: RunState, values: dict, collected: Collected, stopping: bool) -> None:
    """Evaluates, logs and saves after a step, as often as the config says, and decides whether the run ends here."""
    alarm = now.detector.update(values)
    warn(run, now, values, collected, alarm)
    evaluated = is_evaluated(run, now)
    try:
        if evaluated and stopping and run.prepared.eval_sets:  # the resumed run evaluates
            raise StopRequestedError
        if evaluated:
            values |= evaluate_sets(run, now)
    finally:
        values |= pop_seconds(now) | {"time/compilations": now.compilations.count} | run.sampler.report
        run.log.write(now.step, values)
        now.unlogged = None
    now.watchdog.finished(now.step, timing.seconds_of_step(values))
    run.log.progress(now.step, progress_summary(values), now.pace.seconds_left(now.step))
    returned = react(run, now)
    if evaluated or returned or now.ended or stopping or plans_checkpoint(run.config, now.step):
        save(run, now)
    if returned:
        with now.phases("load"):
            load_samplers(run, now)


def pop_seconds(now: RunState) -> dict[str, float]:
    """Returns `time/*` since the last call, and adds them to the pace of the run."""
    seconds = now.phases.pop()
    now.pace.add(seconds)
    return seconds


def warn(run: Run, now: RunState, values: dict, collected: Collected, alarm: str | None = None) -> None:
    """Logs a warning for each fault that the metrics of these rollouts show for the first time."""

    def texts():
        return response_texts(collected.rollouts.flat(), run.prepared.model.tokenizer)

    for text in now.diagnosis.update(values, alarm, texts):
        run.log.warn(text)


def react(run: Run, now: RunState) -> bool:
    """At the first alarm with guard.action = teacher, returns to a checkpoint if one is left.

    In every case it decides whether the run ends here (now.ended). Tells whether the run has returned to a checkpoint:
    then the samplers need its weights.
    """
    fallback = now.fallback
    if now.detector.alarm and may_fall_back(run.config) and not fallback and now.step < run.config.steps:
        fall_back(run, now)
    now.ended = end_reason(run, now)
    return now.fallback is not fallback


def ends_at_alarm(run: Run, now: RunState) -> bool:
    """Does an alarm of the guard end the run? With guard.action teacher the second one does."""
    return run.config.guard.action == "stop" or (may_fall_back(run.config) and now.fallback is not None)


def end_reason(run: Run, now: RunState) -> str | None:
    """Returns why the run ends now (signs of a collapse, or evaluations without progress), or None."""
    stop = run.config.stop
    if now.detector.alarm and run.config.guard.action in ("stop", "teacher"):  # a fallback would have cleared the alarm
        return now.detector.alarm
    if should_stop(list(scores(run.config, now.evals).items()), stop.patience):
        return f"the last {stop.patience} evaluations brought nothing better than the ones before."
    return None


def is_evaluated(run: Run, now: RunState) -> bool:
    """Tells whether an evaluation follows: every eval.every steps, at the end, and if a collapse stops the run."""
    config, step = run.config, now.step
    ends = bool(now.detector.alarm and ends_at_alarm(run, now))
    return step % config.eval.every == 0 or step == config.steps or ends


def evaluate_sets(run: Run, now: RunState) -> dict[str, float]:
    """Evaluates all sets. Returns `eval/<set>/<metric>`, `eval/mean/<metric>` of several sets, and the guard's metrics.

    At step 0 and at the last step it shows probes. Raises StopRequestedError if a signal requests a stop meanwhile.
    """
    config, values, graded, tokenizer = run.config, {}, {}, run.prepared.model.tokenizer
    at = f" after step {now.step}"
    run.log.pause()
    with now.phases("eval"):
        for name, found, collected in evaluate_all(
            run.prepared.eval_sets,
            run.sampler,
            vote_grading(run),
            config,
            at,
            EVALUATION_SHOWN_AFTER,
            functools.partial(sampled, now),
        ):
            if not values and now.step in (0, config.steps) and is_first_process():
                show_probes(run, now.step, rollout_rows(collected, tokenizer))
            measured = found | (kl_to_base(run, collected) if config.eval.kl else {})
            tagged = {f"eval/{name}/{metric}": value for metric, value in measured.items()}
            warn(run, now, tagged, collected)
            values |= tagged
            graded[name] = collected.graded
        if now.anchor:
            values |= take_reading(run, now, graded)
    run.learner.grader.metrics()  # resets the counters: a step counts its own rollouts only, as it does after a resume
    values |= metrics.mean_over_sets(values)
    now.evals[str(now.step)] = {tag: value for tag, value in values.items() if not np.isnan(value)}
    return values


def take_reading(run: Run, now: RunState, graded: dict[str, list[Graded]]) -> dict[str, float]:
    """The guard's reading of an evaluation, and its warning. Returns `guard/*`. graded: {set: graded samples}."""
    found = processes.from_first(lambda: anchor.take_reading(now.step, now.anchor, graded, run.learner.grader))
    for text in now.diagnosis.update({}, now.detector.read(found)):
        run.log.warn(text)
    return anchor.metrics(found, now.detector.falls())


def kl_to_base(run: Run, collected: Collected) -> dict[str, float]:
    """The KL of these evaluation samples to the initial model. It is measured outside of the loss."""
    learner, form = run.learner, run.learner.grading.form
    return kl_metrics(
        learner.graphdef,
        learner.reference,
        learner.mesh,
        collected.rollouts,
        run.config.eval.temperature,
        run.prepared.model.tokenizer,
        form,
        learner.update_config.layout.microbatch_sequences,
    )


def show_probes(run: Run, step: int, rows: list[dict]) -> None:
    """Writes one response to each of the first evaluation problems to TensorBoard and to a file."""
    shown = rows[:: run.config.eval.samples][: run.config.log.shown]
    run.log.text("probes", board.table(board.shown_rows(rows, run.config.log.shown, per_prompt=1)), step)
    write_json(run.directory / f"probes_step_{step:06d}.json", shown)


def log_rollouts(run: Run, step: int, collected: Collected) -> None:
    """Saves the step's rollouts, and shows a few of them in TensorBoard, at the steps that the config selects."""
    if not is_first_process():  # the others need not decode the responses
        return
    saved, shown = step % run.config.log.rollouts_every == 0, step == 1 or step % run.config.eval.every == 0
    rows = rollout_rows(collected, run.prepared.model.tokenizer) if saved or shown else []
    if saved:
        save_rollouts(run, step, collected, rows)
    if shown:
        run.log.text("rollouts", board.table(board.shown_rows(rows, run.config.log.shown)), step)


def save_rollouts(run: Run, step: int, collected: Collected, rows: list[dict]) -> None:
    """Writes a step's rollouts to the run's folder: as rows to read, and as arrays for `srt replay`."""
    if is_first_process():
        recording.write_rows(run.directory, step, rows)
        recording.write(run.directory, step, collected)


def progress_summary(values: dict) -> str:
    """The metrics that the progress line shows."""
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


def scores(config: ConfigDict, evals: dict[str, dict[str, float]]) -> dict[int, float]:
    """{step: score} of the evaluations that have one. The best step is the one with the highest score."""
    found = {int(step): score(values, config) for step, values in evals.items()}
    return {step: value for step, value in found.items() if value is not None}


def score(values: dict[str, float], config: ConfigDict) -> float | None:
    """avg@k of an evaluation on the validation set, else its mean over the sets that have answers."""
    avg = f"avg@{config.eval.samples}"
    found = {name: of[avg] for name, of in metrics.by_set(values).items() if avg in of and name != MEAN}
    return found.get(VALIDATION, float(np.mean(list(found.values()))) if found else None)


def stopped(message: str) -> Exception:
    """The error of a run that all its processes stop at the same step."""
    return raised_by_all(TrainingStoppedError(message), is_first_process())


def how_to_resume(run: Run, now: RunState) -> str:
    """The end of the message of a run that stops early: what is saved, and how to resume."""
    what = f"The state after step {now.step} is saved in {run.directory}" if now.step else "Nothing is trained yet"
    return f"{what}. The same command resumes the run."


def save(run: Run, now: RunState, replace: bool = False) -> None:
    """Logs the metrics of now.step, if they are not logged yet, and saves its checkpoint. Step 0 has neither.

    replace: whether to replace a checkpoint of this step, which has the weights from before a return.
    """
    if now.step == 0:
        return
    if now.unlogged is not None:  # an error or a stop request came before the record of the step
        run.log.write(now.step, now.unlogged)
        now.unlogged = None
    readings = [reading.as_json() for reading in now.detector.readings]
    fallback = {"fallback": dataclasses.asdict(now.fallback)} if now.fallback else {}
    needed = now.detector.needed() | ({now.fallback.chosen} if now.fallback else set())
    record = {
        "format": FORMAT,
        "identity": run.identity,
        "evals": now.evals,
        "seconds": now.phases.total,
        "guard": {"checksum": now.anchor_checksum, "readings": readings, **fallback},
    }
    run.log.flush()  # a resumed run does not write the steps up to its checkpoint again
    with now.phases("save"):
        run.checkpoints.save(now.step, now.train_state, record, scores(run.config, now.evals), needed, replace)


def rescue(run: Run, now: RunState) -> str:
    """Saves the last finished step of a run whose main thread hangs; returns a clause that says what was saved.

    An update or a checkpoint that hangs has the state. Several processes cannot save without the one that hangs.
    """
    leaves = jax.tree.leaves(now.train_state)
    whole = not any(x.is_deleted() for x in leaves) and now.watchdog.phase not in ("update", "save")
    if jax.process_count() == 1 and whole and int(now.train_state.step) == now.step:
        save(run, now)
        run.checkpoints.wait()
    steps = run.checkpoints.steps()
    return f"the checkpoint of step {steps[-1]} is complete" if steps else "there is no checkpoint yet"


def export(run: Run, train_state: TrainState, name: str) -> None:
    """Writes the weights to a folder of the run, for other programs (run/exports.py)."""
    exports.export(run.config, run.prepared.model, run.learner.policy(train_state), run.directory / name)


def finish(run: Run, now: RunState) -> dict:
    """Exports the final weights, and the best and the chosen ones if they differ. Writes summary.json, ends the log."""
    config, evals = run.config, {int(s): values for s, values in now.evals.items()}
    now.watchdog.progress("export")
    export(run, now.train_state, "final")
    run.checkpoints.wait()
    # A shared file system may be late in other processes.
    kept = {0, *processes.from_first(run.checkpoints.steps), now.step}
    if now.fallback:  # this step has the weights of the chosen one, which is kept
        kept.discard(now.fallback.step)
    best = best_step(scores(config, now.evals), kept)
    choice = now.detector.choice(now.step, [0, *processes.from_first(lambda: choosable(run, now)), now.step])
    folders = {0: initial_weights(config) or config.model.path, now.step: "final"}
    for name, step in (("best", best), ("chosen", choice.step)):
        if step is not None and step not in folders:
            now.train_state = run.checkpoints.restore(now.train_state, step)
            export(run, now.train_state, name)
            folders[step] = name
    summary = {
        "name": config.name,
        "steps": now.step,
        "labels": config.labels.source,
        "base": evals.get(0, {}),
        "last": {"step": now.step, **evals.get(now.step, {})},
        "best": {"step": best, **evals[best]} if best is not None else {},
        "chosen": {**dataclasses.asdict(choice), "folder": folders[choice.step], **evals.get(choice.step, {})},
        "fallback": dataclasses.asdict(now.fallback) if now.fallback else None,
        "ended_early": now.ended,
        "seconds": {name: round(s, 2) for name, s in now.phases.total.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if is_first_process():
        write_json(run.directory / "summary.json", summary)
    run.log.close()
    if now.ended:
        logger.info(f"ended after step {now.step} of {config.steps}: {now.ended}")
    if best is not None and best != now.step:
        logger.info(f"best by known answers: step {best} ({folders[best]})")
    if now.anchor:
        logger.info(f"chosen without labels: step {choice.step} ({folders[choice.step]}), {choice.rule}")
    logger.info(
        f"done: {run.directory}/final holds the model, summary.json the figures; "
        f"tensorboard --logdir {run.directory.parent}"
    )
    return summary
