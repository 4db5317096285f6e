"""Rewards from the confidence of tokens: against NumPy, under packing, padding and sharding, and in a whole run."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from srt_jax.jobs.replay import replay
from srt_jax.model.logprobs import token_logprobs, token_scores
from srt_jax.rl.collate import Layout, batch_sharding
from srt_jax.rl.confidence import CONFIDENCES, make_confidence
from srt_jax.rl.update import UpdateConfig
from srt_jax.run import recording
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train
from tests.helpers import small_config
from tests.tiny_decoder import decoder, mesh_of, place, recorded

N, TEMPERATURE = 4, 0.9


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def expected():
    """{name: rewards [P, n]} in NumPy, from the logits of each sequence by itself."""
    rollouts, (graphdef, params) = recorded(), decoder()
    logits = jax.jit(lambda params, row: (model := nnx.merge(graphdef, params)).logits(model(row[None])[0]))
    values = []
    for row, start, end in zip(rollouts.tokens, rollouts.prompt_lengths, rollouts.lengths):
        log_p = log_softmax(np.asarray(logits(params, row), np.float64)[start - 1 : end - 1] / TEMPERATURE)
        chosen = log_p[np.arange(end - start), row[start:end]]
        entropy = -(np.exp(log_p) * log_p).sum(-1)
        values.append((-log_p.mean(), -entropy.mean(), chosen.mean(), chosen.sum()))
    names = ("self_certainty", "negative_entropy", "mean_logprob", "sum_logprob")
    return dict(zip(names, np.array(values).T.reshape(4, -1, N), strict=True))


LAYOUT = Layout(4, N, 4, (8, 16))
LAYOUTS = {
    "buckets": (LAYOUT, (1, 1, 1)),
    "two mini-batches": (dataclasses.replace(LAYOUT, minibatches_per_step=2), (1, 1, 1)),
    "packed": (dataclasses.replace(LAYOUT, packing=True, length_buckets=(32,)), (1, 1, 1)),
    "sharded": (LAYOUT, (1, 2, 2)),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_confidence_is_its_equation(expected, case):
    layout, shape = LAYOUTS[case]
    mesh = mesh_of(*shape)
    graphdef, params = decoder(mesh=mesh)
    batch = jax.device_put(recorded().batch(layout, TEMPERATURE), batch_sharding(mesh))
    names = CONFIDENCES if case == "buckets" else ("self_certainty",)  # the others share its sums
    function = make_confidence(graphdef, UpdateConfig(layout, head_chunk_tokens=8), mesh, tuple(names))
    found = function(place(params, mesh), batch)
    assert found.keys() == {*names}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_scores_are_those_of_the_update_and_the_self_certainty():
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 5, 6)).astype(np.float32), 2 * rng.normal(size=(17, 6)).astype(np.float32)
    targets = rng.integers(0, 17, (2, 5)).astype(np.int32)
    log_p = log_softmax(hidden.astype(np.float64) @ head.T / 0.7)
    for limit in (2, 10):
        *found, certainty = token_scores(hidden, head, targets, 0.7, limit)
        for ours, theirs in zip(found, token_logprobs(hidden, head, targets, 0.7, limit)):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(certainty, -log_p.mean(-1), rtol=1e-5)


@pytest.mark.slow
def test_a_run_trains_on_them_logs_them_and_is_replayed(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="run", steps=1)
    config.reward.shape, config.batch.votes_per_prompt = "sum_logprob", 16
    config.reward.overlong_buffer = 4
    train(config)
    directory = tmp_path / "run"
    assert replay(directory) == {1: {}}
    with np.load(recording.rollouts_path(directory, 1, recording.RECORDED)) as saved:
        sums, lengths = saved["logprobs"].sum(-1)[:, :8], saved["lengths"][:, :8]
        assert saved["labelled"].all()
    first = next(record for record in read_metrics(directory) if record["step"] == 1)
    penalty = np.clip((18 - 4 - lengths) / 4, -1, 0)
    assert first["label/agreement"] == pytest.approx(sums.mean(), abs=1e-4)
    assert first["label/pseudo_reward"] == pytest.approx((sums + penalty).mean(), abs=1e-4)
    assert first["time/score"] > 0


@pytest.mark.slow
def test_a_run_trains_on_a_mixture_and_is_replayed(untrained, tmp_path):
    config = small_config(untrained, tmp_path, name="run", steps=1)
    config.reward.mixture = ConfigDict({"brevity": 1.0, "sum_logprob": -0.5})
    train(config)
    directory = tmp_path / "run"
    assert replay(directory) == {1: {}}
    with np.load(recording.rollouts_path(directory, 1, recording.RECORDED)) as saved:
        parts = {"brevity": -saved["lengths"] / 18, "sum_logprob": saved["logprobs"].sum(-1, dtype=np.float64)}
        labelled = saved["labelled"]
    expected = sum(
        weight * (parts[name] - parts[name].mean(1, keepdims=True)) / parts[name].std(1, ddof=1, keepdims=True)
        for name, weight in config.reward.mixture.items()
    )
    text = gzip.decompress(recording.rollouts_path(directory, 1, recording.ROWS).read_bytes()).decode()
    rewards = np.array([json.loads(line)["reward"] for line in text.splitlines()]).reshape(expected.shape)
    assert labelled.any()
    np.testing.assert_allclose(rewards[labelled], expected[labelled], atol=1e-3)
