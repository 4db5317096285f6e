"""Each shape of the reward against a reference that counts the answers by itself."""

import collections
import hashlib
import math
import statistics

import numpy as np
import pytest
from ml_collections import ConfigDict

from srt_jax.config import base, fields
from srt_jax.config.validation import VOTED, validate
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade, standardised, with_confidence
from srt_jax.reward.shapes import SHAPES
from tests.test_config_fields import valid_config

N, LIMIT = 16, 64
REFERENCES = {}


def reference(function):
    """Registers a reference (answers, winner, counts, lengths) -> rewards."""
    REFERENCES[function.__name__] = function
    return function


@reference
def agreement(answers, winner, counts, lengths):
    return [float(a == winner) for a in answers]


@reference
def soft_vote(answers, winner, counts, lengths):
    return [counts[a] / N if a else 0.0 for a in answers]


@reference
def empo(answers, winner, counts, lengths):
    """EMPO at c5eccd4: each response without an answer is a cluster of its own, and gets 0."""
    clusters = collections.Counter(a if a else f"none {i}" for i, a in enumerate(answers))
    entropy = -sum(c / N * math.log(c / N) for c in clusters.values())
    gate = entropy < math.log(N) - 1e-9
    return [clusters[a] / N if a and gate else 0.0 for a in answers]


@reference
def scrl_like(answers, winner, counts, lengths):
    """SCRL at 06535a1 in its binary form, for tokens of equal entropy: every rare answer is a negative one."""
    first, second, *_ = *sorted(counts.values(), reverse=True), 0, 0
    label = winner if first / N >= 0.375 and first / N - second / N > 0.125 else None
    return [-1.0 if not a or (a != label and counts[a] / N < 0.125) else float(a == label) for a in answers]


@reference
def restrain_like(answers, winner, counts, lengths):
    weight = {a: math.exp(-2 * (c / N - 1) ** 2) for a, c in counts.items()}
    return [weight[a] / sum(weight.values()) if a else 0.0 for a in answers]


@reference
def minority_penalty(answers, winner, counts, lengths):
    return [0.0 if a == winner else -1.0 for a in answers]


@reference
def format(answers, winner, counts, lengths):
    return [float(a is not None) for a in answers]


@reference
def brevity(answers, winner, counts, lengths):
    return [1 - length / LIMIT for length in lengths]


def cases():
    rng = np.random.default_rng(0)
    yield [str(i) for i in range(N)]  # all differ
    yield [*map(str, range(N - 1)), None]  # no two agree, and one has no answer
    yield ["1"] * N
    yield ["1"] * 6 + ["2"] * 4 + ["3"] * 2 + [None] * 4  # a lead of 2 / 16 is not clear
    yield ["1"] * 6 + ["2"] * 3 + ["3"] + [None] * 6  # one of 3 / 16 is
    yield ["1"] * 6 + ["2"] * 6 + [None] * 2 + ["3"] * 2  # a tie
    for k in range(60):
        different = 2 + k % 20
        texts, chances = [*map(str, range(different)), None], [0.85 / different] * different + [0.15]
        drawn = rng.choice(texts, N, p=chances).tolist()
        if any(drawn):
            yield drawn


def literally_mixed(parts, mixture):
    """[n]: the weighted sum of the standardised rewards."""
    total = [0.0] * len(next(iter(parts.values())))
    for name, values in parts.items():
        if len(set(values)) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            total = [t + mixture[name] * (v - mean) / (deviation + 1e-6) for t, v in zip(total, values)]
    return total


def test_values_that_differ_by_rounding_are_equal():
    near = np.float32([16.0, 16.000002, 16.0, 15.999999])
    assert (standardised(near) == 0).all()
    assert np.abs(standardised(np.float32([16.0, 16.01]))).min() > 0.7


def settings(shape, **fields):
    return LabelSettings(shape=shape, max_response_tokens=LIMIT, **fields)


def test_every_shape_but_the_random_one_has_a_reference():
    assert {*REFERENCES, "random"} == set(SHAPES) == set(fields.SHAPES)


