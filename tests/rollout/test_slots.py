"""Slot refill: the same samples as decoding all together, in fewer steps, without traffic between shards."""

import contextlib
import functools
import re

import jax
import numpy as np
import pytest

from srt_jax.model import lora, sharding
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import abstract
from srt_jax.model.paths import map_with_path
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.run.timing import CompilationCounter
from tests.helpers import fast_cases
from tests.tiny_decoder import HF_CONFIG, LORA, adapted, decoder, mesh_of, place

STOPS = (3, 17, 30)
T = 24
PROMPTS = [[5], [7, 1, 2], [9, 9, 4, 0], [30, 6, 3, 8, 11], [2, 2], [1, 2, 3, 4, 5, 6, 7, 8], [12]]
SEEDS = problem_seeds(0, "train", 1, [str(p) for p in PROMPTS])


@functools.cache
def sampler(slots, mesh_shape=(1, 1, 1), prompts_per_call=4, dtype="float32"):
    graphdef, params = decoder(dtype)
    mesh = mesh_of(*mesh_shape)
    made = JaxSampler(graphdef, mesh, STOPS, (8, 4), prompts_per_call, slots)
    made.load(place(params, mesh), 11)
    return made


@functools.cache
def generate(slots, mesh_shape=(1, 1, 1), prompts_per_call=4, temperature=1.0, n=6):
    by = sampler(slots, mesh_shape, prompts_per_call)
    reported = {}
    rollouts = by.generate(
        PROMPTS, n, Sampling(T, temperature), SEEDS, lambda p, responses, stopped: reported.setdefault(p, responses)
    )
    assert [[r.tolist() for r in reported[p]] for p in range(len(PROMPTS))] == [
        [r.tolist() for r in row] for row in rollouts.responses()
    ]
    return rollouts, by.decode_steps


def assert_same(found, expected, equal=1.0):
    """At least the share `equal` of the samples has equal tokens. Their log-probs agree up to rounding."""
    same = (found.tokens == expected.tokens).all(-1)
    assert same.mean() >= equal
    assert np.array_equal(found.lengths[same], expected.lengths[same])
    assert np.array_equal(found.stopped[same], expected.stopped[same])
    assert np.abs(found.logprobs - expected.logprobs)[same].max() < 1e-4
    assert found.version == expected.version and found.prompts == expected.prompts


@pytest.mark.parametrize("slots", [1, 5, 100])  # one, some or all samples at a time
def test_samples_are_those_of_decoding_together(slots):
    assert_same(generate(slots)[0], generate(0)[0])


def test_greedy_samples_are_those_of_decoding_together():
    assert_same(generate(5, temperature=0.0)[0], generate(0, temperature=0.0)[0])


@pytest.mark.parametrize("where", fast_cases([(0, (1, 1, 1)), (5, (1, 1, 1)), (8, (2, 2, 2))], (5, (1, 1, 1))))
def test_adapters_sample_like_the_merged_model(where):
    slots, mesh_shape = where
    graphdef, params, adapters = adapted()
    mesh, policy = mesh_of(*mesh_shape), lora.join(adapters, params)
    of_adapters = JaxSampler(graphdef, mesh, STOPS, (8, 4), 4, slots)
    of_adapters.load(place(policy, mesh), 11)
    merged = JaxSampler(decoder()[0], mesh, STOPS, (8, 4), 4, slots)
    merged.load(place(lora.merge(policy, LORA.scale), mesh), 11)
    found, expected = (by.generate(PROMPTS, 6, Sampling(T), SEEDS) for by in (of_adapters, merged))
    assert_same(found, expected, 0.95)
    base = sampler(slots, mesh_shape).generate(PROMPTS, 6, Sampling(T), SEEDS)
    assert (base.tokens != found.tokens).any(-1).mean() > 0.5


