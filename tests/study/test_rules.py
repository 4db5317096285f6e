"""The rules of a study: peak, last, collapse time, survival, paired effects and verdicts, by hand and by simulation."""

import math

import numpy as np
import pytest

from srt_jax.study import rules
from srt_jax.study.rules import Claim, Effect

RISE_AND_FALL = [(5 * i, v) for i, v in enumerate([0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.7, 0.6, 0.3, 0.1, 0.0])]


def test_a_mean_of_five_evaluations_stands_at_the_last_of_them():
    found = rules.smoothed(RISE_AND_FALL)
    assert [step for step, _ in found] == [20, 25, 30, 35, 40, 45, 50]
    assert found[0][1] == pytest.approx(0.6) and found[-1][1] == pytest.approx(0.34)
    assert rules.smoothed([(0, 0.2), (5, 0.4)]) == [(5, pytest.approx(0.3))]


def test_peak_last_drop_best_and_area():
    assert rules.peak(RISE_AND_FALL) == pytest.approx(0.72)
    assert rules.last(RISE_AND_FALL) == pytest.approx(0.34)
    assert rules.drop(RISE_AND_FALL) == pytest.approx(0.38)
    assert rules.best(RISE_AND_FALL) == 0.8 and rules.start(RISE_AND_FALL) == 0.4
    assert rules.area([(0, 0.0), (10, 1.0), (30, 1.0)]) == pytest.approx(25 / 30)
    assert rules.area([(0, 0.4)]) == 0.4


def test_one_bad_evaluation_is_no_collapse():
    curve = [(i, 0.5) for i in range(20)]
    curve[10] = (10, 0.3)
    assert rules.collapse_time(curve) is None and rules.collapsed(curve) == 0.0
    curve[11] = (11, 0.3)
    # Two of five: 0.42 < 0.5 - 0.05.
    assert rules.collapse_time(curve) == 11 and rules.collapsed(curve) == 1.0
    assert rules.survived(curve) == 11 and rules.survived(curve[:11]) == 10


def test_the_collapse_time_counts_from_the_start_not_from_the_peak():
    assert rules.collapse_time(RISE_AND_FALL) == 50  # 0.34 < 0.35; at 45 the mean is 0.5


def test_values_between_evaluations():
    assert rules.at(RISE_AND_FALL, 5) == 0.5 and rules.at(RISE_AND_FALL, 7.5) == pytest.approx(0.55)
    assert math.isnan(rules.at(RISE_AND_FALL, 51)) and math.isnan(rules.at(RISE_AND_FALL, -1))


def test_survival_by_hand():
    assert rules.survival([10, None, 30, 10], 50) == [(0.0, 1.0), (10, 0.5), (30, 0.25), (50, 0.25)]
    assert rules.survival([None, None], 50) == [(0.0, 1.0), (50, 1.0)]
    assert rules.survival([50], 50) == [(0.0, 1.0), (50, 0.0)]


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [rules.paired_effect(rng.normal(0.3, 1.0, 3)) for _ in range(2000)]
    covered = np.mean([effect.low <= 0.3 <= effect.high for effect in found])
    assert 0.935 < covered < 0.965


def test_an_interval_of_three_seeds_by_hand():
    effect = rules.paired_effect([0.1, 0.2, 0.3, float("nan")])
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t at 0.975 with two degrees of freedom
    assert (effect.mean, effect.n) == (pytest.approx(0.2), 3)
    assert (effect.low, effect.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))


@pytest.mark.parametrize(
    ("low", "high", "sign", "threshold", "expected"),
    [
        (0.11, 0.3, 1, 0.1, "holds"),
        (0.09, 0.3, 1, 0.1, "undecided"),
        (0.01, 0.09, 1, 0.1, "fails"),
        (-0.3, -0.11, -1, 0.1, "holds"),
        (-0.09, 0.3, -1, 0.1, "fails"),
        (-0.3, 0.0, -1, 0.1, "undecided"),
        (-0.01, 0.01, -1, -0.02, "holds"),  # "does not rise by 0.02"
        (0.03, 0.05, -1, -0.02, "fails"),
    ],
)
def test_verdicts(low, high, sign, threshold, expected):
    assert rules.verdict(Effect((low + high) / 2, low, high, 3), sign, threshold) == expected


def test_a_single_seed_decides_nothing():
    assert rules.verdict(rules.paired_effect([0.9]), 1, 0.1) == "undecided"
    assert rules.verdict(rules.paired_effect([]), 1, 0.1) == "undecided"


def curves(seeds, **ends):
    """Straight lines from 0.4 to an end plus a hundredth of the seed."""
    return {
        (arm, "", seed): [(i, 0.4 + (end + seed / 100 - 0.4) * i / 20) for i in range(21)]
        for arm, end in ends.items()
        for seed in range(seeds)
    }


def test_claims_pair_the_seeds():
    found = curves(4, a=0.8, b=0.6)
    effect, verdict = rules.judge(Claim("c", "", "a", "b", threshold=0.1), found)
    # Between seeds the ends differ; within a pair the difference is the same each time.
    assert effect.n == 4 and effect.high - effect.low < 1e-9 and verdict == "holds"
    del found["b", "", 2]
    assert rules.judge(Claim("c", "", "a", "b"), found)[0].n == 3
    assert rules.judge(Claim("c", "", "b", "a", sign=-1, threshold=0.1), found)[1] == "holds"
    assert rules.judge(Claim("c", "", "a", "missing"), found)[1] == "undecided"


def test_claims_about_one_arm_compare_with_its_start():
    found = curves(3, a=0.8)
    assert rules.judge(Claim("c", "", "a", measure="best"), found)[0].mean == pytest.approx(0.41)
    assert rules.judge(Claim("c", "", "a", step=10), found)[0].mean == pytest.approx(0.205)
    assert rules.judge(Claim("c", "", "a", measure="drop"), found)[0].mean == 0.0
    assert rules.judge(Claim("c", "", "a", measure="collapsed"), found)[0].mean == 0.0


def test_regret_is_the_loss_from_stopping_at_the_peak_of_another_curve():
    """By hand: means of five of `curve` are 2, 3, 4, 3 at steps 4 to 7; the other curve peaks at step 7."""
    curve = [*enumerate([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -3.0])]
    assert rules.smoothed(curve) == [(4, 2.0), (5, 3.0), (6, 4.0), (7, 3.0)]
    rising = [(step, step / 10) for step in range(8)]
    assert rules.regret(curve, curve) == 0 and rules.regret(curve, rising) == 1.0
    claim = rules.Claim("g", "", "a", column="x", chosen_by="y", sign=-1, threshold=-1.5)
    curves = {("a", "", seed): curve for seed in range(3)}
    choosers = {("a", "", seed): rising for seed in range(2)}  # seed 2 has no curve to choose by
    effect, found = rules.judge(claim, curves, choosers)
    assert (effect.mean, effect.n, found) == (1.0, 2, "holds")
    assert rules.judge(claim, curves)[0].n == 0
