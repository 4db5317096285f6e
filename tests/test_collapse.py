"""The detector on recorded runs of the miniature, the stop on validation, the validation split.

recorded/collapse.jsonl: the quickstart's label-free training, a run per line with its command and its metrics by step.
"""

import json
import pathlib

import numpy as np
import pytest

from srt_jax.data.base import Problem
from srt_jax.data.split import split_validation, uniform
from srt_jax.errors import DataError
from srt_jax.run.collapse import BASELINE, KL_FLOOR, WINDOW, Detector, should_stop

RECORDED = pathlib.Path(__file__).parent / "recorded" / "collapse.jsonl"
RUNS = {run["run"]: run for run in map(json.loads, RECORDED.read_text().splitlines())}


def records(name):
    run = {tag: values for tag, values in RUNS[name].items() if "/" in tag}
    return [dict(zip(run, values)) for values in zip(*run.values())]


def first_alarm(metrics, detector=None):
    """(step from 1, reason) of the first alarm, None where there is none."""
    detector = detector or Detector()
    return next(((step, reason) for step, m in enumerate(metrics, 1) if (reason := detector.update(m))), None)


def test_the_recorded_runs_are_what_their_names_say():
    true = {name: np.array(run["label/true_reward"]) for name, run in RUNS.items()}
    assert true["healthy"][-5:].mean() > true["healthy"][:5].mean() + 0.2
    assert true["late"][130:144].mean() > 0.9 and true["late"][-20:].mean() < 0.4
    for name in ("early", "warm"):
        assert true[name][:2].mean() > 0.35 and true[name][-5:].mean() < 0.1
    assert true["constant"][-10:].mean() < 0.1 and np.mean(RUNS["constant"]["label/pseudo_reward"][-10:]) > 0.95


def test_no_alarm_while_the_model_learns():
    assert first_alarm(records("healthy")) is None
    assert first_alarm(records("late")[:144]) is None  # its first 144 steps are a healthy run, three times as long
    for run, steps in (("healthy", 50), ("late", 144)):
        kl = RUNS[run]["update/kl"][:steps]
        assert max(np.convolve(kl, np.ones(WINDOW) / WINDOW, "valid")) < 0.8 * KL_FLOOR  # and by a margin


@pytest.mark.parametrize(("name", "by"), [("late", 149), ("warm", 11), ("early", 4)])
def test_the_alarm_comes_before_most_is_lost(name, by):
    step, reason = first_alarm(records(name))
    true = np.array(RUNS[name]["label/true_reward"])
    before, lowest = true[:step].max(), np.convolve(true[step:], np.ones(5) / 5, "valid").min()
    at_alarm = true[step - WINDOW : step].mean()
    assert step <= by
    assert "KL to the initial model jumped" in reason
    assert at_alarm - lowest > (before - lowest) / 2, (before, at_alarm, lowest)


def test_the_pseudo_reward_sees_nothing():
    """The reason for a detector: the reward stays high while the accuracy falls from 0.9 to 0.3."""
    late = RUNS["late"]
    reward, true = np.array(late["label/pseudo_reward"]), np.array(late["label/true_reward"])
    assert reward[100:140].mean() - reward[240:].mean() < 0.12
    assert true[100:140].mean() - true[240:].mean() > 0.6


def test_one_answer_to_everything_is_seen_without_a_kl():
    metrics = [{k: v for k, v in m.items() if k != "update/kl"} for m in records("constant")]
    step, reason = first_alarm(metrics)
    assert reason.endswith("(label/top_answer_share).")
    assert np.mean(RUNS["constant"]["label/top_answer_share"][step : step + 10]) < 0.8  # on its way, not there yet
    assert first_alarm([{"label/top_answer_share": m["label/top_answer_share"]} for m in records("late")]) is None


def test_few_possible_answers_are_no_collapse():
    """One of the answers yes and no always wins most votes. So the share of the first steps is the baseline."""
    shares = np.random.default_rng(0).choice([0.5, 0.5625, 0.625, 0.6875], 300)
    assert first_alarm([{"label/top_answer_share": share} for share in shares]) is None
    assert first_alarm([{"label/top_answer_share": s} for s in [0.6] * BASELINE + [0.9] * WINDOW]) is not None


def test_a_detector_fed_the_log_again_goes_on_as_before():
    metrics = [{"eval/heldout/avg@32": 0.5}, *records("late")]  # the record of step 0 holds no such metrics
    expected = first_alarm(metrics)
    for cut in (0, 1, 20, 147):
        resumed = Detector()
        for m in metrics[:cut]:
            resumed.update(m)
        step, reason = first_alarm(metrics[cut:], resumed)
        assert (step + cut, reason) == expected


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.45], 2, True),
        ([0.5, 0.4, 0.51], 2, False),
        ([0.3, 0.5, 0.4], 2, False),
        ([0.5, 0.1, 0.1], 0, False),
    ],
)
def test_patience(scores, patience, stops):
    history = [(10 * i, score) for i, score in enumerate(scores)]
    assert should_stop(history, patience) is stops
    assert should_stop(history[::-1], patience) is stops


# ---- the validation split


def problems(count, answered=True):
    return [Problem(f"p{i}", "?", "1" if answered else None, "test") for i in range(count)]


def test_validation_is_a_share_of_the_problems_drawn_by_their_ids():
    many = problems(1000)
    train, validation = split_validation(many, 0.01, seed=0)
    assert len(validation) == 10 and len(train) == 990
    assert sorted(p.id for p in train + validation) == sorted(p.id for p in many)
    assert [p for p in many if p in train] == train
    again = split_validation(many[::-1], 0.01, seed=0)[1]
    assert {p.id for p in again} == {p.id for p in validation}
    assert {p.id for p in split_validation(many, 0.01, seed=1)[1]} != {p.id for p in validation}
    assert {p.id for p in split_validation(many, 0.05, seed=0)[1]} > {p.id for p in validation}
    assert len(split_validation(problems(3), 0.01, seed=0)[1]) == 1


def test_only_problems_with_answers_validate():
    mixed = [*problems(50, answered=False), Problem("known", "?", "1", "test")]
    assert [p.id for p in split_validation(mixed, 0.01, seed=0)[1]] == ["known"]
    with pytest.raises(DataError, match=r"of 51 problems, 1 with an answer, it holds out 5"):
        split_validation(mixed, 0.1, seed=0)
    with pytest.raises(DataError, match="holds out 1"):
        split_validation(problems(1), 0.5, seed=0)


def test_draws_are_uniform_and_stay_the_same():
    draws = np.array([uniform(0, "validation", str(i)) for i in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1
    assert np.bincount((draws * 10).astype(int), minlength=10) == pytest.approx(400, abs=80)
    assert uniform(3, "labelled", "a") == 0.7467507381854127
