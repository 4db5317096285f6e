import collections
import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from srt_jax.errors import RolloutError
from srt_jax.model import attention
from srt_jax.rl.collate import Layout, TrainingSamples, assemble
from srt_jax.rollout.jax import sampler as jax_sampler
from srt_jax.rollout.jax import static_batching
from srt_jax.rollout.jax.sampler import Cut, JaxSampler
from srt_jax.rollout.jax.sampling import BLOCKS, SMALL_VOCABULARY, categorical, truncate
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.run.timing import CompilationCounter
from srt_jax.runtime import programs
from tests.helpers import fast_cases
from tests.tiny_decoder import VOCAB, decoder, direct_logprobs, mesh_of, place

STOPS = (3, 17, 30)
T = 8
SHORT = [[5], [7, 1, 2], [9, 9, 4, 0], [2, 2], [12]]  # All use one bucket, because each bucket needs a compilation.
PROMPTS = [[5], [7, 1, 2], [9, 9, 4, 0], [30, 6, 3, 8, 11], [2, 2], [1, 2, 3, 4, 5, 6, 7, 8], [12]]  # with stop tokens


@functools.cache
def sampler(mesh_shape=(1, 1, 1), stop_ids=STOPS, prompts_per_call=4, dtype="float32", seed=0, **changes):
    graphdef, params = decoder(dtype, seed=seed, **changes)
    mesh = mesh_of(*mesh_shape)
    made = JaxSampler(graphdef, mesh, stop_ids, (8, 4), prompts_per_call)
    made.load(place(params, mesh), 11)
    return made


def seeds_of(prompts, step=1, purpose="train", seed=0):
    """The id of a problem is its prompt: whatever batch it stands in."""
    return problem_seeds(seed, purpose, step, [str(p) for p in prompts])


def generate(prompts=PROMPTS, n=3, temperature=1.0, max_tokens=T, seeds=None, by=None, **truncation):
    seeds = seeds_of(prompts) if seeds is None else seeds
    return (by or sampler()).generate(prompts, n, Sampling(max_tokens, temperature, **truncation), seeds)


@pytest.fixture
def no_shared_programs(monkeypatch):
    """Samplers of this test compile their own programs."""
    monkeypatch.setattr(programs, "_programs", collections.OrderedDict())


FIELDS = ("tokens", "lengths", "logprobs", "stopped")


def rows(rollouts):
    """(tokens, sampler's log-probs) [B, S] of the update's batch."""
    prompts, n = rollouts.lengths.shape
    layout = Layout(prompts, n, prompts * n, (16,))
    batch = assemble(TrainingSamples(rollouts, np.zeros((prompts, n)), np.ones(prompts, bool)), layout)
    return batch.tokens[0], batch.sampler_logprobs[0]


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


# ---- the distribution


@pytest.mark.parametrize(("temperature", "prompts"), [pytest.param(1.0, PROMPTS, marks=pytest.mark.slow), (0.7, SHORT)])
def test_log_probs_are_the_trainers(temperature, prompts):
    rollouts = generate(prompts, temperature=temperature)
    tokens, logprobs = rows(rollouts)
    expected, _ = direct_logprobs(*decoder(), tokens, temperature)
    inside = logprobs != 0
    assert inside.sum() == rollouts.lengths.sum()
    assert np.abs(expected - logprobs)[inside].max() < 1e-4


