"""Whole runs of the loop: it improves, it resumes bit for bit, it stops with the last good state."""

import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from srt_jax import train as train_module
from srt_jax.errors import CheckpointError, ConfigError, RolloutError, TrainingStoppedError
from srt_jax.jobs.replay import replay
from srt_jax.model import weights
from srt_jax.reward import rewards
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.metrics import describe_tag
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.helpers import REPOSITORY, small_config


def with_another_end(miniature, directory):
    """A copy of the miniature whose generation config names another end of a response than its tokenizer, <eos>."""
    shutil.copytree(miniature, directory)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "temperature": 0.5}))
    return directory


def assert_exported_ends(directory):
    """An export stops where training stopped: at both tokens."""
    assert json.loads((directory / "generation_config.json").read_text()) == {
        "eos_token_id": [0, 1],
        "temperature": 0.5,
    }


def records(directory):
    """metrics.jsonl without what depends on the clock or the process."""
    return [
        {k: v for k, v in r.items() if not k.startswith(("time/", "workers/seconds")) and "per_second" not in k}
        for r in read_metrics(directory)
    ]


def state_leaves(directory):
    step, _ = Checkpoints(directory).newest_whole()
    restored = ocp.StandardCheckpointer().restore(directory.absolute() / f"checkpoints/{step}/state")
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def test_two_plus_two_resumed_steps_equal_four_straight_ones(miniature, tmp_path):
    straight = small_config(miniature, tmp_path, name="straight", steps=4)
    train(straight)
    stopped = small_config(miniature, tmp_path, name="stopped", steps=2)
    train(stopped)
    stopped.steps = 4
    train(stopped)

    a, b = state_leaves(tmp_path / "straight"), state_leaves(tmp_path / "stopped")
    assert a.keys() == b.keys() and len(a) > 20
    for name, leaf in a.items():
        np.testing.assert_array_equal(leaf, b[name], err_msg=name)
    for step in range(1, 5):
        file = f"rollouts/step_{step:06d}.jsonl.gz"
        assert (tmp_path / "straight" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()
    one, two = records(tmp_path / "straight"), records(tmp_path / "stopped")
    assert [r["step"] for r in one] == [r["step"] for r in two] == [0, 1, 2, 3, 4]
    for x, y in zip(one, two):  # the stopped run evaluated its last step, 2, in addition
        shared = {k for k in x if k in y}
        assert {k for k in x if not k.startswith("eval")} <= shared
        assert {k: x[k] for k in shared} == {k: y[k] for k in shared}


def test_steps_differ_and_the_policy_moves(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="moves", steps=2)
    summary = train(config)
    files = [tmp_path / f"moves/rollouts/step_{s:06d}.jsonl.gz" for s in (1, 2)]
    rollouts = [gzip.decompress(file.read_bytes()).decode() for file in files]
    assert rollouts[0] != rollouts[1]
    rows = [json.loads(line) for line in rollouts[0].splitlines()]
    assert len(rows) == config.batch.prompts_per_step * config.batch.samples_per_prompt
    for row in rows:  # the reward is membership in the label's group
        assert row["reward"] == float(row["answer"] == row["label"])
        assert row["true_reward"] == float(row["answer"] == str(eval_sum(row["problem"])))
        assert row["stopped"] == row["response"].endswith("<eos>")
    first = read_metrics(tmp_path / "moves")[1]
    assert first["update/weights_moved_bf16"] > 0 and first["update/updated"] == 1
    assert first["update/logprob_gap_max"] < 1e-4  # the sampler's log-probs are the trainer's
    assert first["update/kl"] == pytest.approx(0, abs=1e-6)  # the policy is still the reference
    unexplained = [
        tag for r in read_metrics(tmp_path / "moves") for tag in r if tag != "step" and not describe_tag(tag)
    ]
    assert not unexplained
    _, before, _ = weights.load(miniature)
    _, after, _ = weights.load(tmp_path / "moves" / "final")
    changed = [bool((x != y).any()) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after))]
    assert all(changed)
    assert summary["last"]["eval/heldout/avg@4"] == read_metrics(tmp_path / "moves")[-1]["eval/heldout/avg@4"]


