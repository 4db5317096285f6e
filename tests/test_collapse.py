"""The detector on recorded runs of the miniature, the stop on validation, the validation split.

recorded/collapse.jsonl: the quickstart's label-free training, a run per line with its command and its metrics by step.
"""

import json
import pathlib
import statistics

import numpy as np
import pytest

from srt_jax.data.base import Problem
from srt_jax.data.split import split_validation, uniform
from srt_jax.errors import DataError
from srt_jax.reward.measures import answer_information, information_by_prompt
from srt_jax.run import collapse
from srt_jax.run.collapse import (
    BASELINE,
    KL_FLOOR,
    WINDOW,
    Detector,
    Reading,
    fallen,
    fallen_apart,
    should_stop,
)

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


# ---- the rule on readings


def reference(values, least):
    """`fallen`, from its definition: no arrays, no running state."""
    found = []
    for k in range(len(values)):
        windows = [values[max(0, j - 2) : j + 1] for j in range(k + 1)]
        means = [[sum(column) / len(window) for column in zip(*window)] for window in windows]
        peak = max(means, key=sum)  # the first of equal ones
        gap = [high - now for high, now in zip(peak, values[k])]
        mean = sum(gap) / len(gap)
        error = (sum((g - mean) ** 2 for g in gap) / (len(gap) - 1) / len(gap)) ** 0.5
        found.append(mean > 3 * error and mean > least * sum(peak) / len(peak))
    return found


def series(kind, seed, prompts=64, samples=8, readings=40):
    """[K, P]: agreement by prompt. It rises over the first third, and from step 20 on a collapse takes 10 readings."""
    rng = np.random.default_rng(seed)
    start, at = rng.beta(6, 3, prompts), np.arange(readings)[:, None]
    share = start + 0.3 * (1 - start) * np.minimum(1, at * 3 / readings)
    if kind == "late riser":
        share = start + 0.5 * (1 - start) * np.clip((at - 25) / 10, 0, 1)
    if kind == "noisy":  # each prompt drifts up and down
        share = share + 0.06 * np.cumsum(rng.normal(size=(readings, prompts)), 0) / np.sqrt(readings)
    if kind == "gradual":
        share = share * np.clip(1 - (at - 20) / 10, 0.02, 1)
    if kind == "sudden":
        share = np.where(at < 20, share, 0.02)
    return rng.binomial(samples, np.clip(share, 0, 1)) / samples


def alarm_on(values, information=None):
    """(index of the first reading with an alarm, the detector at that reading); (None, the detector) if none alarms."""
    detector = Detector()
    for k, row in enumerate(values):
        other = np.ones(20) if information is None else information[k]
        if detector.read(Reading(10 * k, row, other)):
            return k, detector
    return None, detector


@pytest.mark.parametrize("kind", ["healthy", "late riser", "noisy", "gradual", "sudden"])
def test_readings_fall_as_in_the_definition(kind):
    for seed, prompts in ((0, 2), (1, 9), (2, 64)):
        # Without ties, which rounding would decide.
        values = series(kind, seed, prompts) + 1e-3 * np.random.default_rng(seed).random((40, prompts))
        for least in (0.0, 0.05, 0.5):
            assert fallen(values, least).tolist() == reference(values.tolist(), least)


def test_readings_on_different_prompts_fall_as_in_the_definition():
    rng = np.random.default_rng(0)
    values = [rng.normal(0.0 if k < 6 else -0.8, 0.3, size=rng.integers(8, 20)) for k in range(12)]
    expected = []
    for k, now in enumerate(values):
        pools = [[x for part in values[max(0, j - 2) : j + 1] for x in part] for j in range(k + 1)]
        peak = max(pools, key=statistics.fmean)
        error = (statistics.variance(peak) / len(peak) + statistics.variance(now) / len(now)) ** 0.5
        gap = statistics.fmean(peak) - statistics.fmean(now)
        expected.append(gap > 3 * error and gap > 0.05)
    assert fallen_apart(values, 0.05).tolist() == expected and expected == [False] * 6 + [True] * 6


@pytest.mark.parametrize("kind", ["healthy", "late riser", "noisy"])
def test_runs_without_a_collapse_raise_no_alarm(kind):
    found = [alarm_on(series(kind, seed))[0] for seed in range(40)]
    assert found.count(None) >= 39, found


