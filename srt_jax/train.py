"""The training loop: Algorithm 1 of "Can Large Reasoning Models Self-Train?".

    problems -> rollouts -> answers -> labels -> rewards -> one update -> the sampler gets the new weights

`train` is the run, `train_step` one turn of the loop; everything else here starts, watches or ends a run. Steps count
updates: step s trains on rollouts of weights version s - 1, and an evaluation at step s sees s updates.
"""
import dataclasses
import importlib.metadata
import json
import pathlib
import signal
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from srt_jax import metrics
from srt_jax.checkpoint import Checkpoints, check_same_run
from srt_jax.config import describe, fingerprint_fields, run_directory, validate, validate_devices
from srt_jax.data.batching import batch_indices
from srt_jax.evaluation import evaluate, extract_answers, rollout_rows
from srt_jax.loading import load_weights, open_mesh, open_sampler
from srt_jax.model import weights
from srt_jax.prepare import Prepared, prepare
from srt_jax.reward import labels
from srt_jax.reward.grader import Grader
from srt_jax.rl.collate import collate
from srt_jax.rl.update import UpdateConfig, init_state, make_optimizer, make_update
from srt_jax.rollout.sampler import Sampling, problem_seeds

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "sympy", "numpy")


class TrainingStoppedError(RuntimeError):
    """The run ended before its last step; the message says why, what was saved and how to go on."""


@dataclasses.dataclass
class Run:
    """What stays the same from step to step, and the record that goes into every checkpoint."""
    config: ConfigDict
    prepared: Prepared
    directory: pathlib.Path
    mesh: jax.sharding.Mesh
    reference: Any
    update: Any
    sampler: Any
    grader: Grader
    log: metrics.RunLog
    checkpoints: Checkpoints
    record: dict  # identity of the run; evaluations so far by step; seconds by phase
    phases: metrics.Phases
    compilations: metrics.CompilationCounter


def train(config: ConfigDict) -> dict:
    """Runs the experiment of a config, or goes on with it; returns the summary that is also written to summary.json.

    Raises ConfigError, DataError, ModelError or CheckpointError before anything is computed, and TrainingStoppedError
    once it runs.
    """
    validate(config)
    validate_devices(config, jax.device_count())
    directory = run_directory(config)
    if finished := completed_summary(config, directory):
        print(f"{directory} is complete ({finished['steps']} steps): nothing to do.")
        return finished
    run, state, start = begin(config, prepare(config), directory)
    with run.grader, StopSignal() as stop:
        if start == 0:
            run.log.write(0, evaluate_sets(run, 0))
        for step in range(start + 1, config.steps + 1):
            state, values = train_step(run, state, step)
            evaluated = step % config.eval.every == 0 or step == config.steps
            if evaluated:
                values |= evaluate_sets(run, step)
            values |= run.phases.pop() | {"time/compilations": run.compilations.count}
            run.log.write(step, values)
            run.log.progress(step, progress_summary(values))
            if evaluated or step % config.checkpoint.every == 0 or stop.requested:
                save(run, state, step, evaluated)
            if stop.requested and step < config.steps:
                raise TrainingStoppedError(
                    f"stopped after step {step}; the state is saved in {directory}: the same command goes on.")
        return finish(run, state)