def eval_sum(text):
    assert re.fullmatch(r"\d(\+\d)+", text)
    return sum(map(int, text.split("+")))


def test_a_finished_run_is_not_run_again(miniature, tmp_path, capsys):
    config = small_config(miniature, tmp_path, name="done", steps=1)
    first = train(config)
    assert train(config) == first
    assert "is complete" in capsys.readouterr().out


def test_a_finished_run_without_its_summary_or_config_is_completed_again(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="done", steps=1)
    first = train(config)
    summary, recorded = tmp_path / "done/summary.json", (tmp_path / "done/config.json").read_text()
    summary.write_text(summary.read_text()[:100])
    (tmp_path / "done/config.json").unlink()
    again = train(config)
    assert {**again, "finished": ""} == {**first, "finished": "", "seconds": again["seconds"]}
    assert json.loads(summary.read_text()) == again
    assert (tmp_path / "done/config.json").read_text() == recorded
    assert [record["step"] for record in read_metrics(tmp_path / "done")] == [0, 1]


def test_a_signal_before_the_loop_or_when_an_evaluation_is_due(miniature, tmp_path, monkeypatch):
    """The run stops before it samples or evaluates. The resumed run makes the evaluation that was due."""
    config = small_config(miniature, tmp_path, name="signals", steps=2)
    config.eval.every = 1
    evaluated, evaluate = [], train_module.evaluate_sets

    def counted(run, now):
        evaluated.append(now.step)
        return evaluate(run, now)

    def signal_after(name, at):
        real = getattr(train_module, name)

        def patched(run, now, *rest):
            real(run, now, *rest)
            now.stop.requested |= not rest or rest[0] == at

        monkeypatch.setattr(train_module, name, patched)

    monkeypatch.setattr(train_module, "evaluate_sets", counted)
    signal_after("prepare_sampler", 0)
    with pytest.raises(TrainingStoppedError, match=r"stopped\. Nothing is trained yet"):
        train(config)
    assert evaluated == [] and read_metrics(tmp_path / "signals") == []
    monkeypatch.undo()
    monkeypatch.setattr(train_module, "evaluate_sets", counted)
    signal_after("check_finite", 1)
    with pytest.raises(TrainingStoppedError, match=r"stopped\. The state after step 1 is saved"):
        train(config)
    assert evaluated == [0] and [record["step"] for record in read_metrics(tmp_path / "signals")] == [0, 1]
    monkeypatch.undo()
    monkeypatch.setattr(train_module, "evaluate_sets", counted)
    train(config)
    assert evaluated == [0, 1, 2]
    assert ["eval/heldout/avg@4" in record for record in read_metrics(tmp_path / "signals")] == [True, True, True]


def test_an_extended_run_that_is_interrupted_goes_on(miniature, tmp_path, monkeypatch):
    config = small_config(miniature, tmp_path, name="extended", steps=1)
    train(config)
    config.steps = 3
    real = train_module.learn

    def fails(learner, state, collected, step):
        if step == 3:
            raise RolloutError("no server.")
        return real(learner, state, collected, step)

    monkeypatch.setattr(train_module, "learn", fails)
    with pytest.raises(TrainingStoppedError, match="after step 2 is saved"):
        train(config)
    monkeypatch.undo()
    assert train(config)["steps"] == 3


def test_nothing_compiles_once_the_loop_is_warm(miniature, tmp_path):
    """Prompts of two lengths, an evaluation and a checkpoint in every step. A call could have more prompts."""
    config = small_config(miniature, tmp_path, name="warm", steps=4)
    config.rollout.prompts_per_call = 2 * config.batch.prompts_per_step
    config.rollout.prompt_buckets, config.batch.length_buckets = (8, 10), (20, 28)
    config.eval.every = config.checkpoint.every = 1
    train(config)
    found = [record["time/compilations"] for record in read_metrics(tmp_path / "warm")[1:]]
    assert found[1:] == [found[1]] * 3


