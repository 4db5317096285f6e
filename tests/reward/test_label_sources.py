"""Soft votes, labels from a file, mixed labels, none; which samples are trained on; lengths and rewards."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.config.validation import validate
from srt_jax.config.versions import FORMAT
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError, DataError
from srt_jax.grading.grader import Grader
from srt_jax.reward import labels, rewards
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.measures import metrics
from srt_jax.run.identity import check_same_run
from tests.helpers import graded_together
from tests.test_config_fields import valid_config

PROBLEMS = [
    Problem("a", "?", "0.5", "test"),
    Problem("b", "?", "7", "test"),
    Problem("c", "?", None, "test"),
    Problem("d", "?", "3", "test"),
]
ANSWERS = [
    ["1/2", "0.5", "3", "0.5"],
    ["8", "8", "7", None],
    ["1", "2", "2", "4"],
    [None, "", None, None],
]


def graded(grader, *args, problems=PROBLEMS, answers=ANSWERS, **fields):
    return graded_together(problems, answers, grader, LabelSettings(*args, **fields))


def assert_same(one, two):
    for field in dataclasses.fields(one):
        np.testing.assert_equal(getattr(one, field.name), getattr(two, field.name), err_msg=field.name)


# ---- soft votes


def test_a_soft_vote_is_the_share_of_ones_own_group(grader):
    result = graded(grader, shape="soft_vote")
    np.testing.assert_array_equal(
        result.rewards, [[0.75, 0.75, 0.25, 0.75], [0.5, 0.5, 0.25, 0], [0.25, 0.5, 0.5, 0.25], [0] * 4]
    )
    assert result.labels == ["1/2", "8", "2", None]
    assert result.labelled.tolist() == [True, True, True, False]
    found = metrics(result.parts)
    assert found["label/label_accuracy"] == 0.5
    assert found["label/reward_accuracy"] == pytest.approx(1 - np.mean([0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.75, 0]))
    assert not graded(grader, shape="soft_vote", threshold=0.6).rewards[1:].any()  # below the threshold: no label


def test_soft_string_votes_rewarded_by_equivalence_count_every_spelling():
    """As in the released code: 0.5 and 1/2 are two candidates, and either answer agrees with both."""
    with Grader(workers=1, match="string") as by_string:
        strict = graded(by_string, shape="soft_vote", match="string")
        loose = graded(by_string, shape="soft_vote", match="equivalent")
    np.testing.assert_array_equal(strict.rewards[0], [0.25, 0.5, 0.25, 0.5])
    np.testing.assert_array_equal(loose.rewards[0], [0.75, 0.75, 0.25, 0.75])
    np.testing.assert_array_equal(loose.rewards[1:], strict.rewards[1:])


# ---- labels from a file


def test_a_filed_label_rewards_its_group(grader):
    result = graded(grader, "file", labels_by_id={"a": "\\frac12", "b": "7.0", "c": "9"})
    assert result.labels == ["\\frac12", "7.0", "9", None]
    assert result.rewards.tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [0] * 4, [0] * 4]
    assert result.labelled.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(result.label_correct, [1, 1, np.nan, np.nan])
    np.testing.assert_array_equal(result.majority_correct, [1, 0, np.nan, 0])  # of the vote, which only watches


def write_labels(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config_of(path, **fields):
    config = base()
    config.labels.source, config.labels.path = "file", path
    config.labels.update(fields)
    return config


def test_a_label_file_is_read_once_with_its_threshold(tmp_path):
    path = write_labels(
        tmp_path / "labels.jsonl",
        {"provenance": {"seed": 0}},
        {"id": "a", "label": "1/2", "vote_share": 0.75},
        {"id": "b", "label": None, "vote_share": 0.0},
        {"id": "c", "label": "2", "vote_share": 0.5},
    )
    assert LabelSettings.of(config_of(path)).labels_by_id == {"a": "1/2", "c": "2"}
    settings = LabelSettings.of(config_of(path, threshold=0.6))
    assert settings.labels_by_id == {"a": "1/2"} and settings.match == "equivalent"
    assert labels.describe(PROBLEMS, settings) == "labels: file: 1 of 4 problems"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no labels"),
        ([{"id": "a"}], "line 1 has label None: give a string, or null"),
        ([{"id": 3, "label": "1"}], "line 1 has id 3"),
        ([{"id": "a", "label": "1"}, {"id": "a", "label": "2"}], "line 2 labels 'a' again"),
        ([{"id": "a", "label": "1"}, [1]], r"line 2 is \[1\]"),
        ([{"id": "a", "label": "1"}], "labels.threshold needs vote_share of all problems, but 'a'"),
    ],
)
def test_mistakes_in_a_label_file_are_one_sentence(tmp_path, rows, message):
    path = write_labels(tmp_path / "labels.jsonl", *rows)
    with pytest.raises(DataError, match=message):
        LabelSettings.of(config_of(path, threshold=0.5))


SOURCES = ("vote", "ground_truth", "file", "mixed", "ema", "wrong")


@pytest.mark.parametrize(
    ("field", "value", "user"),
    [
        ("labels.path", "f.jsonl", "file"),
        ("labels.labelled_fraction", 0.1, "mixed"),
        ("data.labelled_column", "seen", "mixed"),
        ("labels.ema_rate", 0.5, "ema"),
    ],
)
def test_a_field_of_another_source_is_refused(field, value, user):
    """Otherwise a run that names a teacher's labels, but not their source, trains on votes."""
    for source in SOURCES:
        config = valid_config()
        config.labels.path = "f.jsonl" if source == "file" else ""
        config.labels.source = source
        config.update_from_flattened_dict({field: value})
        if source == user:
            validate(config)
            continue
        message = (
            rf"^{field} is '?{value}'?, but labels\.source is '{source}', which does not use it: set labels"
            rf".*, and resume an older run with --allow_change={field.split('.')[0]}\.$"
        )
        with pytest.raises(ConfigError, match=message):
            validate(config)
        validate(config, recorded=True)
        there = {"config": config.to_dict()}
        section, name = field.split(".")
        config[section][name] = base()[section][name]
        found = check_same_run({"identity": there, "format": FORMAT}, {"config": config.to_dict()}, "run", [section])
        assert [name for name, _, _ in found] == [field]


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"labels.source": "ground_truth"}, r"labels\.source is 'ground_truth', which takes no vote"),
        (
            {"labels.source": "none", "rl.objective": "cross_entropy", "rl.kl_coef": 0.0},
            r"labels\.source is 'none', which takes no vote",
        ),
        ({"reward.shape": "self_certainty"}, "a reward from the confidence needs no label"),
    ],
)
def test_a_threshold_without_votes_is_refused(fields, cause):
    config = valid_config()
    config.update_from_flattened_dict(fields)
    validate(config)
    config.labels.threshold = 0.5
    with pytest.raises(ConfigError, match=rf"^labels\.threshold is 0\.5, but {cause}: set it to 0\.0"):
        validate(config)
    for source in ("vote", "mixed", "ema"):
        config = valid_config()
        config.labels.source, config.labels.threshold = source, 0.5
        validate(config)


