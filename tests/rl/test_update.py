import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from srt_jax.model import sharding
from srt_jax.rl.update import UpdateConfig, init_state, make_optimizer, make_update
from tests.tiny_decoder import (
    VOCAB,
    decoder,
    direct_gradient,
    direct_logprobs,
    flat,
    mesh_of,
    place,
    recorded_batch,
)

N = 4
TEMPERATURE, KL_COEF = 0.8, 0.05  # both large enough to matter
RELATIVE = 1e-5
ADAMW = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 0.5}
RECORDER = optax.chain(optax.trace(decay=0.0), optax.scale(-0.1))  # its state is the gradient


def differing(batch, **changes):
    return dataclasses.replace(batch, **changes)


class Step:
    """One update of the tiny decoder; calling it returns (new state, metrics on the host)."""

    def __init__(self, mesh_shape, optimizer, dtype, remat, config):
        self.graphdef, self.params = decoder(dtype, remat)
        self.reference = decoder(seed=1)[1] if config.kl_coef else None
        self.mesh, self.optimizer = mesh_of(*mesh_shape), optimizer
        self.update = make_update(self.graphdef, optimizer, config, self.mesh, self.state())
        self.compiled = {}

    def state(self):
        return init_state(place(self.params, self.mesh), self.optimizer, self.mesh)

    def __call__(self, batch, state=None):
        batch = jax.device_put(batch, sharding.by_rows(self.mesh))
        reference = place(self.reference, self.mesh) if self.reference else None
        state = state or self.state()
        if batch.tokens.shape not in self.compiled:
            lowered = self.update.lower(state, reference, batch)
            options = {"xla_backend_optimization_level": 0}  # in half the time
            self.compiled[batch.tokens.shape] = lowered.compile(options)
        state, metrics = self.compiled[batch.tokens.shape](state, reference, batch)
        return state, jax.device_get(metrics)


@functools.cache
def step(mesh_shape=(1, 1, 1), optimizer=RECORDER, dtype="float32", remat=False, **fields):
    defaults = {"samples_per_prompt": N, "microbatch_sequences": 4, "temperature": TEMPERATURE, "kl_coef": KL_COEF}
    return Step(mesh_shape, optimizer, dtype, remat, UpdateConfig(**defaults | fields))


@functools.cache
def adamw_step():
    return step(optimizer=make_optimizer(**ADAMW))


@functools.cache
def baseline():
    return step()(recorded_batch())


def gradients(state):
    return flat(state.opt_state[0].trace)


def assert_same_update(found, expected, relative=RELATIVE):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    for name in ("loss", "grad_norm", "kl", "entropy", "return", "advantage_abs"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=relative), name
    pairs = (gradients(state), gradients(expected_state)), (flat(state.params), flat(expected_state.params))
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for path, value in theirs.items():
            assert np.linalg.norm(ours[path] - value) <= relative * np.linalg.norm(value), path
            assert np.linalg.norm(value) > 0, path


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((state.params, state.opt_state))]


# ---- the formula


