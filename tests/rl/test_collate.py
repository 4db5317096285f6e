import dataclasses

import jax
import numpy as np
import pytest

from srt_jax.model import sharding
from srt_jax.rl.collate import Layout, abstract_batch, assemble, bucket, collate
from srt_jax.rollout.sampler import Rollouts
from tests.tiny_decoder import mesh_of

PROMPTS, N = 4, 3
REWARDS = np.arange(12).reshape(4, 3) / 10
LABELLED = np.array([True, False, True, True])


def rollouts():
    """Prompts of 1 to 4 tokens with 3 responses of 1 to 6 each; every token tells where it belongs."""
    lengths = np.array([[1, 5, 3], [2, 6, 4], [1, 1, 2], [6, 1, 3]], np.int32)
    tokens = np.arange(100, 172, dtype=np.int32).reshape(4, 3, 6) * (np.arange(6) < lengths[..., None])
    prompts = [[1, 2, 3, 4], [5, 0], [6], [7, 8, 9]]
    return Rollouts(prompts, tokens, lengths, -tokens.astype(np.float32) / 100, lengths > 0, 7)


def layout(**changes):
    return Layout(**{"prompts_per_step": 4, "samples_per_prompt": 3, "microbatch_sequences": 2,
                     "length_buckets": (4, 6, 12), "minibatches_per_step": 2} | changes)


def assembled(**changes):
    return assemble(rollouts(), REWARDS, LABELLED, layout(**changes), 0.7)


def test_every_rollout_is_one_row_of_prompt_response_and_zeros():
    batch, source = assembled(), rollouts()
    assert sorted(batch.rollout.reshape(-1)) == list(range(12))
    for row in np.ndindex(batch.rollout.shape):
        p, i = divmod(int(batch.rollout[row]), N)
        prompt, response = source.prompts[p], source.responses()[p][i]
        start, end = len(prompt), len(prompt) + len(response)
        assert batch.tokens[row].tolist() == [*prompt, *response] + [0] * (12 - end)
        assert (batch.prompt_lengths[row], batch.lengths[row]) == (start, end)
        logprobs = batch.sampler_logprobs[row]
        assert logprobs[start:end].tolist() == source.logprobs[p, i, :len(response)].tolist()
        assert not logprobs[:start].any() and not logprobs[end:].any()
    np.testing.assert_array_equal(batch.rewards, REWARDS.astype(np.float32))
    np.testing.assert_array_equal(batch.labelled, LABELLED)
    assert batch.kept.all() and batch.temperature == np.float32(0.7)


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_a_minibatch_holds_whole_prompts_sorted_by_length(minibatches):
    batch = assembled(minibatches_per_step=minibatches, microbatch_sequences=3)
    prompts = batch.rollout.reshape(minibatches, -1) // N
    for k, row in enumerate(prompts):
        share = PROMPTS // minibatches
        assert sorted(row) == sorted(list(range(k * share, (k + 1) * share)) * N)
    assert (np.diff(batch.lengths.reshape(minibatches, -1)) >= 0).all()


def test_counts_say_how_many_microbatches_each_bucket_has():
    batch = assembled()
    assert batch.counts.shape == (2, 3)
    assert batch.counts.sum(1).tolist() == [3, 3]
    needed = iter(batch.lengths.max(1))  # of each micro-batch, in order
    for row in batch.counts:
        for length, count in zip((4, 6, 12), row):
            for _ in range(count):
                assert bucket(next(needed), (4, 6, 12)) == length
    assert (batch.counts > 0).sum() > 2  # the buckets are used


def test_the_width_is_the_last_bucket_whatever_the_lengths():
    short = dataclasses.replace(rollouts(), lengths=np.ones((4, 3), np.int32))
    for source in (rollouts(), short):
        assert assemble(source, REWARDS, LABELLED, layout()).tokens.shape == (6, 2, 12)


def test_buckets_may_be_given_in_any_order():
    np.testing.assert_array_equal(assembled(length_buckets=(12, 4, 6)).counts, assembled().counts)


def test_a_sequence_beyond_the_last_bucket_is_an_error():
    with pytest.raises(ValueError, match=r"9 tokens exceeds .* batch\.length_buckets, 8"):
        assembled(length_buckets=(4, 8))


def test_rollouts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="4 prompts x 3 samples came, 8 x 3 were to come"):
        assembled(prompts_per_step=8)


@pytest.mark.parametrize(("changes", "message"), [
    ({"minibatches_per_step": 3}, "minibatches_per_step is 3: a mini-batch holds whole prompts"),
    ({"microbatch_sequences": 4}, "microbatch_sequences is 4: it must divide the 6 sequences"),
])
def test_a_layout_that_does_not_divide_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        layout(**changes)


def test_bucket_holds_its_own_size():
    assert [bucket(length, (16, 4)) for length in (0, 4, 5, 16)] == [4, 4, 16, 16]


def test_the_abstract_batch_is_that_of_every_step():
    mesh = mesh_of(data=2)
    batch = collate(rollouts(), REWARDS, LABELLED, layout(), mesh)
    expected = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(abstract_batch(layout(), mesh))]
    assert [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(batch)] == expected


def test_every_device_holds_rows_of_every_microbatch():
    mesh = mesh_of(data=2, fsdp=3)
    batch = collate(rollouts(), REWARDS, LABELLED, layout(microbatch_sequences=6), mesh)
    assert {shard.data.shape for shard in batch.tokens.addressable_shards} == {(2, 1, 12)}
    assert batch.rewards.sharding == sharding.replicated(mesh)