def test_a_label_file_must_exist_and_be_whole(tmp_path):
    with pytest.raises(DataError, match=r"does not exist: write it with python -m srt_jax label"):
        LabelSettings.of(config_of(str(tmp_path / "none")))
    with pytest.raises(DataError, match=r"the label file .* is a folder: name the file in it, or write one with"):
        LabelSettings.of(config_of(str(tmp_path)))
    (tmp_path / "half").write_text('{"id": "a", "label": "1"}\n{"id": "b", "la')
    with pytest.raises(DataError, match="line 2 is the last one and looks half-written"):
        LabelSettings.of(config_of(str(tmp_path / "half")))


# ---- mixed, none


def test_mixed_by_a_column(grader):
    problems = [dataclasses.replace(p, labelled=flag) for p, flag in zip(PROBLEMS, (False, True, True, None))]
    result = graded(grader, "mixed", problems=problems)
    assert result.sources == ["vote", "ground_truth", "vote", "vote"]  # c is to be trusted, but has no answer
    assert result.labels == ["1/2", "7", "2", None]
    assert result.rewards.tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 1, 0], [0] * 4]
    np.testing.assert_array_equal(result.label_correct, [1, 1, np.nan, np.nan])
    assert metrics(result.parts)["label/from_answers"] == 0.25
    settings = LabelSettings("mixed")
    assert labels.describe(problems, settings) == "labels: mixed: 1 of 4 problems"
    with pytest.raises(DataError, match=r"'mixed', but no problem is labelled: set labels\.labelled_fraction"):
        labels.describe(PROBLEMS, settings)