@functools.cache
def by_hand():
    """Everything of the baseline step from its definition: one row at a time, loops in float64."""
    batch, (graphdef, params), reference = recorded_batch(), decoder(), decoder(seed=1)[1]
    new, entropy = direct_logprobs(graphdef, params, batch.tokens, TEMPERATURE)
    old, _ = direct_logprobs(graphdef, reference, batch.tokens, TEMPERATURE)
    B = len(batch.tokens)
    returns, k3_sum, entropy_sum, gaps, tokens = np.zeros(B), 0.0, 0.0, [], 0
    for b in range(B):
        returns[b] = batch.rewards[b]
        for t in range(batch.prompt_lengths[b], batch.lengths[b]):
            k3 = min(np.exp(old[b, t] - new[b, t]) - (old[b, t] - new[b, t]) - 1, 10.0)
            returns[b] -= KL_COEF * k3
            k3_sum += k3
            entropy_sum += entropy[b, t]
            gaps.append(abs(new[b, t] - batch.sampler_logprobs[b, t]))
            tokens += 1
    advantages = np.zeros(B)
    for b in range(B):
        group = b // N * N
        advantages[b] = returns[b] - np.mean([returns[j] for j in range(group, group + N) if j != b])
    weights = np.zeros(batch.tokens.shape)
    for b in range(B):
        weights[b, batch.prompt_lengths[b]:batch.lengths[b]] = -advantages[b] / tokens
    gradient = direct_gradient(graphdef, params, batch.tokens, weights, TEMPERATURE)
    return gradient, {
        "loss": weights.sum(), "entropy": entropy_sum / tokens, "kl": k3_sum / tokens, "kl_per_sequence": k3_sum / B,
        "return": returns.mean(), "advantage_abs": np.abs(advantages).mean(), "logprob_gap_mean": np.mean(gaps),
        "logprob_gap_max": np.max(gaps), "finite": 1, "updated": 1,
        "grad_norm": np.sqrt(sum((g**2).sum() for g in gradient.values())),
    }


def test_gradient_is_that_of_the_formula():
    state, _ = baseline()
    expected, _ = by_hand()
    for path, found in gradients(state).items():
        assert np.linalg.norm(found - expected[path]) <= 1e-4 * np.linalg.norm(expected[path]), path


def test_metrics_are_their_definitions():
    _, metrics = baseline()
    _, expected = by_hand()
    assert abs(expected["loss"]) > 1e-3  # not a sum that cancels
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name


def test_fraction_of_weights_that_moved_in_bfloat16():
    state, metrics = baseline()
    old, new = flat(decoder()[1]), flat(state.params)
    moved = sum((old[p].astype(jax.numpy.bfloat16) != new[p].astype(jax.numpy.bfloat16)).sum() for p in old)
    assert metrics["weights_moved_bf16"] == pytest.approx(moved / sum(x.size for x in old.values()), rel=1e-6)
    assert 0 < metrics["weights_moved_bf16"] < 1


def test_reward_one_without_baseline_is_cross_entropy():
    batch = recorded_batch()
    batch = differing(batch, rewards=np.ones_like(batch.rewards))
    state, metrics = step(advantage="reinforce", kl_coef=0.0, temperature=1.0)(batch)
    position = np.arange(batch.tokens.shape[1])
    inside = (position >= batch.prompt_lengths[:, None]) & (position < batch.lengths[:, None])
    expected = direct_gradient(*decoder(), batch.tokens, inside / -inside.sum(), 1.0)
    for path, found in gradients(state).items():
        assert np.linalg.norm(found - expected[path]) <= 1e-4 * np.linalg.norm(expected[path]), path
    assert "kl" not in metrics  # nothing was measured


def test_adamw_step_is_the_textbook_formula():
    """Clipping by the global norm, moments with bias correction, decoupled weight decay: two steps in float64."""
    batch, again = recorded_batch(), recorded_batch(seed=5)
    first, metrics = adamw_step()(batch)
    assert metrics["grad_norm"] > ADAMW["grad_clip"]  # clipping happens
    middle = flat(first.params)
    second, later = adamw_step()(again, first)
    assert int(second.step) == 2

    recorder = step()
    _, g1 = None, gradients(recorder(batch)[0])
    at_middle = recorder.state().replace(params=place(_like(recorder.params, middle), recorder.mesh))
    g2 = gradients(recorder(again, at_middle)[0])
    c = ADAMW
    for path, start in flat(decoder()[1]).items():
        p, m, v = start.astype(np.float64), 0.0, 0.0
        for t, (gradient, norm) in enumerate(((g1, metrics["grad_norm"]), (g2, later["grad_norm"])), 1):
            g = gradient[path].astype(np.float64) * min(1.0, c["grad_clip"] / norm)
            m = c["b1"] * m + (1 - c["b1"]) * g
            v = c["b2"] * v + (1 - c["b2"]) * g * g
            p *= 1 - c["learning_rate"] * c["weight_decay"]
            p -= c["learning_rate"] * (m / (1 - c["b1"]**t)) / (np.sqrt(v / (1 - c["b2"]**t)) + c["eps"])
            expected = (middle if t == 1 else flat(second.params))[path]
            assert np.abs(expected - p).max() <= 2e-2 * c["learning_rate"], (path, t)


