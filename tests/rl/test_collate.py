import dataclasses

import jax
import numpy as np
import pytest

from srt_jax.model import sharding
from srt_jax.rl.collate import Layout, TrainingSamples, abstract_batch, arrange, assemble, collate
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


def samples(source=None):
    return TrainingSamples(source or rollouts(), REWARDS, LABELLED)


def packed(**changes):
    return assembled(length_buckets=(12,), packing=True, **changes)


def layout(**changes):
    return Layout(
        **{
            "prompts_per_step": 4,
            "samples_per_prompt": 3,
            "microbatch_sequences": 2,
            "length_buckets": (4, 6, 12),
            "minibatches_per_step": 2,
        }
        | changes
    )


def assembled(**changes):
    return assemble(samples(), layout(**changes), 0.7)


def test_every_rollout_is_one_row_of_prompt_response_and_zeros():
    batch, source = assembled(), rollouts()
    assert sorted(batch.rollout[..., 0].reshape(-1)) == list(range(12))
    for row in np.ndindex(6, 2):
        r = int(batch.rollout[row][0])
        p, i = divmod(r, N)
        prompt, response = source.prompts[p], source.responses()[p][i]
        start, end = len(prompt), len(prompt) + len(response)
        assert batch.tokens[row].tolist() == [*prompt, *response] + [0] * (12 - end)
        assert batch.rollout[row].tolist() == [r] * end + [-1] * (12 - end)
        assert np.flatnonzero(batch.response[row]).tolist() == list(range(start, end))
        logprobs = batch.sampler_logprobs[row]
        assert logprobs[start:end].tolist() == source.logprobs[p, i, : len(response)].tolist()
        assert not logprobs[:start].any() and not logprobs[end:].any()
    np.testing.assert_array_equal(batch.rewards, REWARDS.astype(np.float32))
    np.testing.assert_array_equal(batch.labelled, LABELLED)
    assert batch.kept.all() and batch.temperature == np.float32(0.7)