def next_token_probabilities(tokens, temperature=1.0, **changes):
    """Softmax after the last token, by one full forward pass."""
    graphdef, params = decoder(**changes)
    model = nnx.merge(graphdef, params)
    logits = np.asarray(model.logits(model(jnp.asarray([tokens]))))[0, -1].astype(np.float64) / temperature
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def assert_frequencies(counts, probabilities):
    """Chi-square; the seeds are fixed, so this either always holds or never."""
    enough = probabilities * counts.sum() >= 5
    observed = np.append(counts[enough], counts[~enough].sum())
    expected = np.append(probabilities[enough], probabilities[~enough].sum()) * counts.sum()
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert len(observed) > 2
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_frequencies_of_pairs_of_tokens_are_their_probabilities():
    """The second token is drawn from the cache, and independently of how the first was drawn."""
    small, prompt = dict(vocab_size=6), [1, 4, 2]
    by = sampler(stop_ids=(5,), prompts_per_call=1, **small)
    rollouts = generate([prompt], n=6000, temperature=1.3, max_tokens=2, by=by)
    counts = np.zeros((6, 6))
    np.add.at(counts, (rollouts.tokens[0, :, 0], rollouts.tokens[0, :, 1]), 1)
    first = next_token_probabilities(prompt, 1.3, **small)
    pairs = np.stack([p * next_token_probabilities([*prompt, t], 1.3, **small) for t, p in enumerate(first)])
    pairs[5] = [first[5], 0, 0, 0, 0, 0]  # the stop token ends the response; what follows is padding
    assert_frequencies(counts.ravel(), pairs.ravel())


def allowed_by(probabilities, top_k, top_p):
    """The top_k tokens; of these, renormalised, the most likely until their sum reaches top_p."""
    chosen, total = [], 0.0
    ranked = sorted(range(len(probabilities)), key=lambda t: -probabilities[t])[: top_k if top_k > 0 else None]
    mass = sum(probabilities[t] for t in ranked)
    for t in ranked:
        if total >= top_p:
            break
        chosen.append(t)
        total += probabilities[t] / mass
    return chosen


def test_truncated_draws_stay_in_the_set_with_its_frequencies():
    prompt, top_k, top_p = [9, 9, 4, 0], 12, 0.7
    by = sampler(prompts_per_call=1)
    rollouts = generate([prompt], n=2000, temperature=2.0, max_tokens=1, by=by, top_k=top_k, top_p=top_p)
    probabilities = next_token_probabilities(prompt, 2.0)
    allowed = allowed_by(probabilities, top_k, top_p)
    unlike = [allowed_by(next_token_probabilities(prompt), top_k, top_p), allowed_by(probabilities, -1, top_p)]
    assert len(allowed) > 3 and allowed not in unlike  # the temperature comes first, and both limits count
    kept = np.zeros(VOCAB)
    kept[allowed] = probabilities[allowed] / probabilities[allowed].sum()
    tokens = rollouts.tokens[0, :, 0]
    assert set(tokens.tolist()) == set(allowed)
    np.testing.assert_allclose(rollouts.logprobs[0, :, 0], np.log(kept[tokens]), atol=1e-4)
    assert_frequencies(np.bincount(tokens, minlength=VOCAB), kept)
    assert (rollouts.lengths == 1).all()  # the limit is one token
    assert np.array_equal(rollouts.stopped[0], np.isin(tokens, STOPS))