def test_the_sampler_compiles_no_program_after_the_first_draw(miniature, tmp_path, monkeypatch):
    """A step has 8 prompts in two buckets, and a call room for 16. Calls of evaluations have 16."""
    calls = []
    for name in ("_lower", "generate"):
        method = getattr(JaxSampler, name)
        monkeypatch.setattr(
            JaxSampler, name, lambda *a, name=name, method=method, **k: calls.append(name) or method(*a, **k)
        )
    config = small_config(miniature, tmp_path, name="ahead", steps=2)
    config.rollout.prompts_per_call, config.rollout.prompt_buckets = 16, (8, 10)
    config.batch.max_response_tokens = 15  # no other test compiles such programs
    config.eval.every = 1
    train(config)
    assert calls.index("generate") == calls.count("_lower") == 4, calls


def careless(*_):
    """A host array as the argument of a compiled function: an implicit transfer."""
    return jax.jit(lambda x: x + 1)(np.ones(3))


def test_an_implicit_transfer_to_the_devices_ends_the_loop(miniature, tmp_path, monkeypatch):
    config = small_config(miniature, tmp_path, name="transfer", steps=1)
    monkeypatch.setattr(train_module, "learn", careless)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(config)


def test_an_implicit_transfer_ends_the_thread_that_samples_one_step_ahead(monkeypatch):
    learner = SimpleNamespace(grading=None)
    config = SimpleNamespace(labels=SimpleNamespace(source="vote"))
    run = SimpleNamespace(config=config, prepared=None, sampler=None, teacher=None, learner=learner)
    monkeypatch.setattr(train_module, "collect", careless)
    with ThreadPoolExecutor(1) as thread, pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        thread.submit(train_module.collect_step, run, SimpleNamespace(fallback=None), 1).result()


def test_the_reference_model_has_its_own_dtype(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="x", steps=1)
    config.model.reference_dtype = "bfloat16"
    train(config)
    kl = read_metrics(tmp_path / "x")[1]["update/kl"]  # of weights that are equal but for their rounding
    assert 1e-6 < kl < 1e-2


def test_a_run_folder_of_another_config_is_refused(miniature, tmp_path):
    train(small_config(miniature, tmp_path, name="run", steps=1))
    other = small_config(miniature, tmp_path, name="run", steps=2)
    other.optimizer.learning_rate = 5e-4
    with pytest.raises(CheckpointError, match=r"differs in optimizer\.learning_rate \(0\.0002 there, 0\.0005 here\)"):
        train(other)
    config = small_config(miniature, tmp_path, name="run", steps=2)
    config.data.limit = 32
    with pytest.raises(CheckpointError, match=r"differs in data\.limit \(64 there, 32 here\)"):
        train(config)


def test_a_non_finite_gradient_stops_the_run_and_saves_the_state_before_it(miniature, tmp_path, monkeypatch):
    model = with_another_end(miniature, tmp_path / "model")
    config = small_config(model, tmp_path, name="nan", steps=4)
    config.log.rollouts_every = 100
    grade = rewards.grade
    calls = []

    def poisoned(*args):
        graded = grade(*args)
        if args[3].trained_samples:  # the training call, not the evaluation's
            calls.append(1)
            if len(calls) == 2 * config.batch.prompts_per_step + 1:  # a prompt of the third step
                graded.rewards[0] = np.nan
        return graded

    monkeypatch.setattr(rewards, "grade", poisoned)
    with pytest.raises(
        TrainingStoppedError, match=r"gradient of step 3 is not finite \(loss nan, .* norm nan\)"
    ) as stopped:
        train(config)
    assert "last_good" in str(stopped.value)
    assert [file.name for file in (tmp_path / "nan/rollouts").glob("*.gz")] == ["step_000003.jsonl.gz"]
    _, exported, _ = weights.load(tmp_path / "nan" / "last_good")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(exported))
    assert_exported_ends(tmp_path / "nan" / "last_good")
    leaves = state_leaves(tmp_path / "nan")
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    straight = small_config(model, tmp_path, name="two", steps=2)
    monkeypatch.undo()
    train(straight)
    for name, leaf in state_leaves(tmp_path / "two").items():
        np.testing.assert_array_equal(leaf, leaves[name], err_msg=name)