def train_step(run: Run, state, step: int):
    """One turn of the loop: sample, grade, update. Returns (new state, the step's metrics)."""
    config, prepared = run.config, run.prepared
    chosen = batch_indices(len(prepared.problems), config.batch.prompts_per_step, config.seed, step - 1)
    problems = [prepared.problems[i] for i in chosen]
    with run.phases("sample"):
        rollouts = run.sampler.generate(
            [prepared.prompts[i] for i in chosen], config.batch.samples_per_prompt,
            Sampling(config.batch.max_response_tokens, config.rollout.temperature),
            problem_seeds(config.seed, "train", step, [p.id for p in problems]))
    with run.phases("grade"):
        answers = extract_answers(rollouts, prepared.model.tokenizer, config.answer.style)
        graded = labels.grade_rollouts(problems, answers, run.grader, config.labels.source, config.labels.threshold,
                                       config.reward.match)
    with run.phases("update"):
        batch = collate(rollouts, graded.rewards, graded.labelled, config.batch.length_buckets, run.mesh)
        state, update_metrics = run.update(state, run.reference, batch)
        update_metrics = jax.device_get(update_metrics)
    with run.phases("log"):
        saved, shown = step % config.log.rollouts_every == 0, step % config.eval.every == 0
        rows = rollout_rows(problems, rollouts, graded, prepared.model.tokenizer) if saved or shown else []
        if saved:
            run.log.rollouts(step, rows)
        if shown:
            run.log.text("rollouts", metrics.markdown_table(rows[:config.log.shown]), step)
    if not update_metrics["finite"]:
        save(run, state, step - 1, evaluated=False)
        export(run, state, "last_good")
        raise TrainingStoppedError(
            f"the gradient of step {step} is not finite; the state before it is saved in {run.directory}: look at "
            f"rollouts/step_{step:06d}.jsonl.gz, then start a new run with a lower optimizer.learning_rate and "
            f"model.path={run.directory}/last_good.")
    run.sampler.load(state.params, step)
    tokens = int(rollouts.lengths.sum())
    return state, labels.metrics(graded) | {f"update/{k}": v for k, v in update_metrics.items()} | {
        "rollout/response_tokens": rollouts.lengths.mean(),
        "rollout/response_tokens_max": rollouts.lengths.max(),
        "rollout/truncated": 1 - rollouts.stopped.mean(),
        "rollout/weights_version": rollouts.version,
        "rollout/tokens_per_second": tokens / run.phases.seconds["sample"],
        "rollout/padding": 1 - float(batch.lengths.sum()) / batch.tokens.size,
    } | {f"grader/{k}": v for k, v in run.grader.metrics().items()}


# ---- start


def begin(config: ConfigDict, prepared: Prepared, directory: pathlib.Path):
    """Model, optimizer and checkpoint of a run: (Run, state, step to go on from)."""
    checkpoints = Checkpoints(directory)
    start = checkpoints.last_step() or 0
    identity = {"config": fingerprint_fields(config), **prepared.identity}
    record = checkpoints.record() if start else {"identity": identity, "evals": {}, "seconds": {}}
    check_same_run(record["identity"], identity, directory)
    (directory / "config.json").write_text(resolved(config))
    print(describe(config, jax.device_count()))
    print("\n".join(prepared.report))

    mesh = open_mesh(config)
    graphdef, params = load_weights(config, prepared.model, mesh)
    reference = load_weights(config, prepared.model, mesh)[1] if config.rl.kl_coef else None
    optimizer = make_optimizer(**{k: config.optimizer[k] for k in (
        "learning_rate", "b1", "b2", "eps", "weight_decay", "grad_clip")})
    state = init_state(params, optimizer, mesh)
    if start:
        state = checkpoints.restore(state)
        print(f"going on from step {start} of {config.steps} in {directory}")
    update = make_update(graphdef, optimizer, UpdateConfig(
        samples_per_prompt=config.batch.samples_per_prompt, microbatch_sequences=config.batch.microbatch_sequences,
        max_response_tokens=config.batch.max_response_tokens, temperature=config.rollout.temperature,
        old_logprobs=config.rollout.old_logprobs,
        **{k: config.rl[k] for k in ("advantage", "kl", "kl_coef", "loss_aggregation")}), mesh, state)
    sampler = open_sampler(config, prepared.model, graphdef, mesh, directory)
    sampler.load(state.params, start)
    grader = Grader(config.grader.workers, match=config.vote.match, timeout=config.grader.timeout)
    grader.self_test()
    log = metrics.RunLog(directory, config.steps, last_step=start or None)
    return Run(config, prepared, directory, mesh, reference, update, sampler, grader, log, checkpoints, record,
               metrics.Phases(record["seconds"]), metrics.CompilationCounter()), state, start


def resolved(config: ConfigDict) -> str:
    """The whole config as JSON text, as it is written to <run>/config.json."""
    return config.to_json_best_effort(indent=2, sort_keys=True) + "\n"