@pytest.mark.parametrize("shape", REFERENCES)
def test_a_shape_is_its_equation(shape, grader):
    lengths = np.random.default_rng(1).integers(1, LIMIT + 1, N).tolist()
    for answers in cases():
        counts = collections.Counter(a for a in answers if a)
        winner = max(counts, key=lambda a: (counts[a], -answers.index(a)))
        found = grade(Problem("p", "?", None, "test"), answers, grader, settings(shape), lengths)
        expected = REFERENCES[shape](answers, winner, counts, lengths)
        np.testing.assert_allclose(found.rewards, expected, atol=1e-6, err_msg=str(answers))
        assert found.label.text == winner  # whatever the shape, the metrics use the vote


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_does_not_depend_on_the_order_of_the_samples(shape, grader):
    answers, lengths = ["1", "1", "1", "2", "2", "3", None, None], list(range(1, 9))
    order = [0, 3, 1, 7, 2, 4, 6, 5]  # the first sample stays, because it wins ties
    problem = Problem("p", "?", None, "test")
    straight = grade(problem, answers, grader, settings(shape), lengths).rewards
    mixed = grade(problem, [answers[i] for i in order], grader, settings(shape), [lengths[i] for i in order]).rewards
    if shape == "random":  # its coins belong to the places
        np.testing.assert_array_equal(mixed, straight)
    else:
        np.testing.assert_allclose(mixed, straight[order], atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_known_answer_changes_no_reward(shape, grader):
    answers = ["1", "1", "2", "2", "2", "3", None, None]
    blind, right, wrong = (
        grade(Problem("p", "?", gold, "test"), answers, grader, settings(shape)).rewards for gold in (None, "2", "9")
    )
    np.testing.assert_array_equal(blind, right)
    np.testing.assert_array_equal(blind, wrong)


def test_random_rewards_are_fair_coins_of_seed_problem_and_sample(grader):
    def coins(id, seed):
        return grade(Problem(id, "?", None, "t"), ["1"] * 1000, grader, settings("random", seed=seed)).rewards

    one = coins("a", 0)
    digests = [hashlib.blake2b(f"0/coin/a/{i}".encode(), digest_size=8).digest() for i in range(1000)]
    np.testing.assert_array_equal(one, [float(digest[0] < 128) for digest in digests])  # by the first bit
    np.testing.assert_array_equal(one, coins("a", 0))
    assert set(one.tolist()) == {0.0, 1.0} and abs(one.mean() - 0.5) < 0.05
    for other in (coins("b", 0), coins("a", 1)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_a_prompt_without_a_label_gets_no_reward(grader):
    for shape in SHAPES:
        found = grade(Problem("p", "?", None, "test"), ["1", "2", None], grader, settings(shape, threshold=0.5))
        assert not found.labelled and not found.rewards.any(), shape


def test_a_shape_needs_votes():
    config = valid_config()
    config.reward.shape, config.labels.source = "empo", "ground_truth"
    with pytest.raises(ConfigError, match=r"^reward\.shape is 'empo', which needs no label, but labels\.source"):
        validate(config)
    config.labels.source = "vote"
    validate(config)
    assert LabelSettings.of(config).shape == "empo" and LabelSettings.of(base()).shape == "agreement"


@pytest.mark.parametrize("shape", [*fields.SHAPES, *fields.CONFIDENCES])
def test_the_vote_of_one_sample_is_refused_for_each_shape_that_reads_it(shape):
    config = valid_config()
    config.batch.samples_per_prompt = config.batch.microbatch_sequences = 1
    config.rl.advantage, config.reward.shape = "reinforce", shape
    if shape in ("random", "format", "brevity", *fields.CONFIDENCES):
        assert shape not in VOTED
        validate(config)
        return
    message = r"^batch\.samples_per_prompt is 1, and a single sample always agrees with its own vote: give more, or set"
    with pytest.raises(ConfigError, match=message):
        validate(config)
    config.batch.votes_per_prompt = 8
    validate(config)


MIXTURE = {"agreement": 1.0, "brevity": -0.5, "scrl_like": 0.25, "mean_logprob": 2.0}


def test_a_mixture_is_the_weighted_sum_of_standardised_rewards(grader):
    rng = np.random.default_rng(2)
    for trained in (N, 5):
        mixed = settings("agreement", mixture=MIXTURE, trained_samples=trained, overlong_buffer=16)
        for answers in cases():
            lengths, confidence = rng.integers(1, LIMIT + 1, N).tolist(), rng.normal(size=trained).astype(np.float32)
            counts = collections.Counter(a for a in answers if a)
            winner = max(counts, key=lambda a: (counts[a], -answers.index(a)))
            parts = {name: REFERENCES[name](answers, winner, counts, lengths)[:trained] for name in list(MIXTURE)[:3]}
            parts["mean_logprob"] = confidence.astype(np.float64).tolist()
            graded = grade(Problem("p", "?", None, "test"), answers, grader, mixed, lengths)
            found = with_confidence(graded, {"mean_logprob": confidence}, mixed)
            expected = np.zeros(N)
            expected[:trained] = literally_mixed(parts, MIXTURE)
            np.testing.assert_allclose(found.shaped, expected, rtol=0, atol=1e-6, err_msg=str(answers))
            penalty = np.clip((LIMIT - 16 - np.array(lengths)) / 16, -1, 0)
            np.testing.assert_allclose(found.rewards, expected + penalty, rtol=0, atol=1e-6)
            assert abs(found.shaped[:trained].mean()) < 1e-6


def test_a_mixture_needs_a_label_only_for_rewards_that_read_answers(grader):
    problem, answers, confidence = Problem("p", "?", None, "test"), [None] * 4, np.arange(4, dtype=np.float32)
    for others, labelled in (({"sum_logprob": 1.0}, True), ({"format": 1.0}, False)):
        mixed = settings("agreement", mixture={"mean_logprob": 1.0, **others})
        values = {name: confidence for name in mixed.mixture if name != "format"}
        found = with_confidence(grade(problem, answers, grader, mixed), values, mixed)
        assert found.labelled == labelled == bool(found.rewards.any())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward.mixture": {"agreement": 1.0}},
            r"^reward\.mixture is \{'agreement': 1\.0\}, which has a single reward",
        ),
        (
            {"reward.mixture": {"agreement": 1, "votes": 1}},
            r"^reward\.mixture has 'votes', which is no reward: choose some",
        ),
        ({"reward.mixture": {"agreement": 1, "empo": None}}, r"^reward\.mixture\.empo is None: give a number"),
        ({"reward.mixture": {"agreement": 1, "empo": True}}, r"^reward\.mixture\.empo is True: give a number"),
        (
            {"reward.mixture": {"agreement": 1, "empo": 0.0}},
            r"^reward\.mixture\.empo is 0\.0: give a number other than 0",
        ),
        (
            {"reward.mixture": {"agreement": 1, "empo": 1}, "reward.shape": "format"},
            r"^reward\.mixture is .*, but reward\.shape is 'format': put it into the mixture",
        ),
        (
            {"reward.mixture": {"agreement": 1, "empo": 1}, "labels.source": "ground_truth"},
            r"^reward\.mixture has 'empo', which needs votes, but labels\.source is 'ground_truth'",
        ),
        (
            {"reward.mixture": {"mean_logprob": 1, "self_certainty": 1}, "labels.source": "ground_truth"},
            r"which does not use the labels of labels\.source 'ground_truth': add 'agreement'",
        ),
        (
            {"reward.mixture": {"agreement": 1, "empo": float("nan")}},
            r"^reward\.mixture\.empo is nan: it must be a finite number",
        ),
        (
            {
                "reward.mixture": {"agreement": 1, "empo": -1},
                "batch.samples_per_prompt": 1,
                "batch.votes_per_prompt": 8,
                "batch.microbatch_sequences": 1,
                "rl.advantage": "reinforce",
            },
            r"^batch\.samples_per_prompt is 1, but reward\.mixture compares the samples of a prompt: give at least 2",
        ),
        (
            {"reward.mixture": {"agreement": 1, "self_certainty": 1}, "batch.resample_rounds": 1},
            r"but the reward 'self_certainty' is known only after sampling",
        ),
    ],
)
def test_a_wrong_mixture_is_refused(changes, message):
    config = valid_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_a_mixture_may_contain_the_known_answers():
    config = valid_config()
    config.reward.mixture = ConfigDict({"agreement": 1, "self_certainty": 0.5})
    config.labels.source = "ground_truth"
    validate(config)
    assert LabelSettings.of(config).mixture == {"agreement": 1.0, "self_certainty": 0.5}
