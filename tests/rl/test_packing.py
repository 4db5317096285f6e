"""Packed rows against one sequence per row: the same updates, by every objective, kernel and mesh, for less padding."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from srt_jax.model import sharding
from srt_jax.rl.collate import Layout, abstract_batch, batch_sharding
from srt_jax.rl.optimizer import abstract_state, init_state
from srt_jax.rl.update import Passes, UpdateConfig, make_update
from tests.helpers import fast_cases
from tests.tiny_decoder import decoder, flat, mesh_of, place, recorded

P, N, S = 4, 4, 24
# Its state is the sum of the gradients. Larger steps would make the rounding of one update visible in the next.
RECORDER = optax.chain(optax.trace(decay=1.0), optax.scale(-0.03))
QUICK = {"xla_backend_optimization_level": 0}
ONE_PER_ROW, PACKED = Layout(P, N, 4, (S,)), Layout(P, N, 2, (S,), packing=True)


@functools.cache
def rollouts():
    """One prompt without label, one rollout not kept."""
    found = recorded(width=S)
    labelled, kept = np.array([True, True, False, True]), found.kept.copy()
    kept[1, 2] = False
    rewards = np.where(labelled[:, None], found.rewards, np.nan).astype(np.float32)
    return dataclasses.replace(found, labelled=labelled, kept=kept, rewards=rewards)


def one_layer(seed=0, mesh=None):
    return decoder(seed=seed, mesh=mesh, num_hidden_layers=1)


@functools.cache
def compiled(config, mesh_shape=(1, 1, 1)):
    """The update of rollouts -> (state, metrics), compiled from abstract arrays."""
    mesh = mesh_of(*mesh_shape)
    graphdef, params = one_layer(mesh=mesh)
    state = abstract_state(place(params, mesh), RECORDER, mesh)
    reference = place(one_layer(seed=1)[1], mesh) if config.kl_coef else None
    update = make_update(graphdef, RECORDER, config, mesh, state)
    update = update.lower(state, reference, abstract_batch(config.layout, mesh)).compile(QUICK)

    def run(data):
        batch = sharding.place(data.batch(config.layout), batch_sharding(mesh))
        state, metrics = update(init_state(place(params, mesh), RECORDER, mesh), reference, batch)
        return state, jax.device_get(metrics)

    return run


def assert_same(found, expected):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    assert metrics["finite"] and metrics["updated"] == 1
    for name in metrics.keys() - {"padding", "weights_moved_bf16"}:
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-5, abs=1e-6), name
    gradients = flat(state.opt_state[0].trace)
    for path, value in flat(expected_state.opt_state[0].trace).items():
        assert np.linalg.norm(gradients[path] - value) <= 1e-5 * np.linalg.norm(value), path
        assert np.linalg.norm(value) > 0, path


KL = 0.3
STEPS = {
    "rloo, KL in the reward": dict(kl_coef=KL),
    "grpo, KL in the loss, importance weights": dict(advantage="grpo", kl_coef=KL, kl_in="loss", tis_cap=1.2),
    "reinforce++, whitened": dict(advantage="reinforce_pp", kl="k2", kl_coef=KL),
    "mini-batches and epochs, clipped, sequence means": dict(
        minibatches=2, epochs_per_step=2, kl_coef=0.0, clip_low=0.1, loss_aggregation="seq-mean-token-mean"
    ),
    "cross-entropy": dict(objective="cross_entropy", kl_coef=0.0),
}


@pytest.mark.parametrize("name", fast_cases(STEPS, "grpo, KL in the loss, importance weights"))
def test_packed_rows_make_the_same_update(name):
    fields = dict(STEPS[name])
    minibatches = fields.pop("minibatches", 1)
    layouts = (dataclasses.replace(layout, minibatches_per_step=minibatches) for layout in (PACKED, ONE_PER_ROW))
    packed, expected = (compiled(UpdateConfig(layout, **fields))(rollouts()) for layout in layouts)
    assert_same(packed, expected)
    assert packed[1]["padding"] < 0.5 * expected[1]["padding"]
    assert packed[1].get("clip_fraction", 1) > 0.02


IN_THE_REWARD = UpdateConfig(PACKED, kl_coef=KL)


@pytest.mark.slow
def test_eight_devices_make_the_update_of_one():
    """With micro-batches of 8 rows, some of which hold nothing."""
    layout = dataclasses.replace(PACKED, microbatch_sequences=8)
    batch = rollouts().batch(layout)
    assert batch.counts == 1 and (batch.rollout[0] < 0).all(-1).any()
    spread = compiled(dataclasses.replace(IN_THE_REWARD, layout=layout), (2, 2, 2))
    assert_same(spread(rollouts()), compiled(IN_THE_REWARD)(rollouts()))


def test_one_program_serves_all_lengths_up_to_the_worst_case():
    full = dataclasses.replace(rollouts(), lengths=np.full(P * N, S, np.int32))
    full = dataclasses.replace(full, logprobs=np.where(full.mask(), -2, 0).astype(np.float32))
    short = dataclasses.replace(rollouts(), lengths=rollouts().prompt_lengths + 1)
    packed, expected = compiled(IN_THE_REWARD), compiled(UpdateConfig(ONE_PER_ROW, kl_coef=KL))
    for data, microbatches in ((full, 8), (short, 2), (rollouts(), 4)):
        assert data.batch(PACKED).counts.tolist() == [[microbatches]]
        assert_same(packed(data), expected(data))
    assert packed(full)[1]["padding"] == 0


@pytest.mark.parametrize("kernel", ["xla", "splash"])
def test_a_sequence_does_not_see_its_neighbours(kernel):
    """Other tokens in one sequence change its own log-probs, and not a bit of the others'."""
    graphdef, params = decoder()
    model = nnx.merge(graphdef, params)
    model.kernel = kernel
    passes = Passes(nnx.split(model)[0], UpdateConfig(PACKED), mesh_of(), None)
    score = jax.jit(passes.score)
    batch = rollouts().batch(PACKED)
    neighbours = set(batch.rollout[1, 0].tolist()) - {-1}
    assert len(neighbours) > 1
    for rollout in neighbours:
        changed = np.where(batch.rollout == rollout, (batch.tokens + 7) % 32, batch.tokens)
        before, after = (np.asarray(score(params, batch.replace(tokens=tokens))) for tokens in (batch.tokens, changed))
        others = (batch.rollout != rollout) & batch.response
        np.testing.assert_array_equal(before[others], after[others])
        assert (before != after)[(batch.rollout == rollout) & batch.response].all()
