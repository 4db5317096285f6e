"""The EMA teacher: its equation, a whole run, resuming and replaying it, its memory, and wrong settings."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from srt_jax.config import describe
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError, RolloutError
from srt_jax.grading.grader import Grader
from srt_jax.jobs.replay import replay
from srt_jax.model.config import ModelConfig
from srt_jax.rl.optimizer import TrainState, make_optimizer, teacher_of, with_teacher
from srt_jax.run import budget, recording
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.helpers import small_config

RATE, VOTES = 0.25, 5


def teacher_config(model, out, name, steps, **changes):
    config = small_config(model, out, name, steps)
    config.labels.source, config.labels.ema_rate, config.batch.votes_per_prompt = "ema", RATE, VOTES
    config.eval.every, config.checkpoint.every = 100, 1
    config.optimizer.learning_rate = 2e-3
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(untrained, tmp_path_factory):
    """The folder of a run of three steps."""
    out = tmp_path_factory.mktemp("runs")
    train(teacher_config(untrained, out, "run", 3))
    return out / "run"


def stored(folder, step):
    """(parameters, teacher) of a checkpoint, as {path: array}."""
    state = ocp.StandardCheckpointer().restore(folder / f"checkpoints/{step}/state")
    return [
        {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state["params"], state["opt_state"]["teacher"])
    ]


def test_the_teacher_is_a_moving_average_and_the_policy_does_not_depend_on_it():
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "b": jnp.asarray(rng.normal(size=4), jnp.float32)}
    plain = make_optimizer(optax.constant_schedule(0.1), 0.9, 0.999, 1e-8, 0.01, 1.0)
    both = {"plain": plain, "taught": with_teacher(plain, RATE)}
    states = {name: TrainState(params, optimizer.init(params), 0) for name, optimizer in both.items()}
    assert teacher_of(states["plain"]) is None
    expected = {name: np.asarray(x, np.float64) for name, x in params.items()}
    for _ in range(4):
        gradients = {name: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for name, x in params.items()}
        for name, optimizer in both.items():
            state = states[name]
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            states[name] = TrainState(optax.apply_updates(state.params, updates), opt_state, 0)
        for name, x in states["taught"].params.items():
            expected[name] = (1 - RATE) * expected[name] + RATE * np.asarray(x, np.float64)
            np.testing.assert_array_equal(x, states["plain"].params[name])
            np.testing.assert_allclose(teacher_of(states["taught"])[name], expected[name], rtol=1e-6, atol=1e-6)


def test_checkpoints_contain_the_teacher_in_float32(run):
    (_, before), (policy, after) = stored(run, 1), stored(run, 2)
    for path, x in policy.items():
        assert after[path].dtype == np.float32
        expected = (1 - RATE) * before[path].astype(np.float64) + RATE * x.astype(np.float64)
        np.testing.assert_allclose(after[path], expected, rtol=1e-6, atol=1e-7)
    assert any((after[path] != policy[path]).any() for path in policy)


def test_the_teachers_votes_are_the_labels(run):
    text = gzip.decompress(recording.rollouts_path(run, 2, recording.ROWS).read_bytes()).decode()
    rows = [json.loads(line) for line in text.splitlines()]
    with np.load(recording.rollouts_path(run, 2, recording.RECORDED)) as saved:
        ids, labels = saved["ids"].tolist(), [json.loads(label) for label in saved["labels"]]
        assert saved["tokens"].shape[:2] == (8, 8)  # only the policy's samples are trained on
    found = dict(zip(ids, labels, strict=True))
    with Grader(workers=1) as grader:
        for row in rows:
            same = found[row["id"]] is not None and row["answer"] is not None
            same = same and len(set(grader.groups([[row["answer"], found[row["id"]]]])[0])) == 1
            assert row["agreement"] == float(same), row
    records = read_metrics(run)
    assert 0 < records[2]["teacher/vote_share"] <= 1 and records[2]["teacher/response_tokens"] > 0
    assert records[2]["label/labelled"] == pytest.approx(np.mean([label is not None for label in labels]))


def test_a_stopped_run_goes_on_bit_for_bit(run, untrained, tmp_path):
    config = teacher_config(untrained, tmp_path, "run", 1)
    train(config)
    config.steps = 3
    train(config)
    for ours, theirs in zip(stored(tmp_path / "run", 3), stored(run, 3), strict=True):
        for path, x in theirs.items():
            assert ours[path].tobytes() == x.tobytes(), path
    for step in (2, 3):
        ours, theirs = (recording.rollouts_path(f, step, recording.RECORDED) for f in (tmp_path / "run", run))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_is_replayed_without_the_teachers_samples(run):
    assert replay(run, steps=2) == {1: {}, 2: {}}


@pytest.mark.slow
def test_a_teacher_of_rate_0_is_the_initial_model_and_with_adapters_it_has_adapters_only(untrained, tmp_path):
    config = teacher_config(untrained, tmp_path, "run", 2, **{"labels.ema_rate": 0.0, "model.lora.rank": 4})
    config.batch.resample_rounds = 1
    train(config)
    (_, first), (policy, second) = stored(tmp_path / "run", 1), stored(tmp_path / "run", 2)
    assert first.keys() == policy.keys() and all("lora" in path for path in first)
    assert all(first[path].tobytes() == second[path].tobytes() for path in first)
    assert replay(tmp_path / "run") == {1: {}, 2: {}}


def test_memory_counts_the_teacher_and_refuses_it_in_one_sentence(untrained, tmp_path, monkeypatch):
    model = ModelConfig.from_hf(json.loads((untrained / "config.json").read_text()))
    with_it, without = (teacher_config(untrained, tmp_path, "x", 1) for _ in range(2))
    without.labels.source = "vote"
    kinds = budget.resident(with_it, model, training=True)
    assert kinds.pop("teacher") == kinds["weights"] and kinds == budget.resident(without, model, training=True)
    room = budget.total(budget.step(without, model)) / budget.TOLERANCE + kinds["weights"] / 4
    monkeypatch.setattr(budget, "available", lambda: room)
    budget.check(without, model)
    sentence = (
        r"labels\.source is 'ema', whose teacher takes .*: set model\.lora\.rank, .* or set labels\.source to 'vote'\.$"
    )
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        budget.check(with_it, model)
    assert re.search(f"^memory: the run does not fit on this machine: {sentence}", budget.report(with_it, model))
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        train(with_it)
    assert not (tmp_path / "x").exists()
    # The teacher is not the cause if the run does not fit without it either.
    for share in (0.9, 0.5, 0.0):
        monkeypatch.setattr(budget, "available", lambda share=share: share * room)
        for config in (with_it, without):
            with pytest.raises((ConfigError, RolloutError)) as error:
                budget.check(config, model)
            assert budget.report(config, model) == f"memory: the run does not fit on this machine: {error.value}"
            assert "whose teacher" not in str(error.value) and "'vote'" not in str(error.value)
    with_it.model.lora.rank = 2
    small = budget.resident(with_it, model, training=True)
    assert small["teacher"] == small["adapters"]


def test_a_step_is_described_with_the_teachers_votes(untrained, tmp_path):
    text = describe(teacher_config(untrained, tmp_path, "x", 2), 1)
    assert "8 prompts x 8 samples = 64 sequences and 5 votes of the teacher each;" in text
    assert text.endswith("2 steps = 16 prompts, 208 rollouts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels.ema_rate": 1.5}, r"labels\.ema_rate is 1\.5: a share lies in \[0, 1\]"),
        (
            {"rollout.sampler": "vllm"},
            r"labels\.source is 'ema', whose teacher samples in this process, but rollout\.sa",
        ),
        ({"reward.shape": "empo"}, r"reward\.shape is 'empo', .* but labels\.source is 'ema'"),
        ({"rl.objective": "cross_entropy"}, r"rl\.objective is 'cross_entropy', which uses no reward"),
    ],
)
def test_wrong_settings_are_refused(changes, message, tmp_path):
    config = teacher_config(tmp_path, tmp_path, "x", 1, **changes)
    with pytest.raises(ConfigError, match=message):
        validate(config)
