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
from srt_jax.rl.passes import Passes
from srt_jax.rl.update import UpdateConfig, make_update
from tests.tiny_decoder import decoder, flat, mesh_of, place, recorded

P, N, S = 4, 4, 16
SGD = optax.chain(optax.trace(decay=0.0), optax.scale(-1.0))  # its state is the last gradient
QUICK = {"xla_backend_optimization_level": 0}
ONE_PER_ROW, PACKED = Layout(P, N, 4, (S,)), Layout(P, N, 2, (S,), packing=True)


@functools.cache
def rollouts():
    """One prompt without label, one rollout not kept."""
    found = recorded()
    labelled, kept = np.array([True, True, False, True]), found.kept.copy()
    kept[1, 2] = False
    rewards = np.where(labelled[:, None], found.rewards, np.nan).astype(np.float32)
    return dataclasses.replace(found, labelled=labelled, kept=kept, rewards=rewards)


def compiled(config, mesh):
    """The update, from abstract arrays."""
    graphdef, params = decoder(mesh=mesh)
    state = abstract_state(place(params, mesh), SGD, mesh)
    reference = place(decoder(seed=1)[1], mesh) if config.kl_coef else None
    update = make_update(graphdef, SGD, config, mesh, state)
    update = update.lower(state, reference, abstract_batch(config.layout, mesh)).compile(QUICK)

    def run(data):
        batch = sharding.place(data.batch(config.layout), batch_sharding(mesh))
        state, metrics = update(init_state(place(params, mesh), SGD, mesh), reference, batch)
        return state, jax.device_get(metrics)

    return run


def assert_same(found, expected):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    assert metrics["finite"] and metrics["updated"] == 1
    for name in metrics.keys() - {"padding", "weights_moved_bf16"}:
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-5, abs=1e-7), name
    before = flat(decoder()[1])
    for path, value in flat(expected_state.params).items():
        moved, ours = value - before[path], flat(state.params)[path] - before[path]
        assert np.linalg.norm(ours - moved) <= 2e-5 * np.linalg.norm(moved), path
        assert np.linalg.norm(moved) > 0, path


KL = 0.3
STEPS = {
    "rloo, KL in the reward": dict(kl_coef=KL),
    "rloo, KL in the loss, sequence means": dict(kl_coef=KL, kl_in="loss", loss_aggregation="seq-mean-token-mean"),
    "grpo, sampler's log-probs, importance weights": dict(advantage="grpo", kl_coef=0.0, tis_cap=1.2),
    "reinforce++, whitened": dict(advantage="reinforce_pp", kl="k1", kl_coef=KL),
    "mini-batches and epochs, clipped": dict(minibatches=2, epochs_per_step=2, kl_coef=0.0, clip_low=0.1),
    "cross-entropy": dict(objective="cross_entropy", kl_coef=0.0),
    "entropy minimisation": dict(objective="entropy", kl_coef=KL, kl_in="loss", unlabelled="zero_advantage"),
}


@pytest.mark.parametrize("name", STEPS)
def test_packed_rows_make_the_same_update(name):
    fields = dict(STEPS[name])
    minibatches = fields.pop("minibatches", 1)
    layouts = (dataclasses.replace(layout, minibatches_per_step=minibatches) for layout in (PACKED, ONE_PER_ROW))
    packed, expected = (compiled(UpdateConfig(layout, **fields), mesh_of())(rollouts()) for layout in layouts)
    assert_same(packed, expected)
    assert packed[1]["padding"] < 0.6 * expected[1]["padding"]
    assert packed[1].get("clip_fraction", 1) > 0.02


@functools.cache
def on_one_device():
    return compiled(UpdateConfig(PACKED, kl_coef=KL), mesh_of())


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_the_mesh_does_not_matter(shape):
    """With 8 rows per micro-batch, some devices have no tokens."""
    layout = dataclasses.replace(PACKED, microbatch_sequences=8)
    assert ((rollouts().batch(layout).rollout < 0).all(-1) & (rollouts().batch(layout).counts > 0)).any()
    assert_same(compiled(UpdateConfig(layout, kl_coef=KL), mesh_of(*shape))(rollouts()), on_one_device()(rollouts()))


def test_one_program_serves_all_lengths_up_to_the_worst_case():
    full = dataclasses.replace(rollouts(), lengths=np.full(P * N, S, np.int32))
    full = dataclasses.replace(full, logprobs=np.where(full.mask(), -2, 0).astype(np.float32))
    short = dataclasses.replace(rollouts(), lengths=rollouts().prompt_lengths + 1)
    expected = compiled(UpdateConfig(ONE_PER_ROW, kl_coef=KL), mesh_of())
    for data, microbatches in ((full, 8), (short, 3), (rollouts(), 5)):
        assert data.batch(PACKED).counts.tolist() == [[microbatches]]
        assert_same(on_one_device()(data), expected(data))
    assert on_one_device()(full)[1]["padding"] == 0


@pytest.mark.parametrize("kernel", ["xla", "splash"])
def test_a_sequence_does_not_see_its_neighbours(kernel):
    """Other tokens in one sequence change its own log-probs, and not a bit of the others'."""
    graphdef, params = decoder()
    model = nnx.merge(graphdef, params)
    model.kernel = kernel
    passes = Passes(nnx.split(model)[0], UpdateConfig(PACKED), mesh_of(), None)
    score = jax.jit(passes.score)
    batch = rollouts().batch(PACKED)
    row = batch.rollout[0, 0]
    assert len(set(row)) >= 3  # it has neighbours
    for rollout in set(row) - {-1}:
        changed = np.where(batch.rollout == rollout, (batch.tokens + 7) % 32, batch.tokens)
        before, after = (np.asarray(score(params, batch.replace(tokens=tokens))) for tokens in (batch.tokens, changed))
        others = (batch.rollout != rollout) & batch.response
        np.testing.assert_array_equal(before[others], after[others])
        assert (before != after)[(batch.rollout == rollout) & batch.response].all()