@pytest.mark.parametrize("vocabulary", [SMALL_VOCABULARY, SMALL_VOCABULARY + 1, 40 * BLOCKS])
def test_draws_from_a_large_vocabulary_have_its_frequencies(vocabulary):
    """Most of the probability is in a few tokens of one block, many have none, and the last block is not full."""
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(size=vocabulary).astype(np.float32)
    logits[[7, 8, 9, vocabulary // 2, vocabulary - 1]] += 9
    logits[rng.random(vocabulary) < 0.5] = -np.inf
    logits[-BLOCKS // 2 :] = 6
    keys = jax.random.split(jax.random.key(0), 20_000)
    tokens = np.asarray(jax.jit(jax.vmap(categorical, (0, None)))(keys, logits))
    probabilities = np.exp(logits.astype(np.float64))
    assert (probabilities[tokens] > 0).all()
    assert_frequencies(np.bincount(tokens, minlength=vocabulary), probabilities / probabilities.sum())


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("top_k", [-1, 1, 4, VOCAB, VOCAB + 5])
def test_truncation_keeps_the_right_set(top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(6, VOCAB)).astype(np.float32)
    kept = np.isfinite(truncate(jnp.asarray(logits), Sampling(1, 1.0, top_p, top_k)))
    for row, found in zip(logits.astype(np.float64), kept):
        assert np.flatnonzero(found).tolist() == sorted(allowed_by(np.exp(row) / np.exp(row).sum(), top_k, top_p))


@jax.jit
def next_logits(params, tokens, length):
    model = nnx.merge(decoder()[0], params)
    return model.logits(model(tokens[None]))[0, length - 1]


def greedy(prompt, stops=()):
    """Naive: a full forward pass over the growing sequence for every token."""
    response = []
    while len(response) < T and not set(response) & set(stops):
        sequence = [*prompt, *response]
        padded = np.array(sequence + [0] * (16 - len(sequence)))
        response.append(int(next_logits(decoder()[1], padded, len(sequence)).argmax()))
    return response


def test_temperature_zero_is_the_naive_greedy_loop():
    stops = (greedy(SHORT[1])[-1], greedy(SHORT[2])[T // 2])
    rollouts = generate(SHORT, n=2, temperature=0.0, by=sampler(stop_ids=stops))
    expected = [greedy(prompt, stops) for prompt in SHORT]
    assert len({len(response) for response in expected}) > 1
    for responses, response in zip(rollouts.responses(), expected):
        assert [r.tolist() for r in responses] == [response, response]


# ---- the form


def test_stop_tokens_end_a_response_and_belong_to_it():
    rollouts = generate(SHORT, n=40)
    ends = set()
    for p, responses in enumerate(rollouts.responses()):
        for i, response in enumerate(responses):
            assert 1 <= len(response) <= T
            assert not set(response[:-1].tolist()) & set(STOPS)
            assert rollouts.stopped[p, i] == (response[-1] in STOPS)
            assert rollouts.stopped[p, i] or len(response) == T
            assert not rollouts.tokens[p, i, len(response) :].any()
            assert not rollouts.logprobs[p, i, len(response) :].any()
            assert (rollouts.logprobs[p, i, : len(response)] < 0).all()
            ends.add(response[-1].item() if rollouts.stopped[p, i] else None)
    assert ends == {*STOPS, None}
    assert {1, T} <= set(rollouts.lengths.ravel().tolist())


def test_shapes_types_and_version():
    rollouts = generate()
    assert rollouts.tokens.shape == rollouts.logprobs.shape == (len(PROMPTS), 3, T)
    assert (rollouts.tokens.dtype, rollouts.lengths.dtype) == (np.int32, np.int32)
    assert (rollouts.logprobs.dtype, rollouts.stopped.dtype) == (np.float32, bool)
    assert rollouts.version == 11
    assert rollouts.prompts == PROMPTS


def test_a_prompt_beyond_the_last_bucket_is_an_error():
    with pytest.raises(ValueError, match="a prompt has 9 tokens: the largest bucket has 8"):
        generate([[1] * 9])


def test_an_empty_prompt_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        generate([[1, 2], []])


def test_prompts_are_reported_as_they_finish_once_each_with_all_their_responses():
    reported = {}

    def finished(p, responses, stopped):
        assert p not in reported
        reported[p] = [r.tolist() for r in responses], list(stopped)

    rollouts = sampler().generate(PROMPTS, 3, Sampling(T), seeds_of(PROMPTS), finished)
    assert sorted(reported) == list(range(len(PROMPTS)))
    for p, responses in enumerate(rollouts.responses()):
        assert reported[p] == ([r.tolist() for r in responses], rollouts.stopped[p].tolist())


def test_no_prompts_give_no_rollouts():
    assert generate([]).tokens.shape == (0, 3, T)


# ---- what a sample depends on


def test_same_seeds_give_the_same_rollouts():
    assert same(generate(), generate())


@pytest.mark.parametrize("change", [dict(step=2), dict(purpose="eval"), dict(purpose="label"), dict(seed=1)])
def test_step_purpose_and_seed_change_the_draws(change):
    a, b = generate(), generate(seeds=seeds_of(PROMPTS, **change))
    assert all((a.tokens[p] != b.tokens[p]).any() for p in range(len(PROMPTS)))


def test_equal_prompts_of_different_problems_and_samples_of_one_are_drawn_apart():
    rollouts = generate([[7, 1, 2]] * 2, n=3, seeds=problem_seeds(0, "train", 1, ["a", "b"]))
    assert len({tuple(row.tolist()) for row in rollouts.tokens.reshape(6, T)}) == 6


def test_seeds_are_a_function_of_their_arguments_in_63_bits():
    ids = [str(i) for i in range(500)]
    seeds = problem_seeds(3, "train", 7, ids)
    assert seeds.dtype == np.uint64 and seeds.max() < 2**63 and seeds.max() > 2**62
    assert np.array_equal(seeds[::-1], problem_seeds(3, "train", 7, ids[::-1]))
    others = [problem_seeds(*args, ids) for args in ((4, "train", 7), (3, "eval", 7), (3, "train", 8))]
    assert len(set(np.concatenate([seeds, *others]).tolist())) == 2000


def test_both_halves_of_a_seed_reach_the_draws():
    seeds = np.array([5, 5 + 2**32, 6], np.uint64)
    rollouts = generate([[7, 1, 2]] * 3, n=2, seeds=seeds)
    assert len({row.tobytes() for row in rollouts.tokens}) == 3


def test_the_default_random_generator_does_not_matter():
    """Some set a faster one for TPUs; its keys are wider, and its vmapped draws depend on the neighbours."""
    expected = generate(SHORT)
    with jax.default_prng_impl("rbg"):
        graphdef, params = decoder()
        other = JaxSampler(graphdef, mesh_of(), STOPS, (4,), 4)
        other.load(place(params, mesh_of()), 0)
        assert same(generate(SHORT, by=other), expected)


def test_neighbours_order_and_call_do_not_matter():
    """Seven prompts in two buckets take three calls here; every prompt alone takes one, with three empty rows."""
    together = generate()
    order = np.array([3, 6, 0, 5, 1, 4, 2])
    shuffled = generate([PROMPTS[p] for p in order])
    for row, p in enumerate(order):
        alone = generate([PROMPTS[p]])
        for name in FIELDS:
            expected = getattr(together, name)[p]
            assert np.array_equal(getattr(shuffled, name)[row], expected), (name, p)
            assert np.array_equal(getattr(alone, name)[0], expected), (name, p)


def test_more_samples_begin_with_the_same_ones():
    few, many = generate(SHORT, n=3), generate(SHORT, n=40)
    assert np.array_equal(many.tokens[:, :3], few.tokens)
    assert not np.array_equal(many.tokens[:, 3], few.tokens[:, 0])


def limited(memory_bytes, slots=0, mesh_shape=(1, 1, 1), **changes):
    """One whose calls may take only so much."""
    graphdef, params = decoder(**changes)
    mesh = mesh_of(*mesh_shape)
    made = JaxSampler(graphdef, mesh, STOPS, (8, 4), 4, slots, memory_bytes)
    made.load(place(params, mesh), 11)
    return made


def needed(cut, bucket=8):
    return sampler().bytes_of(cut, bucket, Sampling(T))


CUTS = [Cut(2, 6, 0, 1), Cut(1, 3, 0, 1), Cut(4, 6, 2, 1), Cut(1, 2, 1, 1)]


@pytest.mark.parametrize("cut", fast_cases(CUTS, CUTS[1], CUTS[3]), ids=str)
def test_how_the_work_is_cut_into_calls_does_not_matter(cut):
    """Fewer prompts at a time, fewer samples, fewer slots: sample i of a prompt draws from (seed, i) in any call."""
    bucket = 8 if cut.slots else 4
    by, reported = limited(needed(cut, bucket), slots=4 if cut.slots else 0), []
    found, expected = generate(SHORT, n=6, by=by), generate(SHORT, n=6)
    assert by.cut(bucket, 6, Sampling(T)) == cut
    assert np.array_equal(found.tokens, expected.tokens) and np.array_equal(found.stopped, expected.stopped)
    assert np.abs(found.logprobs - expected.logprobs).max() < 1e-5
    by.generate(SHORT, 6, Sampling(T), seeds_of(SHORT), lambda p, responses, _: reported.append((p, len(responses))))
    assert sorted(reported) == [(p, 6) for p in range(len(SHORT))]


def test_a_draw_may_limit_the_prompts_of_a_call():
    """A step of 3 prompts has no empty rows, although a call has room for 8."""
    graphdef, params = decoder()
    mesh = mesh_of(1, 1, 1)
    by = JaxSampler(graphdef, mesh, STOPS, (8, 4), 8)
    by.load(place(params, mesh), 0)
    limits = {limit: by.cut(8, 2, Sampling(T, prompts_per_call=limit)).prompts for limit in (0, 3, 8, 9)}
    assert limits == {0: 8, 3: 3, 8: 8, 9: 8}
    seeds = seeds_of(SHORT)
    found = by.generate(SHORT, 2, Sampling(T, prompts_per_call=3), seeds)
    assert np.array_equal(found.tokens, by.generate(SHORT, 2, Sampling(T), seeds).tokens)


def test_the_caches_are_split_over_heads_like_the_queries():
    """Otherwise each decoding step redistributes a cache or the scores over the tensor axis."""
    mesh = mesh_of(1, 1, 2)
    graphdef, params = decoder(mesh=mesh)
    _, lowered = JaxSampler(graphdef, mesh, STOPS, (16,), 4).lower(place(params, mesh), 4, Sampling(T))
    assert not any(" all-to-all(" in program.compile().as_text() for program in lowered)


def test_a_cut_is_the_largest_that_fits_on_a_mesh_too():
    whole = sampler((2, 2, 2)).cut(8, 40, Sampling(T))
    assert whole == Cut(4, 40, 0, 4)
    by = limited(sampler((2, 2, 2)).bytes_of(whole, 8, Sampling(T)) - 1, mesh_shape=(2, 2, 2))
    assert by.cut(8, 40, Sampling(T)) == Cut(2, 40, 0, 4)
    one = generate(SHORT, n=6, by=limited(needed(Cut(1, 1, 0, 1), 4), mesh_shape=(2, 1, 1)))
    assert np.array_equal(one.tokens, generate(SHORT, n=6).tokens)


def test_what_cannot_fit_is_refused_with_the_number_and_the_field():
    with pytest.raises(RolloutError, match=r"takes 0\.0 GB .* 0\.0 GB are left .*: lower batch.max_response_tokens"):
        generate(by=limited(1000))
    for left in (0, -1e9):  # shorter responses would not help
        with pytest.raises(RolloutError, match=r"no memory for sampling: .* mesh\.fsdp, or choose a smaller model"):
            jax_sampler.largest_cut(Cut(4, 2, 0, 1), lambda cut: 1.0, left)


@pytest.mark.parametrize("slots", fast_cases([0, 2], 0))
def test_decoding_in_pieces_changes_nothing(slots, monkeypatch):
    """One decoding step at a time, and all at once."""
    by = limited(None, slots)
    monkeypatch.setattr(jax_sampler, "PIECE_SECONDS", 1e9)
    at_once, pieces = generate(by=by), []
    monkeypatch.setattr(jax_sampler, "PIECE_SECONDS", 0.0)
    found = by.generate(PROMPTS, 3, Sampling(T), seeds_of(PROMPTS), advanced=lambda *piece: pieces.append(piece))
    assert same(found, at_once) and len(pieces) >= T
    shares, tokens = zip(*pieces)
    assert list(shares) == sorted(shares) and shares[-1] == pytest.approx(1)
    assert list(tokens) == sorted(tokens) and tokens[-1] == found.lengths.sum()


def test_what_the_report_raises_ends_the_sampling():
    """And the next call begins afresh."""

    def stop(share, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler().generate(PROMPTS, 3, Sampling(T), seeds_of(PROMPTS), advanced=stop)
    assert same(generate(), generate())


def test_a_longer_limit_goes_on_where_the_shorter_one_cut():
    short, long = generate(SHORT), generate(SHORT, max_tokens=T + 3)
    assert np.array_equal(long.tokens[..., :T], short.tokens)
    assert (long.lengths > T).any() and np.array_equal(np.minimum(long.lengths, T), short.lengths)


def test_the_bucket_of_a_prompt_does_not_matter():
    graphdef, params = decoder()
    wide = JaxSampler(graphdef, mesh_of(), STOPS, (16,), 4)
    wide.load(place(params, mesh_of()), 0)
    expected, found = generate(SHORT), generate(SHORT, by=wide)
    assert np.array_equal(found.tokens, expected.tokens)
    assert np.abs(found.logprobs - expected.logprobs).max() < 1e-5


@pytest.mark.parametrize("mesh_shape", fast_cases([(2, 1, 1), (8, 1, 1), (2, 2, 2)], (2, 2, 2)))
def test_devices_do_not_matter(mesh_shape):
    expected = generate(SHORT)
    found = generate(SHORT, by=sampler(mesh_shape, prompts_per_call=8))
    equal = (found.tokens == expected.tokens).all(-1)
    assert equal.mean() >= 0.9  # a draw may fall on the other side of a rounding error
    assert np.abs(found.logprobs - expected.logprobs)[equal].max() < 1e-4


def test_decoding_ends_with_the_longest_response(monkeypatch):
    steps, original = [], attention.decode_step

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return original(*args)

    monkeypatch.setattr(attention, "decode_step", counted)
    graphdef, params = decoder()
    counting = JaxSampler(graphdef, mesh_of(), STOPS, (4,), 4)
    counting.load(place(params, mesh_of()), 0)
    rollouts = generate(SHORT[:2], by=counting, max_tokens=400)
    jax.effects_barrier()
    assert rollouts.stopped.all() and 1 < rollouts.lengths.max() < 400
    assert len(steps) == 2 * (rollouts.lengths.max() - 1)  # in each of two layers


@pytest.mark.slow
def test_the_length_of_the_attended_cache_does_not_matter(monkeypatch, no_shared_programs):
    """Decoding attends to 4, 8, 16, then all 20 tokens of the cache, and gives the responses of one loop over 20."""
    made = []
    for shortest in (4, 20):
        monkeypatch.setattr(static_batching, "SHORTEST_CACHE", shortest)
        programs._programs.clear()
        graphdef, params = decoder()
        by = JaxSampler(graphdef, mesh_of(), (), (4,), 4)
        by.load(place(params, mesh_of()), 0)
        made.append((static_batching.cache_lengths(20), generate(SHORT, by=by, max_tokens=20)))
    (lengths, found), (whole, expected) = made
    assert (lengths, whole) == ([4, 8, 16, 20], [20])
    assert found.lengths.min() == 20
    assert np.array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)


def test_new_parameters_change_the_rollouts_and_the_version():
    first = generate()
    loaded = sampler()
    try:
        loaded.load(place(decoder(seed=1)[1], mesh_of()), 12)
        second = generate()
    finally:
        loaded.load(place(decoder()[1], mesh_of()), 11)
    assert (first.version, second.version) == (11, 12)
    assert all((first.tokens[p] != second.tokens[p]).any() for p in range(len(PROMPTS)))
    assert same(generate(), first)


def test_nothing_compiles_after_compile(no_shared_programs):
    expected = generate()
    programs._programs.clear()
    graphdef, params = decoder()
    by = JaxSampler(graphdef, mesh_of(), STOPS, (8, 4), 4)
    with contextlib.closing(CompilationCounter()) as counter:
        by.load(place(params, mesh_of()), 0)
        by.compile(PROMPTS, 3, Sampling(T, 1.0))
        made = counter.count
        assert made >= 2  # one program for each prompt bucket
        assert same(generate(by=by), expected)
        generate(PROMPTS[:3], temperature=0.5, seeds=seeds_of(PROMPTS[:3], step=9), by=by)
    assert counter.count == made


@pytest.mark.slow
def test_bfloat16_samples_from_nearly_the_same_distribution():
    rollouts = generate(SHORT, by=sampler(dtype="bfloat16"))
    tokens, logprobs = rows(rollouts)
    inside = logprobs != 0

    def gap(dtype):
        expected, _ = direct_logprobs(decoder(dtype)[0], decoder()[1], tokens, 1.0)
        return np.abs(expected - logprobs)[inside].mean()

    assert rollouts.logprobs.dtype == np.float32
    assert 1e-4 < gap("float32") < 0.1
    assert gap("bfloat16") < 0.1