def test_a_users_function_that_fails_costs_no_finished_step(miniature, tmp_path, monkeypatch):
    config = small_config(miniature, tmp_path, name="fails", steps=3)
    grade, calls = rewards.grade, []

    def failing(*args):
        calls.append(args[3].trained_samples)
        if calls.count(config.batch.samples_per_prompt) == 2 * config.batch.prompts_per_step:  # in the second step
            raise ConfigError("reward.shape is 'mine:reward', which fails: correct it there.")
        return grade(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rewards, "grade", failing)
        with pytest.raises(TrainingStoppedError, match=r"correct it there\. The state after step 1 is saved"):
            train(config)
    assert train(config)["steps"] == 3
    assert [record["step"] for record in records(tmp_path / "fails")] == [0, 1, 2, 3]


def test_the_best_step_is_exported_where_its_evaluation_failed_at_first_and_another_is_as_good(
    miniature, tmp_path, monkeypatch, capsys
):
    """An evaluation that a signal or a failure ends is made when the run resumes."""
    config = small_config(with_another_end(miniature, tmp_path / "model"), tmp_path, name="best", steps=3)
    config.eval.every = 1
    real, failed = train_module.evaluate_sets, []

    def fails_once(run, now):
        if now.step == 1 and not failed:
            failed.append(now.step)
            now.stop.requested = True  # as a signal does while it samples
        elif now.step == 2 and failed == [1]:
            failed.append(now.step)
            raise RolloutError("no server.")
        return real(run, now)

    monkeypatch.setattr(train_module, "evaluate_sets", fails_once)
    monkeypatch.setattr(
        train_module,
        "scores",
        lambda config, evals: {step: score for step, score in enumerate((0.1, 0.9, 0.9, 0.1)) if str(step) in evals},
    )
    with pytest.raises(
        TrainingStoppedError,
        match=r"stopped\. The state after step 1 is saved in .*\. The same command resumes the run",
    ):
        train(config)
    with pytest.raises(TrainingStoppedError, match="after step 2 is saved"):
        train(config)
    shown = capsys.readouterr().out
    assert [f"heldout after step {step}: " in shown for step in (0, 1, 2)] == [True, True, False]
    assert train(config)["best"]["step"] == 2
    assert_exported_ends(tmp_path / "best" / "best")
    assert_exported_ends(tmp_path / "best" / "final")


def test_a_run_stopped_in_an_evaluation_goes_on_as_if_it_had_not_been(miniature, tmp_path, monkeypatch):
    """It ends after the same step, keeps one record of each step, and can be replayed."""
    config = small_config(miniature, tmp_path, name="patient", steps=3)
    config.eval.every = config.stop.patience = config.log.rollouts_every = 1
    real = train_module.evaluate_sets

    def stopped_once(run, now):
        now.stop.requested = now.step == 1 and "1" not in evaluated  # as a signal does while it samples
        evaluated.append(str(now.step))
        return real(run, now)

    def alike(config, evals):
        return dict.fromkeys(map(int, evals), 0.5)

    evaluated = []
    monkeypatch.setattr(train_module, "evaluate_sets", stopped_once)
    monkeypatch.setattr(train_module, "scores", alike)
    with pytest.raises(TrainingStoppedError, match=r"stopped\. The state after step 1 is saved"):
        train(config)
    before = read_metrics(tmp_path / "patient")[1]
    assert train(config)["steps"] == 1  # the evaluation brought nothing better than that of step 0
    assert evaluated == ["0", "1", "1"]
    zero, one = read_metrics(tmp_path / "patient")
    assert one.keys() > before.keys() and "eval/heldout/avg@4" in one
    assert one["time/step"] > before["time/step"] and one["label/vote_share"] == before["label/vote_share"]
    assert zero["step"] == 0 and replay(tmp_path / "patient") == {1: {}}


