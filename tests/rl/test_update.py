"""The whole update: its formula by hand, and changes that must not affect it."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from srt_jax.model import sharding
from srt_jax.rl.collate import Layout, abstract_batch, batch_sharding
from srt_jax.rl.optimizer import abstract_state, init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from tests.helpers import fast_cases
from tests.tiny_decoder import decoder, direct_gradient, direct_logprobs, flat, mesh_of, place, recorded

P, N = 4, 4
TEMPERATURE, KL_COEF = 0.8, 0.05  # both large enough to matter
RELATIVE = 1e-5
RATE = 0.1
RECORDER = optax.chain(optax.trace(decay=0.0), optax.scale(-RATE))  # plain gradient descent; its state is the gradient
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time
ADAMW = make_optimizer(learning_rate_schedule(1e-3), b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, grad_clip=0.5)

differing = dataclasses.replace


class Step:
    """One update of the tiny decoder, compiled before it sees a batch; calling it returns (new state, metrics)."""

    def __init__(self, mesh_shape, optimizer, dtype, remat, config):
        self.mesh, self.optimizer, self.config = mesh_of(*mesh_shape), optimizer, config
        self.graphdef, self.params = decoder(dtype, remat, mesh=self.mesh)
        self.reference = place(decoder(seed=1)[1], self.mesh) if config.kl_coef else None
        update = make_update(self.graphdef, optimizer, config, self.mesh, self.state())
        self.lowered = update.lower(
            abstract_state(place(self.params, self.mesh), optimizer, self.mesh),
            self.reference,
            abstract_batch(config.layout, self.mesh),
        )
        self.update = self.lowered.compile(QUICK)

    def state(self):
        return init_state(place(self.params, self.mesh), self.optimizer, self.mesh)

    def __call__(self, rollouts, state=None):
        batch = sharding.place(rollouts.batch(self.config.layout, TEMPERATURE), batch_sharding(self.mesh))
        state, metrics = self.update(state or self.state(), self.reference, batch)
        return state, jax.device_get(metrics)


@functools.cache
def step(
    mesh_shape=(1, 1, 1),
    optimizer=RECORDER,
    dtype="float32",
    remat="none",
    prompts=P,
    micro=4,
    buckets=(16,),
    minibatches=1,
    **fields,
):
    layout = Layout(prompts, N, micro, buckets, minibatches)
    return Step(mesh_shape, optimizer, dtype, remat, UpdateConfig(layout, **{"kl_coef": KL_COEF} | fields))


@functools.cache
def baseline():
    return step()(recorded())


def gradients(state):
    return flat(state.opt_state[0].trace)


COMPARED = (
    "loss",
    "grad_norm",
    "kl",
    "entropy",
    "return",
    "advantage_abs",
    "logprob_gap_mean",
    "logprob_gap_max",
    "kl_per_sequence",
)


def assert_same_update(found, expected, relative=RELATIVE):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    for name in COMPARED:
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=relative), name
    pairs = (gradients(state), gradients(expected_state)), (flat(state.params), flat(expected_state.params))
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for path, value in theirs.items():
            assert np.linalg.norm(ours[path] - value) <= relative * np.linalg.norm(value), path
            assert np.linalg.norm(value) > 0, path


def assert_close(found, expected, relative=1e-4):
    for path, value in expected.items():
        assert np.linalg.norm(found[path] - value) <= relative * np.linalg.norm(value), path


def bits(state):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((state.params, state.opt_state))]


# ---- the formula


@functools.cache
def by_hand():
    """Everything of the baseline step from its definition: one row at a time, loops in float64."""
    rollouts, (graphdef, params), reference = recorded(), decoder(), decoder(seed=1)[1]
    new, entropy = direct_logprobs(graphdef, params, rollouts.tokens, TEMPERATURE)
    ref, _ = direct_logprobs(graphdef, reference, rollouts.tokens, TEMPERATURE)
    B = len(rollouts.tokens)
    returns, k3_sum, entropy_sum, ratios, tokens = np.zeros(B), 0.0, 0.0, [], 0
    for b in range(B):
        returns[b] = rollouts.rewards[divmod(b, N)]
        for t in range(rollouts.prompt_lengths[b], rollouts.lengths[b]):
            k3 = min(np.exp(ref[b, t] - new[b, t]) - (ref[b, t] - new[b, t]) - 1, 10.0)
            returns[b] -= KL_COEF * k3
            k3_sum += k3
            entropy_sum += entropy[b, t]
            ratios.append(np.exp(new[b, t] - rollouts.logprobs[b, t]))
            tokens += 1
    advantages, weights, advantage_abs = np.zeros(B), np.zeros(rollouts.tokens.shape), 0.0
    for b in range(B):
        group = b // N * N
        advantages[b] = returns[b] - np.mean([returns[j] for j in range(group, group + N) if j != b])
        weights[b, rollouts.prompt_lengths[b] : rollouts.lengths[b]] = -advantages[b] / tokens
        advantage_abs += abs(advantages[b]) * (rollouts.lengths[b] - rollouts.prompt_lengths[b]) / tokens
    gradient = direct_gradient(graphdef, params, rollouts.tokens, weights, TEMPERATURE)
    return gradient, {
        "loss": weights.sum(),
        "entropy": entropy_sum / tokens,
        "kl": k3_sum / tokens,
        "kl_per_sequence": k3_sum / B,
        "return": returns.mean(),
        "advantage_abs": advantage_abs,
        "logprob_gap_mean": np.mean(np.abs(np.log(ratios))),
        "logprob_gap_max": np.max(np.abs(np.log(ratios))),
        "logprob_gap_k3": np.mean([min(r - 1 - np.log(r), 10.0) for r in ratios]),
        "logprob_gap_outside": np.mean([not 0.8 <= r <= 1.25 for r in ratios]),
        "finite": 1,
        "updated": 1,
        "padding": 1 - rollouts.lengths.sum() / B / 16,
        "grad_norm": np.sqrt(sum((g**2).sum() for g in gradient.values())),
    }


def test_gradient_is_that_of_the_formula():
    assert_close(gradients(baseline()[0]), by_hand()[0])


def test_metrics_are_their_definitions():
    _, metrics = baseline()
    _, expected = by_hand()
    assert abs(expected["loss"]) > 1e-3  # not a sum that cancels
    assert metrics.keys() - expected.keys() == {"weights_moved_bf16"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name


def test_fraction_of_weights_that_moved_in_bfloat16():
    state, metrics = baseline()
    old, new = flat(decoder()[1]), flat(state.params)
    moved = sum((old[p].astype(jax.numpy.bfloat16) != new[p].astype(jax.numpy.bfloat16)).sum() for p in old)
    assert metrics["weights_moved_bf16"] == pytest.approx(moved / sum(x.size for x in old.values()), rel=1e-6)
    assert 0 < metrics["weights_moved_bf16"] < 1


# ---- what must not matter


VARIANTS = {
    "micro-batches of 1, in buckets": dict(micro=1, buckets=(6, 10, 16)),
    "one micro-batch, recomputed attention": dict(micro=16, remat="attention"),
    "two buckets": dict(buckets=(8, 16)),
    "a wider bucket, logits recomputed": dict(buckets=(23,), head_chunk_tokens=28),
    "recomputed layers": dict(remat="full"),
    "all but matrix products recomputed": dict(remat="dots"),
    "data=8": dict(mesh_shape=(8, 1, 1), micro=8),
    "fsdp=8": dict(mesh_shape=(1, 8, 1), micro=8),
    "fsdp=4 x tensor=2, in buckets": dict(mesh_shape=(1, 4, 2), buckets=(10, 16)),
    "data=2 x fsdp=2 x tensor=2": dict(mesh_shape=(2, 2, 2), micro=8, remat="full"),
}


@pytest.mark.parametrize("name", fast_cases(VARIANTS, "two buckets", "data=2 x fsdp=2 x tensor=2"))
def test_how_it_is_computed_does_not_matter(name):
    assert_same_update(step(**VARIANTS[name])(recorded()), baseline())


@pytest.mark.slow
def test_buckets_spare_padding():
    widest, bucketed = baseline()[1], step(**VARIANTS["micro-batches of 1, in buckets"])(recorded())[1]
    assert bucketed["padding"] < 0.7 * widest["padding"]


def test_what_stands_in_the_padding_does_not_matter():
    rollouts = recorded()
    outside = np.arange(rollouts.tokens.shape[1]) >= rollouts.lengths[:, None]
    zeroed = differing(rollouts, tokens=np.where(outside, 0, rollouts.tokens))
    batches = [x.batch(step().config.layout).tokens for x in (rollouts, zeroed)]
    assert (batches[0] != batches[1]).any() and (rollouts.tokens[~outside] == 0).any()  # 0 is a real token too
    assert_same_update(step()(zeroed), baseline(), relative=1e-7)


def reordered(rollouts, prompts, samples):
    """The same rollouts with their prompts, and the samples of each, in another order."""
    rows = (np.array(prompts)[:, None] * N + np.array(samples)).reshape(-1)
    changes = {name: getattr(rollouts, name)[rows] for name in ("tokens", "prompt_lengths", "lengths", "logprobs")}
    return differing(
        rollouts, rewards=rollouts.rewards[prompts][:, samples], labelled=rollouts.labelled[prompts], **changes
    )


@pytest.mark.parametrize(("prompts", "samples"), [([2, 0, 3, 1], range(4)), (range(4), [3, 1, 0, 2])])
def test_the_order_of_prompts_and_of_samples_does_not_matter(prompts, samples):
    found = step(**VARIANTS["two buckets"])(reordered(recorded(), list(prompts), list(samples)))
    assert_same_update(found, baseline())


def test_one_program_serves_every_steps_lengths():
    """Compiled from abstract arrays; short rollouts lie in other buckets than long ones, and give the same update."""
    short = differing(recorded(), lengths=np.minimum(recorded().lengths, recorded().prompt_lengths + 4))
    layout = step(**VARIANTS["two buckets"]).config.layout
    assert (recorded().batch(layout).counts != short.batch(layout).counts).any()
    assert_same_update(step(**VARIANTS["two buckets"])(short), step()(short))


def test_sampler_log_probs_replace_the_trainers_in_the_kl_only():
    rollouts = recorded()
    policy, _ = direct_logprobs(*decoder(), rollouts.tokens, TEMPERATURE)
    agreeing = differing(rollouts, logprobs=policy.astype(np.float32) * rollouts.mask())
    by_sampler, found, expected = step(old_logprobs="sampler"), *(baseline() for _ in range(2))
    found = by_sampler(agreeing)
    assert found[1]["logprob_gap_max"] < 1e-4
    found[1].update({name: expected[1][name] for name in ("logprob_gap_mean", "logprob_gap_max")})
    assert_same_update(found, expected)
    other = by_sampler(rollouts)[1]
    assert other["kl"] != pytest.approx(expected[1]["kl"], rel=0.01)
    assert other["entropy"] == pytest.approx(expected[1]["entropy"], rel=RELATIVE)


def test_bfloat16_compute_keeps_float32_state_and_comes_close():
    state, metrics = step(dtype="bfloat16")(recorded())
    assert {str(x.dtype) for x in jax.tree.leaves((state.params, state.opt_state))} == {"float32"}
    expected, expected_metrics = gradients(baseline()[0]), baseline()[1]
    assert metrics["entropy"] == pytest.approx(expected_metrics["entropy"], rel=0.02)
    assert metrics["entropy"] != expected_metrics["entropy"]
    found = gradients(state)
    dot = sum((found[p] * expected[p]).sum() for p in found)
    norms = [np.sqrt(sum((g**2).sum() for g in tree.values())) for tree in (found, expected)]
    assert dot / np.prod(norms) > 0.99


# ---- labels


def unlabelled(rollouts, labelled, reward):
    """These prompts only have a label; the others' rewards are nonsense."""
    labelled = np.array(labelled)
    rewards = np.where(labelled[:, None], rollouts.rewards, reward).astype(np.float32)
    return differing(rollouts, labelled=labelled, rewards=rewards)