def test_mixed_by_a_fraction_is_a_draw_of_each_problem():
    many = [Problem(str(i), "?", "1", "test") for i in range(2000)]
    chosen = {
        seed: [LabelSettings("mixed", labelled_fraction=0.3, seed=seed).source_of(p) == "ground_truth" for p in many]
        for seed in (0, 1)
    }
    for flags in chosen.values():
        assert np.mean(flags) == pytest.approx(0.3, abs=0.04)
    assert np.corrcoef(chosen[0], chosen[1])[0, 1] == pytest.approx(0, abs=0.1)
    more = [LabelSettings("mixed", labelled_fraction=0.5).source_of(p) == "ground_truth" for p in many]
    assert all(m for m, flag in zip(more, chosen[0]) if flag)  # a larger fraction adds problems


def test_without_labels_everything_is_trained_on(grader):
    result = graded(grader, "none")
    assert result.labelled.all() and (result.rewards == 1).all() and result.labels == [None] * 4
    found = metrics(result.parts)
    assert np.isnan(found["label/label_accuracy"]) and np.isnan(found["label/reward_accuracy"])
    assert found["label/majority_accuracy"] == pytest.approx(1 / 3)  # the vote is watched all the same
    assert found["label/informative"] == 0


def test_a_wrong_label_is_the_most_frequent_wrong_answer(grader):
    result = graded(grader, "wrong")
    assert result.labels == ["3", "8", None, None] and result.sources == ["wrong"] * 4
    np.testing.assert_array_equal(result.rewards[:2], [[0, 0, 1, 0], [1, 1, 0, 0]])
    assert result.labelled.tolist() == [True, True, False, False]
    found = metrics(result.parts)
    assert found["label/label_accuracy"] == 0 and found["label/tpr"] == 0
    assert graded(grader, "wrong", threshold=0.3).labels == [None, "8", None, None]
    rng = np.random.default_rng(0)
    for _ in range(20):
        answers = rng.choice(["1", "2", "3", "4", None], 8).tolist()
        counts = collections.Counter(a for a in answers if a not in (None, "2"))
        label = max(counts, key=lambda a: (counts[a], -answers.index(a)), default=None)
        one = graded(grader, "wrong", problems=[Problem("p", "?", "2", "test")], answers=[answers])
        assert one.labels == [label]
        assert one.rewards[0].tolist() == [float(a is not None and a == label) for a in answers]


def test_wrong_labels_need_known_answers():
    with pytest.raises(DataError, match=r"labels\.source is 'wrong', but no problem has an answer: set data\.answer_"):
        labels.describe(PROBLEMS[2:3], LabelSettings("wrong"))
    assert labels.describe(PROBLEMS, LabelSettings("wrong")) == "labels: wrong: 3 of 4 problems"


def test_ground_truth_without_answers_is_refused():
    with pytest.raises(DataError, match=r"set data\.answer_column"):
        labels.describe([PROBLEMS[2]], LabelSettings("ground_truth"))
    assert labels.describe(PROBLEMS, LabelSettings("ground_truth")).endswith("3 of 4 problems")
    assert labels.describe(PROBLEMS, LabelSettings()) == "labels: vote"
    with pytest.raises(DataError, match="labels none of the problems"):
        labels.describe(PROBLEMS, LabelSettings("file", labels_by_id={"x": "1"}))


# ---- how answers are compared with a label


def test_verify_is_directed_and_tolerant(grader):
    """3.14 is right for \\pi, which is not right for 3.14: only the first may be rounded."""
    problems, answers = [Problem("a", "?", None, "test")], [["3.14", "\\pi", "\\pi", None]]
    exact = graded(grader, problems=problems, answers=answers)
    verified = graded(grader, match="verify", problems=problems, answers=answers)
    assert exact.labels == verified.labels == ["\\pi"]
    assert exact.rewards.tolist() == [[0, 1, 1, 0]] and verified.rewards.tolist() == [[1, 1, 1, 0]]
    problems, answers = [*problems, Problem("b", "?", None, "test")], [*answers, [None] * 4]
    both = graded(grader, match="verify", problems=problems, answers=answers)
    assert both.rewards.tolist() == [[1, 1, 1, 0], [0] * 4]


# ---- which samples are trained on