def test_fewer_errors_below_a_plain_maximum_would_raise_false_alarms(monkeypatch):
    """The reason for the two constants that differ from two standard errors below the maximum."""
    many = [series("noisy", seed, readings=100) for seed in range(20)]
    assert sum(alarm_on(values)[0] is not None for values in many) <= 1
    monkeypatch.setattr(collapse, "ERRORS", 2.0)
    monkeypatch.setattr(collapse, "SMOOTHED", 1)
    monkeypatch.setattr(collapse, "AGREEMENT_LOST", 0.0)
    assert sum(alarm_on(values)[0] is not None for values in many) >= 8


@pytest.mark.parametrize(("kind", "latest"), [("gradual", 25), ("sudden", 22)])
def test_a_collapse_raises_an_alarm_and_the_choice_is_from_before_it(kind, latest):
    for seed in range(20):
        k, detector = alarm_on(series(kind, seed))
        assert 22 <= k <= latest
        assert "agreement with the base's majority fell" in detector.alarm
        chosen = detector.choice(last=10 * k)
        assert chosen.step == detector.peak() <= 210 and "anchored agreement" in chosen.rule


def test_the_choice_is_the_highest_reading_of_the_peak():
    detector = Detector()
    for step, share in enumerate([0.5, 0.6, 0.74, 0.79, 0.62, 0.3, 0.2, 0.1]):
        detector.read(Reading(step, np.full(20, share), np.ones(20)))
        assert detector.peak() in detector.needed()
    # The mean of the last three is highest at step 4, where the agreement has begun to fall.
    assert detector.alarm and detector.choice(7).step == 3
    assert detector.needed() == {3, 6, 7}


def test_after_a_sign_in_the_steps_the_choice_is_from_before_it():
    detector = Detector()
    for step in range(1, 31):
        detector.update({"label/top_answer_share": 0.1 if step < 25 else 0.9})
    assert detector.alarm and not detector.falls()
    assert detector.choice(30, kept=[0, 10, 20, 28, 30]).step == 20
    assert detector.choice(30, kept=[28, 30]).step == 30


def test_the_choice_of_a_healthy_run_is_its_last_step():
    _, detector = alarm_on(series("healthy", 0))
    assert detector.choice(last=395).step == 395
    assert Detector().choice(7).step == 7


def test_a_detector_that_gets_the_recorded_readings_goes_on_as_before():
    values = series("gradual", 3)
    k, expected = alarm_on(values)
    for cut in (0, 1, 20, k):
        rows = json.loads(json.dumps([Reading(10 * i, row, np.ones(20)).as_json() for i, row in enumerate(values)]))
        resumed = Detector(readings=[Reading.from_json(row) for row in rows[:cut]])
        found = [resumed.read(Reading.from_json(row)) for row in rows[cut : k + 1]]
        assert found == [None] * (k - cut) + [expected.alarm]
        np.testing.assert_array_equal(resumed.readings[-1].agreement, values[k])


def test_information_decides_if_the_base_is_sure_of_too_few_prompts():
    rng = np.random.default_rng(0)
    few, high = rng.random((12, 7)), 3 + 0.1 * rng.random((12, 20))
    assert alarm_on(few, high)[0] is None
    low = np.where(np.arange(12)[:, None] < 5, high, 0.5)
    k, detector = alarm_on(few, low)
    assert k == 7 and "answer information fell from" in detector.alarm
    assert alarm_on(rng.random((12, 7)), low[:, :7])[0] is None  # too few prompts for any reading
    sure = np.full((12, 8), 0.9)
    assert alarm_on(sure, low)[0] is None  # the agreement decides


def test_the_signs_in_the_steps_decide_only_without_agreement():
    steps = records("early")
    anchored, alone = Detector(), Detector()
    anchored.read(Reading(0, np.full(8, 0.9), np.ones(20)))
    alone.read(Reading(0, np.full(7, 0.9), np.ones(20)))
    assert first_alarm(steps, anchored) is None
    assert first_alarm(steps, alone) == first_alarm(steps)


def test_information_by_prompt_adds_up():
    rng = np.random.default_rng(0)
    keys = [[None if key == 5 else str(key) for key in row] for row in rng.integers(0, 6, (11, 7))]
    assert information_by_prompt(keys).mean() == pytest.approx(answer_information(keys))
    assert information_by_prompt([["1"] * 4] * 3) == pytest.approx(0)
    assert information_by_prompt([["1", "1"], ["2", "2"]]) == pytest.approx(np.log(2))


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
