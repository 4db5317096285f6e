import jax
import numpy as np
import pytest

from srt_jax.model import sharding
from srt_jax.rl.collate import bucket, collate
from srt_jax.rl.update import join_microbatches, response_mask, split_microbatches
from srt_jax.rollout.sampler import Rollouts
from tests.tiny_decoder import mesh_of


def rollouts():
    """Two prompts, three samples each, of which the longest sequence has 4 + 5 tokens."""
    lengths = np.array([[1, 5, 3], [2, 1, 4]], np.int32)
    tokens = np.arange(100, 130, dtype=np.int32).reshape(2, 3, 5) * (np.arange(5) < lengths[..., None])
    logprobs = -tokens.astype(np.float32) / 100
    return Rollouts([[1, 2, 3, 4], [5, 0]], tokens, lengths, logprobs, np.ones((2, 3), bool), 7)


REWARDS, LABELLED = np.array([[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]]), np.array([True, False])


def collated(buckets=(8, 12, 64), mesh=None):
    return collate(rollouts(), REWARDS, LABELLED, buckets, mesh or mesh_of())


def test_rows_are_prompt_then_response_then_zeros():
    batch, source = collated(), rollouts()
    for p, prompt in enumerate(source.prompts):
        for i, response in enumerate(source.responses()[p]):
            row = 3 * p + i
            expected = [*prompt, *response]
            assert batch.tokens[row].tolist() == expected + [0] * (12 - len(expected))
            assert (batch.prompt_lengths[row], batch.lengths[row]) == (len(prompt), len(expected))
            assert batch.rewards[row] == np.float32(REWARDS[p, i])
            assert batch.labelled[row] == LABELLED[p]
            start, end = len(prompt), len(expected)
            assert batch.sampler_logprobs[row, start:end].tolist() == source.logprobs[p, i, :end - start].tolist()
            assert not batch.sampler_logprobs[row, :start].any() and not batch.sampler_logprobs[row, end:].any()


def test_mask_covers_the_responses_of_labelled_prompts():
    mask = response_mask(collated())
    assert mask.shape == (6, 12)
    assert mask.sum(1).tolist() == [1, 5, 3, 0, 0, 0]
    assert mask[1].tolist() == [0] * 4 + [1] * 5 + [0] * 3


def test_types():
    batch = collated()
    types = [str(x.dtype) for x in jax.tree.leaves(batch)]
    assert types == ["int32", "int32", "int32", "float32", "bool", "float32"]


@pytest.mark.parametrize(("buckets", "width"), [((9,), 9), ((10, 9, 20), 9), ((8, 64), 64)])
def test_smallest_bucket_that_holds_the_longest_row(buckets, width):
    assert collated(buckets).tokens.shape == (6, width)


def test_a_sequence_beyond_the_last_bucket_is_an_error():
    with pytest.raises(ValueError, match=r"9 tokens exceeds .* batch\.length_buckets, 8"):
        collated((4, 8))


def test_bucket_holds_its_own_size():
    assert [bucket(length, (16, 4)) for length in (0, 4, 5, 16)] == [4, 4, 16, 16]


def test_rows_lie_on_the_devices_in_order():
    batch = collated(mesh=mesh_of(data=2, fsdp=3))
    for shard in batch.tokens.addressable_shards:
        assert shard.data.shape == (1, 12)
    assert batch.tokens.sharding == sharding.by_rows(mesh_of(data=2, fsdp=3))


@pytest.mark.parametrize(("mesh_shape", "size"), [((1, 1, 1), 4), ((4, 1, 1), 4), ((2, 2, 2), 8), ((1, 8, 1), 8)])
def test_microbatches_join_to_what_was_split_and_no_row_changes_its_device(mesh_shape, size):
    mesh = mesh_of(*mesh_shape)
    rows = jax.device_put(np.arange(48).reshape(16, 3), sharding.by_rows(mesh))
    parts = jax.jit(lambda x: split_microbatches(x, size, mesh))(rows)
    assert parts.shape == (16 // size, size, 3)
    assert sorted(np.asarray(parts).reshape(-1, 3)[:, 0]) == list(range(0, 48, 3))  # each row once
    assert (jax.jit(lambda x: join_microbatches(split_microbatches(x, size, mesh), mesh))(rows) == rows).all()

    def held(array):
        return {shard.device: set(np.asarray(shard.data).ravel().tolist()) for shard in array.addressable_shards}

    assert held(parts) == held(rows)