def test_all_vote_and_the_first_are_trained_on(grader):
    """TTRL: the label of four samples, though the first two would vote otherwise."""
    problems, answers = [Problem("a", "?", "8", "test")], [["7", "8", "8", None]]
    result = graded(grader, problems=problems, answers=answers, trained_samples=2)
    assert result.labels == ["8"] and result.rewards.tolist() == [[0, 1, 1, 0]] and result.parts[0].trained == 2
    found = metrics(result.parts)
    assert found["label/pseudo_reward"] == found["label/agreement"] == 0.5  # of the trained samples
    assert found["label/reward_accuracy"] == 1 and found["label/informative"] == 1
    assert found["label/vote_share"] == found["label/true_reward"] == 0.5  # of all
    assert found["label/parse_rate"] == 0.75
    everything = metrics(graded(grader, problems=problems, answers=[["7", "8", "7", "7"]]).parts)
    assert everything["label/pseudo_reward"] == 0.75


@pytest.mark.parametrize(
    ("shaped", "trained", "expected"),
    [
        ([1, 1, 1], 3, False),
        ([0, 0, 0], 3, False),
        ([1, 0, 1], 3, True),
        ([0.5, 0.5, 0.25], 3, True),
        ([0.5, 0.5, 0.25], 2, False),
    ],
)
def test_the_shaped_rewards_of_the_trained_samples_are_compared(grader, shaped, trained, expected):
    (one,) = graded(grader, problems=PROBLEMS[:1], answers=[["1", "2", "3"]]).parts
    one = dataclasses.replace(one, shaped=np.array(shaped, np.float32), trained=trained)
    assert rewards.shaped_rewards_differ(one) is expected
    unlabelled = dataclasses.replace(one, labelled=False)  # a user's reward may differ there, but the loss discards it
    assert rewards.shaped_rewards_differ(unlabelled) is False


# ---- lengths


def test_overlong_penalty_is_dapo_equation_13():
    lengths = np.arange(1, 21).reshape(4, 5)
    found = rewards.overlong_penalty(lengths, max_tokens=20, buffer=8)
    for length, penalty in zip(lengths.flat, found.flat):
        expected = 0.0 if length <= 12 else ((20 - 8) - length) / 8
        assert penalty == pytest.approx(expected, abs=1e-7), length
    assert found.shape == lengths.shape and found.dtype == np.float32
    assert found[3, 4] == -1  # as long as it may be
    assert not rewards.overlong_penalty(lengths, 20, 0).any()


def test_the_penalty_is_in_the_reward_and_not_in_the_agreement(grader):
    settings = LabelSettings(overlong_buffer=8, max_response_tokens=20, drop_truncated=True)
    lengths = np.array([[4, 16, 20, 20], [4, 12, 13, 20], [1, 2, 3, 4], [20] * 4])
    stopped = lengths < 20
    plain = graded_together(PROBLEMS, ANSWERS, grader)
    found = graded_together(PROBLEMS, ANSWERS, grader, settings, lengths.tolist(), stopped.tolist())
    np.testing.assert_array_equal(found.rewards, [[1, 0.5, -1, 0], [1, 1, -0.125, -1], [0, 1, 1, 0], [-1] * 4])
    np.testing.assert_array_equal(found.kept, stopped)
    for one, other in zip(found.parts, plain.parts):
        assert_same(dataclasses.replace(one, rewards=other.rewards, kept=other.kept), other)
    measured, unshaped = metrics(found.parts), metrics(plain.parts)
    assert measured.pop("label/pseudo_reward") == pytest.approx(found.rewards[:3].mean())  # the fourth has no label
    assert measured.pop("label/agreement") == unshaped.pop("label/pseudo_reward") == unshaped.pop("label/agreement")
    assert measured == unshaped  # reward accuracy, too
    evaluated = graded_together(PROBLEMS, ANSWERS, grader, LabelSettings(), lengths.tolist(), stopped.tolist())
    for one, other in zip(evaluated.parts, plain.parts):
        assert_same(one, other)


def test_the_shaping_of_a_config_reaches_the_rewards():
    config = base()
    assert LabelSettings.of(config) == LabelSettings(match="equivalent", max_response_tokens=3072, trained_samples=32)
    config.reward.overlong_buffer, config.reward.drop_truncated, config.batch.max_response_tokens = 5, True, 100
    settings = LabelSettings.of(config)
    assert (settings.overlong_buffer, settings.drop_truncated, settings.max_response_tokens) == (5, True, 100)


def test_truncated_responses_are_kept_or_not():
    stopped = np.array([[True, False], [False, True]])
    assert rewards.kept(stopped, drop_truncated=True).tolist() == stopped.tolist()
    assert rewards.kept(stopped, drop_truncated=False).all()
