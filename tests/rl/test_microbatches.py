import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.rl import microbatches
from srt_jax.rl.collate import Layout, batch_sharding
from tests.tiny_decoder import mesh_of, recorded

LAYOUT = Layout(
    prompts_per_step=4, samples_per_prompt=4, microbatch_sequences=2, length_buckets=(8, 12, 16), minibatches_per_step=2
)
PACKED = dataclasses.replace(LAYOUT, length_buckets=(16,), packing=True)


def visited(counts, layout):
    """Micro-batches and lengths in the order in which `fold` comes to them, per mini-batch."""

    def run(counts):
        def body(carry, i, length):
            log, n = carry
            return log.at[n].set(jnp.array([i, length])), n + 1

        start = jnp.zeros((layout.microbatches, 2), jnp.int32), 0
        return [microbatches.fold(body, start, counts, layout, k) for k in range(layout.minibatches_per_step)]

    return [log[:n].tolist() for log, n in jax.jit(run)(np.array(counts, np.int32))]


def test_fold_comes_to_every_microbatch_once_with_its_bucket():
    first, second = visited([[1, 3, 0], [0, 0, 4]], LAYOUT)
    assert first == [[0, 8], [1, 12], [2, 12], [3, 12]]
    assert second == [[4, 16], [5, 16], [6, 16], [7, 16]]


def test_fold_comes_to_the_packed_microbatches_only():
    assert visited([[1], [3]], PACKED) == [[[0, 16]], [[4, 16], [5, 16], [6, 16]]]


def test_one_bucket_has_a_trip_count_that_the_compiler_knows():
    layout = Layout(4, 4, 2, (16,))
    assert visited([[8]], layout)[0] == [[i, 16] for i in range(8)]
    program = str(jax.make_jaxpr(lambda c: microbatches.fold(lambda x, i, n: x + i, 0, c, layout, 0))(np.array([[8]])))
    assert "while" not in program and "length=8" in program


@pytest.mark.parametrize("layout", [LAYOUT, PACKED])
@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_from_prompts_to_tokens_and_back(mesh_shape, layout):
    rollouts, mesh = recorded(), mesh_of(*mesh_shape)
    batch = rollouts.batch(layout)
    values = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    placed = jax.device_put(batch, batch_sharding(mesh))
    tokens = jax.jit(microbatches.to_tokens)(values, placed)
    for rollout, value in enumerate(values.reshape(-1)):
        mine = batch.rollout == rollout
        expected = np.where(rollouts.mask()[rollout], value, 0)[: rollouts.lengths[rollout]]
        np.testing.assert_array_equal(np.asarray(tokens)[mine], expected)
    assert not np.asarray(tokens)[batch.rollout < 0].any()
    compiled = jax.jit(microbatches.to_prompts).lower(tokens, placed).compile()
    responses = (rollouts.lengths - rollouts.prompt_lengths).reshape(4, 4)
    np.testing.assert_allclose(compiled(tokens, placed), values * responses, rtol=1e-6)
    assert not any(name in compiled.as_text() for name in ("all-gather", "all-to-all", "collective-permute"))


def test_what_stands_in_the_padding_is_in_no_sum():
    batch = recorded().batch(PACKED)
    values = jnp.where(batch.rollout < 0, 1e6, 1.0)
    np.testing.assert_array_equal(microbatches.to_prompts(values, batch), recorded().lengths.reshape(4, 4))


def test_a_microbatch_is_cut_without_moving_rows():
    mesh = mesh_of(data=2, fsdp=2)
    layout = Layout(4, 4, 8, (8, 16))
    batch = jax.device_put(recorded().batch(layout), batch_sharding(mesh))
    compiled = (
        jax.jit(lambda rows, i: microbatches.cut(rows, i, 8, mesh)).lower((batch.tokens, batch.response), 1).compile()
    )
    tokens, response = compiled((batch.tokens, batch.response), 1)
    np.testing.assert_array_equal(tokens, np.asarray(batch.tokens)[1, :, :8])
    np.testing.assert_array_equal(response, np.asarray(batch.response)[1, :, :8])
    assert {shard.data.shape for shard in tokens.addressable_shards} == {(2, 8)}
    assert not any(name in compiled.as_text() for name in ("all-gather", "all-to-all", "collective-permute"))


def test_put_fills_the_first_positions_of_one_microbatch():
    found = microbatches.put(jnp.zeros((3, 2, 5)), 1, jnp.ones((2, 3)))
    assert found.sum() == 6 and (found[1, :, :3] == 1).all()


def test_padding_is_the_share_of_computed_tokens_that_are_not_real():
    batch, real = recorded().batch(LAYOUT), recorded().lengths.sum()
    computed = sum(2 * length * count for row in batch.counts for length, count in zip((8, 12, 16), row))
    assert float(microbatches.padding(batch, LAYOUT)) == pytest.approx(1 - real / computed, rel=1e-6)
    one = Layout(4, 4, 2, (16,))
    assert float(microbatches.padding(recorded().batch(one), one)) == pytest.approx(1 - real / 256, rel=1e-6)
    packed = recorded().batch(PACKED)
    rows = 2 * packed.counts.sum()
    assert rows < 16 and float(microbatches.padding(packed, PACKED)) == pytest.approx(1 - real / 16 / rows, rel=1e-6)