def test_a_signal_stops_a_run_without_evaluation_sets(miniature, tmp_path, monkeypatch):
    config = small_config(miniature, tmp_path, name="bare", steps=2)
    config.eval.every = 1
    with config.eval.unlocked():
        config.eval.sets = {}
    learn, signalled = train_module.learn, []

    def signalled_once(*args):
        if not signalled:
            signalled.append(os.kill(os.getpid(), signal.SIGTERM))
        return learn(*args)

    monkeypatch.setattr(train_module, "learn", signalled_once)
    with pytest.raises(TrainingStoppedError, match=r"stopped\. The state after step 1 is saved"):
        train(config)
    assert Checkpoints(tmp_path / "bare").newest_whole() == (1, [])
    export = train_module.export
    monkeypatch.setattr(train_module, "export", lambda *args: os.kill(os.getpid(), signal.SIGTERM) or export(*args))
    assert train(config)["steps"] == 2  # a signal in the final export changes nothing
    assert [r["step"] for r in read_metrics(tmp_path / "bare")] == [0, 1, 2]


def test_self_training_improves_the_miniature(miniature, tmp_path):
    """The claim of the project in half a minute: votes alone raise avg@16 on held-out sums."""
    config = small_config(miniature, tmp_path, name="improves", steps=12)
    config.data.limit, config.optimizer.learning_rate = 0, 1e-4
    config.batch.prompts_per_step, config.batch.samples_per_prompt, config.batch.microbatch_sequences = 16, 32, 64
    config.rollout.prompts_per_call = 16
    config.eval.samples, config.eval.every, config.eval.sets.heldout.limit = 16, 100, 64
    summary = train(config)
    gain = summary["last"]["eval/heldout/avg@16"] - summary["base"]["eval/heldout/avg@16"]
    assert gain >= 0.05, summary
    assert summary["base"]["eval/heldout/maj@16"] - summary["base"]["eval/heldout/avg@16"] > 0.2


@pytest.mark.timeout(240)
def test_ctrl_c_saves_and_the_same_command_goes_on(miniature, tmp_path):
    config = small_config(miniature, tmp_path, name="interrupted", steps=400)
    script = tmp_path / "config.py"
    script.write_text(
        f"import json\nfrom tests.helpers import from_json\n"
        f"def get_config():\n    return from_json({config.to_json_best_effort()!r})\n"
    )
    command = [sys.executable, "-m", "srt_jax.main", f"--config={script}", "--config.mesh.cpu_devices=2"]

    def start():
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    process = start()
    assert any("parameters" in line or "model:" in line for line in process.stdout)  # it is about to compile
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert output.endswith("stopped: nothing is lost. The same command resumes the run.\n")
    process = start()
    wait_for_step(tmp_path / "interrupted" / "metrics.jsonl", 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert re.search(r"stopped\. The state after step \d+ is saved", output), output
    assert "Traceback" not in output
    step, damaged = Checkpoints(tmp_path / "interrupted").newest_whole()
    assert not damaged
    assert step and 2 <= step < 400
    again = subprocess.run(
        [*command, f"--config.steps={step + 1}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=200,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {step}" in again.stdout
    assert [r["step"] for r in read_metrics(tmp_path / "interrupted")] == list(range(step + 2))


def wait_for_step(path: pathlib.Path, step: int, process, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines() if line):
            return
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"no step {step} in {path}: {process.communicate()[0]}")
