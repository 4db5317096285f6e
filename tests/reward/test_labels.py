import math

import numpy as np
import pytest

from srt_jax.data.base import Problem
from srt_jax.grading.grader import Grader
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.measures import metrics
from srt_jax.reward.rewards import true_rewards
from tests.helpers import graded_together

NAN = float("nan")


def problem(name, answer=None, **fields):
    return Problem(name, f"problem {name}", answer, "test", **fields)


PROBLEMS = [problem("right", "4"), problem("unknown"), problem("silent", "7"), problem("wrong", "9")]
ANSWERS = [
    ["4", "4", "5", None],
    ["1", "2", "2", "2"],
    [None, "", None, None],
    ["8", "8.0", "9", "3"],
]


def entropy(*counts):
    return -sum(count / sum(counts) * math.log(count / sum(counts)) for count in counts)


@pytest.fixture
def graded(grader):
    def grade(source="vote", threshold=0.0, problems=PROBLEMS, answers=ANSWERS, by=grader):
        return graded_together(problems, answers, by, LabelSettings(source, threshold))

    return grade


def test_votes(graded):
    result = graded()
    assert result.labels == ["4", "2", None, "8"]
    assert result.labelled.tolist() == [True, True, False, True]
    assert result.rewards.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert (result.rewards.dtype, result.labelled.dtype) == (np.float32, bool)
    assert result.groups[3] == [0, 0, 1, 2]
    np.testing.assert_array_equal(result.true_rewards, [[1, 1, 0, 0], [NAN] * 4, [0, 0, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(result.majority_correct, [1, NAN, 0, 0])
    np.testing.assert_array_equal(result.label_correct, [1, NAN, NAN, 0])


def test_ground_truth(graded):
    result = graded("ground_truth")
    assert result.labels == ["4", None, "7", "9"]
    assert result.labelled.tolist() == [True, False, True, True]
    assert result.rewards.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(result.majority_correct, [1, NAN, 0, 0])
    np.testing.assert_array_equal(result.label_correct, [1, NAN, 1, 1])


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [
        (0.5, ["4", "2", None, "8"]),
        (0.51, [None, "2", None, None]),
        (0.75, [None, "2", None, None]),
        (0.76, [None] * 4),
    ],
)
def test_a_label_needs_its_share_of_all_samples(graded, threshold, labels):
    result = graded(threshold=threshold)
    assert result.labels == labels
    assert result.labelled.tolist() == [label is not None for label in labels]
    assert not result.rewards[~result.labelled].any()
    np.testing.assert_array_equal(result.majority_correct, [1, NAN, 0, 0])  # of the winner, label or not


def test_ties_go_to_the_earliest_sample(graded):
    result = graded(problems=[problem("a", "5")], answers=[["3", "5", "5", "3"]])
    assert (result.labels, result.rewards.tolist()) == (["3"], [[1, 0, 0, 1]])
    assert result.majority_correct.tolist() == [0]
    assert metrics(result.parts)["label/ties"] == 1


def test_string_votes_split_what_is_equal(graded):
    with Grader(workers=1, match="string") as by_string:
        result = graded(by=by_string)
    assert result.labels[3] == "8"
    assert result.rewards[3].tolist() == [1, 0, 0, 0]


def test_metrics_by_hand(graded):
    expected = {
        "pseudo_reward": 7 / 12,  # right, unknown, wrong
        "agreement": 7 / 12,
        "true_reward": 3 / 12,  # right, silent, wrong
        "majority_accuracy": 1 / 3,
        "majority_gain": 1 / 3 - 3 / 12,
        "label_accuracy": 1 / 2,
        "reward_accuracy": 5 / 8,  # right, wrong
        "labelled": 3 / 4,
        "from_answers": 0,
        "informative": 3 / 4,
        "vote_share": 1.75 / 4,
        "vote_share_parsed": (2 / 3 + 3 / 4 + 0 + 1 / 2) / 4,
        "ties": 0,
        "parse_rate": 11 / 16,
        "distinct_answers": 7 / 4,
        "top_answer_share": 1 / 4,
        "tpr": 2 / 3,  # right: 4, 4 rewarded, 9 not
        "fpr": 2 / 5,  # wrong: 8, 8.0 rewarded; 5, None and 3 not
        "youden_j": 4 / 15,
        "point_biserial": 15**-0.5,
        "pass@n": 2 / 3,
        "margin": (1 / 4 + 2 / 4 + 0 + 1 / 4) / 4,
        "answer_information": entropy(2, 1, 5, 1, 3, 2, 1, 1)
        - (entropy(2, 1, 1) + entropy(1, 3) + 0 + entropy(2, 1, 1)) / 4,
        "same_answer": (1 / 4) / 6,  # None of the first and the third prompt, of six pairs of prompts
    }
    found = metrics(graded().parts)
    assert found.keys() == {f"label/{name}" for name in expected}
    for name, value in expected.items():
        assert found[f"label/{name}"] == pytest.approx(value), name


def test_metrics_of_ground_truth(graded):
    found = metrics(graded("ground_truth").parts)
    assert found["label/label_accuracy"] == found["label/reward_accuracy"] == 1
    assert found["label/pseudo_reward"] == found["label/true_reward"] == pytest.approx(3 / 12)


def test_metrics_without_any_label_or_known_answer(graded):
    found = metrics(graded(problems=[problem("a"), problem("b")], answers=[[None, None], ["", None]]).parts)
    for name in ("true_reward", "majority_accuracy", "majority_gain", "label_accuracy", "reward_accuracy"):
        assert math.isnan(found[f"label/{name}"]), name
    for name in ("pseudo_reward", "labelled", "vote_share", "parse_rate", "distinct_answers", "top_answer_share"):
        assert found[f"label/{name}"] == 0, name


def test_one_answer_to_everything_shows_as_top_answer_share(graded):
    problems = [problem(str(i), str(i)) for i in range(4)]
    found = metrics(graded(problems=problems, answers=[["1", "1"]] * 4).parts)
    assert (found["label/top_answer_share"], found["label/vote_share"], found["label/true_reward"]) == (1, 1, 0.25)


def test_reasoning_gym_problems_are_scored_by_their_task(graded, grader):
    import reasoning_gym

    config = {"seed": 1, "size": 2}
    entries = list(reasoning_gym.create_dataset("basic_arithmetic", **config))
    known = [
        problem(str(i), entry["answer"], metadata={"task": "basic_arithmetic", "config": config, "entry": entry})
        for i, entry in enumerate(entries)
    ]
    mixed = [known[0], problem("plain", "1/2"), known[1]]
    answers = [[entries[0]["answer"], "nonsense"], ["0.5", "2"], [None, entries[1]["answer"]]]
    expected = [[1, 0], [1, 0], [0, 1]]
    assert [true_rewards(*row, grader).tolist() for row in zip(mixed, answers)] == expected
    result = graded("ground_truth", problems=mixed, answers=answers)
    assert result.rewards.tolist() == expected
    assert result.labelled.all()


def test_votes_by_string_and_rewards_by_equivalence_are_two_knobs():
    """As in the released code: 1/2 does not vote for 0.5, and is rewarded when 0.5 wins."""
    answers = [["0.5", "1/2", "0.5", "2"]]
    with Grader(workers=1, match="string") as grader:
        strict = graded_together([problem("0", "0.5")], answers, grader, LabelSettings(match="string"))
        mixed = graded_together([problem("0", "0.5")], answers, grader, LabelSettings(match="equivalent"))
    assert strict.votes[0].share == mixed.votes[0].share == 0.5
    assert strict.rewards.tolist() == [[1, 0, 1, 0]] and mixed.rewards.tolist() == [[1, 1, 1, 0]]


def test_a_task_that_scores_without_an_answer_still_gives_ground_truth(graded):
    """As graph_color and rush_hour: the scorer alone knows what is right."""
    import reasoning_gym

    config = {"seed": 1, "size": 1}
    entry = reasoning_gym.create_dataset("basic_arithmetic", **config)[0]
    metadata = {"task": "basic_arithmetic", "config": config, "entry": entry}
    result = graded("ground_truth", problems=[problem("0", None, metadata=metadata)], answers=[[entry["answer"], "x"]])
    assert result.true_rewards.tolist() == result.rewards.tolist() == [[1, 0]]
    assert result.labelled.all()