# (8, 1, 1): each prompt has two rows, which share its seven samples. (2, 2, 2) also splits the key/value heads.
@pytest.mark.parametrize("where", fast_cases([(8, (8, 1, 1)), (8, (2, 2, 2)), (0, (8, 1, 1))], (8, (2, 2, 2))))
def test_devices_do_not_matter(where):
    slots, mesh_shape = where
    found, _ = generate(slots, mesh_shape, n=7)
    assert_same(found, generate(0, n=7)[0], 0.95)  # a draw may fall on the other side of a rounding error


def least_steps(lengths, slots):
    """Decoding steps of a queue that is served in the order of `lengths`."""
    free = np.zeros(slots, int)
    for length in lengths:
        free[free.argmin()] += length
    return free.max()


def test_a_slot_takes_the_next_request_when_its_sequence_ends():
    """One shard, one call: the steps are those of a queue served in order, and fewer than in batches."""
    by = sampler(4, prompts_per_call=7)
    rollouts = by.generate(PROMPTS, 6, Sampling(T), SEEDS)
    lengths = rollouts.lengths.reshape(-1)
    assert by.decode_steps == least_steps(lengths, 4)
    assert by.decode_steps < sum(lengths[i : i + 4].max() for i in range(0, len(lengths), 4))
    assert by.decode_steps <= lengths.sum() / 4 + T  # never idle before the last requests


def test_one_slot_takes_a_step_for_every_token():
    rollouts, steps = generate(1)
    assert steps == rollouts.lengths.sum()


def test_slots_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="slots is 6: the 4 data x fsdp shards"):
        JaxSampler(decoder()[0], mesh_of(2, 2, 2), STOPS, (8,), 4, 6)


def test_temperature_changes_without_compiling():
    by, expected = sampler(5, (1, 1, 1), 4), generate(5)[0]
    by.generate(PROMPTS, 6, Sampling(T, 0.9), SEEDS)
    with contextlib.closing(CompilationCounter()) as counter:
        hot = by.generate(PROMPTS, 6, Sampling(T, 1.3), SEEDS)
    assert counter.count == 0
    assert_same(hot, sampler(0, (1, 1, 1), 4).generate(PROMPTS, 6, Sampling(T, 1.3), SEEDS))
    assert not np.array_equal(hot.tokens, expected.tokens)


@functools.cache
def compiled(max_tokens):
    """Decoding: 4 layers, 32 prompts of 256 tokens x 4 on (2, 2, 2): a cache that dwarfs the rest."""
    hf = HF_CONFIG | dict(num_hidden_layers=4, num_key_value_heads=4, head_dim=32)
    mesh = mesh_of(2, 2, 2)
    graphdef, shapes = abstract(ModelConfig.from_hf(hf), mesh=mesh)
    params = map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding.parameter_sharding(mesh, path, x.shape)
        ),
        shapes,
    )
    _, (_, advance) = JaxSampler(graphdef, mesh, STOPS, (256,), 32, 32).lower(params, 4, Sampling(max_tokens))
    return advance.compile()


@pytest.mark.slow
def test_every_device_holds_its_part_of_the_cache_once():
    def held(T):
        m = compiled(T).memory_analysis()
        return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes

    long, short = held(4096), held(2048)
    part = 2 * 4 * 32 * 4 * 2048 * 32 * 4 / 8  # keys and values, layers, slots, kv heads, tokens, head dim, float32
    assert 1.0 <= (long - short) / part < 1.5, (long - short) / part


def test_nothing_moves_between_row_shards_while_decoding():
    """The collectives of the loop join neighbours on the tensor axis of (2, 2, 2), and nobody else."""
    groups = [
        re.search(r"replica_groups=(.*?), ", line).group(1)
        for line in compiled(2048).as_text().splitlines()
        if "replica_groups=" in line and "shard_map/while" in line
    ]
    assert len(groups) > 2
    assert set(groups) <= {"[4,2]<=[8]", "{{0,1},{2,3},{4,5},{6,7}}"}