def _like(params, arrays):
    leaves = iter(arrays.values())
    return jax.tree.map(lambda _: next(leaves), params)


# ---- what must not matter


VARIANTS = {
    "micro-batches of 1": dict(microbatch_sequences=1),
    "one micro-batch": dict(microbatch_sequences=16),
    "chunks of 7 positions": dict(logprob_chunk=7),
    "recomputed layers": dict(remat=True),
    "data=8": dict(mesh_shape=(8, 1, 1), microbatch_sequences=8),
    "fsdp=8": dict(mesh_shape=(1, 8, 1), microbatch_sequences=8),
    "fsdp=4 x tensor=2": dict(mesh_shape=(1, 4, 2)),
    "data=2 x fsdp=2 x tensor=2": dict(mesh_shape=(2, 2, 2), microbatch_sequences=8),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_how_it_is_computed_does_not_matter(name):
    assert_same_update(step(**VARIANTS[name])(recorded_batch()), baseline())


def test_a_larger_bucket_does_not_matter():
    batch = recorded_batch()
    wide = np.random.default_rng(3).integers(0, VOCAB, (len(batch.tokens), 23), dtype=np.int32)
    wide[:, :16] = batch.tokens
    padded = differing(batch, tokens=wide, sampler_logprobs=np.pad(batch.sampler_logprobs, ((0, 0), (0, 7))))
    assert_same_update(step()(padded), baseline())


def test_what_stands_in_the_padding_does_not_matter():
    batch = recorded_batch()
    outside = np.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    zeroed = differing(batch, tokens=np.where(outside, 0, batch.tokens))
    assert (batch.tokens != zeroed.tokens).any() and (batch.tokens[~outside] == 0).any()  # 0 is a real token too
    assert_same_update(step()(zeroed), baseline(), relative=1e-7)


def test_the_order_of_the_prompts_does_not_matter():
    order = (np.array([2, 0, 3, 1])[:, None] * N + np.arange(N)).reshape(-1)
    assert_same_update(step()(jax.tree.map(lambda x: x[order], recorded_batch())), baseline())


def test_the_order_of_the_samples_does_not_matter():
    order = (np.arange(4)[:, None] * N + np.array([3, 1, 0, 2])).reshape(-1)
    assert_same_update(step()(jax.tree.map(lambda x: x[order], recorded_batch())), baseline())


def test_sampler_log_probs_replace_the_trainers_in_the_kl_only():
    batch = recorded_batch()
    policy, _ = direct_logprobs(*decoder(), batch.tokens, TEMPERATURE)
    agreeing = differing(batch, sampler_logprobs=policy.astype(np.float32))
    by_sampler = step(old_logprobs="sampler")
    assert_same_update(by_sampler(agreeing), baseline())
    other = by_sampler(batch)[1]
    assert other["kl"] != pytest.approx(baseline()[1]["kl"], rel=0.01)
    assert other["entropy"] == pytest.approx(baseline()[1]["entropy"], rel=RELATIVE)


def test_bfloat16_compute_keeps_float32_state_and_comes_close():
    state, metrics = step(dtype="bfloat16")(recorded_batch())
    assert {str(x.dtype) for x in jax.tree.leaves((state.params, state.opt_state))} == {"float32"}
    expected, expected_metrics = gradients(baseline()[0]), baseline()[1]
    assert metrics["entropy"] == pytest.approx(expected_metrics["entropy"], rel=0.02)
    assert metrics["entropy"] != expected_metrics["entropy"]
    found = gradients(state)
    dot = sum((found[p] * expected[p]).sum() for p in found)
    norms = [np.sqrt(sum((g**2).sum() for g in tree.values())) for tree in (found, expected)]
    assert dot / np.prod(norms) > 0.99


# ---- labels


def test_unlabelled_prompts_are_as_if_they_were_not_there():
    batch = recorded_batch()
    labelled = np.repeat([True, False, True, False], N)
    nonsense = differing(batch, labelled=labelled, rewards=np.where(labelled, batch.rewards, 50.0).astype(np.float32))
    alone = jax.tree.map(lambda x: x[labelled], batch)
    found, expected = step()(nonsense), step()(alone)
    assert_same_update(found, expected)
    for name in ("logprob_gap_mean", "logprob_gap_max", "kl_per_sequence"):
        assert found[1][name] == pytest.approx(expected[1][name], rel=RELATIVE), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rewards_of_unlabelled_prompts_are_never_read(value):
    batch = recorded_batch()
    labelled = np.repeat([True, True, True, False], N)
    rewards = np.where(labelled, batch.rewards, value).astype(np.float32)
    found = step()(differing(batch, labelled=labelled, rewards=rewards))
    assert_same_update(found, step()(differing(batch, labelled=labelled)), relative=1e-7)


def test_nothing_labelled_leaves_parameters_and_moments_as_they_are():
    batch = recorded_batch()
    state, _ = adamw_step()(batch)  # moments that are not zero: decay and momentum would move the weights
    before = bits(state)
    state, metrics = adamw_step()(differing(batch, labelled=np.zeros_like(batch.labelled)), state)
    assert bits(state) == before
    assert metrics["finite"] and not metrics["updated"]
    assert int(state.step) == 2
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_leaves_the_whole_state_as_it_is(value):
    batch = recorded_batch()
    rewards = batch.rewards.copy()
    rewards[3] = value
    state, _ = adamw_step()(batch)
    before = bits(state)
    state, metrics = adamw_step()(differing(batch, rewards=rewards), state)
    assert bits(state) == before
    assert not metrics["finite"] and not metrics["updated"]
    assert int(state.step) == 1
    assert all(np.isfinite(x).all() for x in flat(state.params).values())


def test_the_last_token_is_trained_on():
    """Row 5 differs only in whether its last token, the stop token, belongs to the response."""
    batch = recorded_batch()
    shorter = batch.lengths.copy()
    shorter[5] -= 1
    assert shorter[5] > batch.prompt_lengths[5]
    full, cut = gradients(baseline()[0]), gradients(step()(differing(batch, lengths=shorter))[0])
    stop = batch.tokens[5, shorter[5]]
    full, cut = full["embedding"][stop], cut["embedding"][stop]
    assert np.linalg.norm(full - cut) > 1e-2 * np.linalg.norm(full)


# ---- where things lie


@pytest.mark.parametrize("name", ["baseline", "fsdp=4 x tensor=2"])
def test_state_is_donated_and_the_new_one_lies_where_the_old_one_did(name):
    program = step(**VARIANTS.get(name, {}))
    state = program.state()
    old = jax.tree.leaves(state)
    kinds = [(x.aval, x.sharding) for x in old]
    new, _ = program(recorded_batch(), state)
    assert all(x.is_deleted() for x in old)
    assert [(x.aval, x.sharding) for x in jax.tree.leaves(new)] == kinds  # so the next step is not compiled again
    kernel = new.params["layers"]["gate"]["kernel"][...]
    parts = program.mesh.shape["fsdp"] * program.mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size == kernel.size // parts
    trace = new.opt_state[0].trace["layers"]["gate"]["kernel"][...]
    assert trace.addressable_shards[0].data.size == kernel.size // parts


def test_aggregation_by_length_needs_the_length():
    with pytest.raises(ValueError, match="max_response_tokens"):
        Step((1, 1, 1), RECORDER, "float32", False, UpdateConfig(N, 4, loss_aggregation="seq-mean-token-sum-norm"))