@pytest.mark.parametrize("nonsense", [50.0, np.nan, np.inf])
def test_unlabelled_prompts_are_as_if_they_were_not_there(nonsense):
    rollouts = recorded()
    found = step()(unlabelled(rollouts, [True, False, True, False], nonsense))
    rows = np.repeat([True, False, True, False], N)
    alone = differing(
        rollouts,
        rewards=rollouts.rewards[::2],
        labelled=rollouts.labelled[::2],
        kept=rollouts.kept[::2],
        **{name: getattr(rollouts, name)[rows] for name in ("tokens", "prompt_lengths", "lengths", "logprobs")},
    )
    assert_same_update(found, step(prompts=2)(alone))


def test_nothing_labelled_leaves_parameters_and_moments_as_they_are():
    adamw = step(optimizer=ADAMW)
    state, _ = adamw(recorded())  # moments that are not zero: decay and momentum would move the weights
    before = bits(state)
    state, metrics = adamw(unlabelled(recorded(), [False] * P, 0.0), state)
    assert bits(state) == before
    assert metrics["finite"] and not metrics["updated"]
    assert int(state.step) == 2
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_leaves_the_whole_state_as_it_is(value):
    rollouts, adamw = recorded(), step(optimizer=ADAMW)
    rewards = rollouts.rewards.copy()
    rewards[0, 3] = value
    state, _ = adamw(rollouts)
    before = bits(state)
    state, metrics = adamw(differing(rollouts, rewards=rewards), state)
    assert bits(state) == before
    assert not metrics["finite"] and not metrics["updated"]
    assert int(state.step) == 1
    assert all(np.isfinite(x).all() for x in flat(state.params).values())