def sequences(batch):
    """The parts of a packed row with equal numbers: (row, rollout, slice)."""
    for row in np.ndindex(batch.rollout.shape[:2]):
        cuts = np.flatnonzero(np.diff(batch.rollout[row])) + 1
        for part in np.split(np.arange(batch.rollout.shape[2]), cuts):
            if (rollout := int(batch.rollout[row][part[0]])) >= 0:
                yield row, rollout, slice(part[0], part[-1] + 1)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_packed_rows_hold_every_rollout_once_one_after_the_other(minibatches):
    batch, source, one_per_row = packed(minibatches_per_step=minibatches), rollouts(), assembled()
    where = {int(one_per_row.rollout[row][0]): row for row in np.ndindex(6, 2)}
    found = list(sequences(batch))
    assert sorted(rollout for _, rollout, _ in found) == list(range(12))
    assert len({row for row, *_ in found}) < 12  # some rows are shared
    for row, rollout, part in found:
        length = part.stop - part.start
        assert length == len(source.prompts[rollout // N]) + source.lengths.reshape(-1)[rollout]
        for name in ("tokens", "rollout", "response", "sampler_logprobs"):
            alone = getattr(one_per_row, name)[where[rollout]][:length]
            np.testing.assert_array_equal(getattr(batch, name)[row][part], alone)
    empty = batch.rollout < 0
    assert not any(getattr(batch, name)[empty].any() for name in ("tokens", "response", "sampler_logprobs"))


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_a_minibatch_holds_whole_prompts(minibatches, packing):
    batch = (packed if packing else assembled)(minibatches_per_step=minibatches, microbatch_sequences=3)
    for k, rollout in enumerate(batch.rollout.reshape(minibatches, -1)):
        share = 12 // minibatches
        assert sorted(set(rollout.tolist()) - {-1}) == list(range(k * share, (k + 1) * share))


def test_rows_of_a_minibatch_are_sorted_by_length():
    lengths = (assembled().rollout >= 0).sum(-1)
    assert (np.diff(lengths.reshape(2, -1)) >= 0).all()


def test_counts_say_how_many_microbatches_each_bucket_has():
    batch = assembled()
    assert batch.counts.shape == (2, 3)
    assert batch.counts.sum(1).tolist() == [3, 3]
    needed = iter((batch.rollout >= 0).sum(-1).max(1))  # of each micro-batch, in order
    for row in batch.counts:
        for length, shorter, count in zip((4, 6, 12), (0, 4, 6), row):
            for _ in range(count):
                assert shorter < next(needed) <= length
    assert (batch.counts > 0).sum() > 2  # the buckets are used


def test_packed_counts_are_the_microbatches_that_hold_anything():
    batch = packed()
    filled = (batch.rollout >= 0).any((1, 2)).reshape(2, 3)
    assert batch.counts.tolist() == [[2], [2]]  # 39 and 26 tokens in rows of 12, two rows at a time
    assert filled.tolist() == [[True, True, False]] * 2


def test_the_longest_come_first_each_into_the_first_row_with_room():
    rows, starts, counts = arrange(np.array([3, 9, 4, 5, 1, 6, 6, 2]), Layout(4, 2, 1, (10,), packing=True))
    assert rows.tolist() == [2, 0, 1, 3, 0, 1, 2, 3]
    assert starts.tolist() == [6, 0, 6, 0, 9, 0, 0, 5]
    assert counts.tolist() == [[4]]


def test_packing_wastes_little_of_long_tailed_lengths():
    lengths = np.random.default_rng(0).lognormal(6, 0.8, 512).astype(int).clip(50, 4096)
    _, _, counts = arrange(lengths, Layout(16, 32, 8, (4096,), packing=True))
    _, _, bucketed = arrange(lengths, Layout(16, 32, 8, (1024, 2048, 4096)))
    computed, computed_bucketed = counts.sum() * 8 * 4096, (bucketed * (1024, 2048, 4096)).sum() * 8
    assert 1 - lengths.sum() / computed < 0.1
    assert 1 - lengths.sum() / computed_bucketed > 0.5


def test_the_worst_case_fits():
    """Every sequence of the full length has a row of its own, and they come in the order of the rollouts."""
    rows, starts, counts = arrange(np.full(16, 10), Layout(4, 4, 2, (10,), 2, packing=True))
    assert rows.tolist() == list(range(16)) and not starts.any() and counts.tolist() == [[4], [4]]


def test_the_width_is_the_last_bucket_whatever_the_lengths():
    short = dataclasses.replace(rollouts(), lengths=np.ones((4, 3), np.int32))
    for source in (rollouts(), short):
        assert assemble(samples(source), layout()).tokens.shape == (6, 2, 12)


def test_buckets_may_be_given_in_any_order():
    np.testing.assert_array_equal(assembled(length_buckets=(12, 4, 6)).counts, assembled().counts)


@pytest.mark.parametrize("fields", [{"length_buckets": (4, 8)}, {"length_buckets": (8,), "packing": True}])
def test_a_sequence_beyond_the_last_bucket_is_an_error(fields):
    with pytest.raises(ValueError, match=r"9 tokens exceeds .* batch\.length_buckets, 8"):
        assembled(**fields)


def test_rollouts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="the step has 4 prompts x 3 samples, but the layout has 8 x 3"):
        assembled(prompts_per_step=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatches_per_step": 3}, "minibatches_per_step is 3: a mini-batch has whole prompts"),
        ({"microbatch_sequences": 4}, "microbatch_sequences is 4: it must divide the 6 sequences"),
        ({"packing": True}, "length_buckets is .4, 6, 12.: packed rows all have one length"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        layout(**changes)


def test_a_bucket_holds_its_own_size():
    assert arrange(np.array([1, 4, 5, 16]), Layout(4, 1, 1, (16, 4)))[2].tolist() == [[2, 2]]


def test_the_abstract_batch_is_that_of_every_step():
    mesh = mesh_of(data=2)
    batch = collate(samples(), layout(), mesh)
    expected = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(abstract_batch(layout(), mesh))]
    assert [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(batch)] == expected


def test_every_device_holds_rows_of_every_microbatch():
    mesh = mesh_of(data=2, fsdp=3)
    batch = collate(samples(), layout(microbatch_sequences=6), mesh)
    assert {shard.data.shape for shard in batch.tokens.addressable_shards} == {(2, 1, 12)}
    assert batch.rewards.sharding == sharding.replicated(mesh)