def completed_summary(config: ConfigDict, directory: pathlib.Path) -> dict | None:
    """The summary of a run that was finished with this very config, else None."""
    summary = directory / "summary.json"
    if not summary.exists() or (directory / "config.json").read_text() != resolved(config):
        return None
    return json.loads(summary.read_text())


class StopSignal:
    """Ctrl-C or SIGTERM ends the run after the step that is under way; a second Ctrl-C ends it at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _request(self, signum, frame):
        if self.requested:
            signal.default_int_handler(signum, frame)
        self.requested = True
        print("\nfinishing this step, then saving ...", flush=True)


# ---- watch


def evaluate_sets(run: Run, step: int) -> dict[str, float]:
    """`eval/<set>/<metric>` of every evaluation set; also kept in the run's record, and shown as probes at the ends."""
    config, values = run.config, {}
    sampling = Sampling(config.batch.max_response_tokens, config.eval.temperature, config.eval.top_p, config.eval.top_k)
    for position, eval_set in enumerate(run.prepared.eval_sets):
        with run.phases("eval"):
            found, rollouts, graded = evaluate(
                eval_set, run.sampler, run.prepared.model.tokenizer, run.grader, samples=config.eval.samples,
                sampling=sampling, style=config.answer.style, seed=config.seed)
        values |= {f"eval/{eval_set.name}/{name}": value for name, value in found.items()}
        if position == 0 and step in (0, config.steps):
            rows = rollout_rows(eval_set.problems, rollouts, graded, run.prepared.model.tokenizer)
            shown = rows[::config.eval.samples][:config.log.shown]
            run.log.text("probes", metrics.markdown_table(shown), step)
            (run.directory / f"probes_step_{step:06d}.json").write_text(json.dumps(shown, indent=2) + "\n")
    run.record["evals"][str(step)] = values
    return values


def progress_summary(values: dict) -> str:
    """The few numbers of the progress line."""
    shown = [("reward", "label/pseudo_reward"), ("true", "label/true_reward"), ("label", "label/label_accuracy"),
             ("share", "label/vote_share"), ("kl", "update/kl"), ("s/step", "time/step")]
    return "  ".join(f"{name} {float(values[key]):.3f}" for name, key in shown
                     if key in values and not np.isnan(values[key]))


# ---- end


def score(evals: dict, config: ConfigDict) -> float | None:
    """Mean avg@k over the evaluation sets that have answers: what the best step is chosen by."""
    found = [v for name, v in evals.items() if name.endswith(f"/avg@{config.eval.samples}")]
    return float(np.mean(found)) if found else None


def save(run: Run, state, step: int, evaluated: bool) -> None:
    """A checkpoint of this step."""
    run.record["seconds"] = run.phases.total
    evals = run.record["evals"].get(str(step), {}) if evaluated else {}
    with run.phases("save"):
        run.checkpoints.save(step, state, run.record, score(evals, run.config))


def export(run: Run, state, name: str) -> None:
    """The weights as a Hugging Face directory in the run folder, with the initial model's tokenizer."""
    weights.save(run.directory / name, state.params, run.prepared.model.hf_config, run.config.model.dtype,
                 tokenizer_from=run.prepared.model.directory)


def finish(run: Run, state) -> dict:
    """Exports the final weights, writes summary.json and closes everything."""
    config, evals = run.config, {int(step): values for step, values in run.record["evals"].items()}
    export(run, state, "final")
    scored = {step: score(values, config) for step, values in evals.items() if score(values, config) is not None}
    best = max(scored, key=scored.get) if scored else None
    summary = {
        "name": config.name, "steps": config.steps, "labels": config.labels.source,
        "base": evals.get(0, {}), "last": evals.get(config.steps, {}),
        "best": {"step": best, **evals[best]} if best is not None else {},
        "seconds": {name: round(s, 2) for name, s in run.phases.total.items()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    partial = run.directory / "summary.json.partial"
    partial.write_text(json.dumps(summary, indent=2) + "\n")
    partial.rename(run.directory / "summary.json")
    run.log.close()
    run.checkpoints.close()
    run.sampler.close()
    print(f"done: {run.directory}/final holds the model, summary.json the figures; "
          f"tensorboard --logdir {run.directory.parent}")
    return summary