def test_the_last_token_is_trained_on():
    """Row 5 differs only in whether its last token, the stop token, belongs to the response."""
    rollouts = recorded()
    shorter = rollouts.lengths.copy()
    shorter[5] -= 1
    assert shorter[5] > rollouts.prompt_lengths[5]
    cut = step()(differing(rollouts, lengths=shorter, logprobs=rollouts.logprobs))
    full, cut = gradients(baseline()[0]), gradients(cut[0])
    stop = rollouts.tokens[5, shorter[5]]
    full, cut = full["embedding"][stop], cut["embedding"][stop]
    assert np.linalg.norm(full - cut) > 1e-2 * np.linalg.norm(full)


# ---- where things lie


@pytest.mark.parametrize("variant", fast_cases(["two buckets", "fsdp=4 x tensor=2, in buckets"], "two buckets"))
def test_state_is_donated_and_the_new_one_lies_where_the_old_one_did(variant):
    program = step(**VARIANTS[variant])
    state = program.state()
    old = jax.tree.leaves(state)
    kinds = [(x.aval, x.sharding) for x in old]
    new, _ = program(recorded(), state)
    assert all(x.is_deleted() for x in old)
    assert program.update.memory_analysis().alias_size_in_bytes >= sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(new)
    )  # in the very buffers of the old state
    assert [(x.aval, x.sharding) for x in jax.tree.leaves(new)] == kinds  # so the next step is not compiled again
    kernel = new.params["layers"]["gate"]["kernel"][...]
    parts = program.mesh.shape["fsdp"] * program.mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size == kernel.size // parts
    trace = new.opt_state[0].trace["layers"]["gate"]["kernel"][...]
    assert trace.addressable_shards[0].data.size == kernel.size // parts


@pytest.mark.parametrize(
    ("mesh_shape", "fields", "message"),
    [
        ((1, 1, 1), {"loss_aggregation": "seq-mean-token-sum-norm"}, "divides by loss_scale"),
        ((1, 8, 1), {}, "microbatch_sequences is 4: it must be a multiple of 8, "),
    ],
)
def test_what_cannot_be_computed_is_refused(mesh_shape, fields, message):
    with pytest.raises(ValueError, match=message):
        step(mesh_shape, **fields)
