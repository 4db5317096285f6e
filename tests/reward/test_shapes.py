"""Each shape of the reward against a reference that counts the answers by itself."""

import collections
import math

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade
from srt_jax.reward.shapes import SHAPES
from tests.test_config_fields import valid_config

N, LIMIT = 8, 64
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
    entropy = -sum(c / N * math.log(c / N) for c in counts.values())
    return [0.0] * N if entropy >= math.log(N) - 1e-9 else soft_vote(answers, winner, counts, lengths)


@reference
def scrl_like(answers, winner, counts, lengths):
    first, second, *_ = *sorted(counts.values(), reverse=True), 0, 0
    found = []
    for a in answers:
        if a == winner:
            found.append(1.0 if first / N >= 0.375 and (first - second) / N >= 0.125 else 0.0)
        else:
            found.append(-1.0 if a is None or counts[a] / N < 0.125 else 0.0)
    return found


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
    yield ["1", "2", "3", "4", "5", "6", "7", "8"]  # all differ
    yield ["1"] * N
    yield ["1", "1", "1", "2", "2", "3", None, None]
    yield ["1", "1", "1", "2", "2", "2", None, "3"]  # a tie
    for _ in range(20):
        drawn = rng.choice(["1", "2", "3", "4", None], N, p=[0.4, 0.2, 0.15, 0.1, 0.15]).tolist()
        if any(drawn):
            yield drawn


def settings(shape, **fields):
    return LabelSettings(shape=shape, max_response_tokens=LIMIT, **fields)


def test_every_shape_but_the_random_one_has_a_reference():
    assert {*REFERENCES, "random"} == set(SHAPES)


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
    answers, lengths = ["1", "1", "1", "2", "2", "3", None, None], list(range(1, N + 1))
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
