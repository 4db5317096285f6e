"""The measures of self-training against independent references, at their ends, and under permutation."""

import collections
import itertools
import math

import numpy as np
import pytest

from srt_jax.data.base import Problem
from srt_jax.reward import measures
from srt_jax.reward.labels import LabelSettings
from srt_jax.reward.rewards import grade

RNG = np.random.default_rng(0)


def drawn(p=6, n=8, kinds=4, seed=0):
    """Answers [p][n] as texts, None among them, drawn with another preference for each prompt."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(kinds + 1, n, p=rng.dirichlet(np.ones(kinds + 1))) for _ in range(p)]
    return [[None if k == 0 else str(k) for k in row] for row in rows]


def test_rates_and_correlation_against_a_contingency_table():
    reward, right = RNG.random((5, 7)) < 0.4, RNG.random((5, 7)) < 0.6
    table = collections.Counter(zip(right.ravel().tolist(), reward.ravel().tolist()))
    tpr = table[True, True] / (table[True, True] + table[True, False])
    fpr = table[False, True] / (table[False, True] + table[False, False])
    values = reward.astype(np.float32)
    assert measures.true_positive_rate(values, right) == pytest.approx(tpr)
    assert measures.false_positive_rate(values, right) == pytest.approx(fpr)
    assert measures.youden_j(values, right) == pytest.approx(tpr - fpr)
    # The phi coefficient is the correlation of two binary variables.
    a, b, c, d = (table[key] for key in itertools.product((True, False), repeat=2))
    phi = (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    assert measures.point_biserial(values, right) == pytest.approx(phi)


def test_the_correlation_of_a_soft_reward_is_pearsons():
    reward, right = RNG.random(40).astype(np.float32), RNG.random(40) < 0.5
    expected = np.corrcoef(reward, right)[0, 1]
    assert measures.point_biserial(reward, right) == pytest.approx(expected, abs=1e-6)


def test_undefined_measures_are_nan():
    none, both = np.zeros((2, 2), bool), np.array([[True, False]])
    assert math.isnan(measures.true_positive_rate(np.ones((2, 2)), none))
    assert math.isnan(measures.false_positive_rate(np.ones((2, 2)), ~none))
    assert math.isnan(measures.youden_j(np.ones((2, 2)), none))
    assert math.isnan(measures.point_biserial(np.ones((1, 2)), both))
    assert math.isnan(measures.point_biserial(np.full((1, 2), 0.1, np.float32), both))
    assert math.isnan(measures.pass_at_n(np.zeros((0, 4), bool)))
    assert math.isnan(measures.same_answer([["1", "2"]]))


def test_pass_at_n_counts_prompts():
    right = np.array([[0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]], bool)
    assert measures.pass_at_n(right) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_answer_information_is_the_divergence_of_the_joint_from_its_margins(seed):
    keys = drawn(seed=seed)
    kinds = sorted({str(key) for row in keys for key in row})
    joint = np.array([[[str(key) for key in row].count(kind) for kind in kinds] for row in keys], float)
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    expected = (joint[seen] * np.log(joint[seen] / product[seen])).sum()
    assert measures.answer_information(keys) == pytest.approx(expected, abs=1e-12)


def test_answer_information_at_its_ends():
    assert measures.answer_information([["7"] * 4] * 5) == 0.0  # one answer everywhere
    assert measures.answer_information([[None] * 4] * 5) == 0.0
    assert measures.answer_information([["7", None]] * 5) == pytest.approx(0.0, abs=1e-12)
    assert measures.answer_information([[str(p)] * 4 for p in range(5)]) == pytest.approx(math.log(5))
    # Giving up on half of the prompts is an answer of its own.
    assert measures.answer_information([["1"] * 4, [None] * 4]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(4))
def test_same_answer_by_counting_all_pairs(seed):
    keys = drawn(seed=seed)
    pairs = [a == b for i, j in itertools.permutations(range(len(keys)), 2) for a in keys[i] for b in keys[j]]
    assert measures.same_answer(keys) == pytest.approx(np.mean(pairs))


def test_label_free_measures_do_not_see_the_order():
    keys = drawn(seed=9)
    shuffled = [list(np.random.default_rng(1).permutation(np.array(row, object))) for row in keys[::-1]]
    for measure in (measures.answer_information, measures.same_answer):
        assert measure(shuffled) == pytest.approx(measure(keys), abs=1e-12)


def test_excess():
    assert measures.excess(0.1, 0.1) == 0.0 and measures.excess(1.0, 0.1) == 1.0
    assert measures.excess(0.05, 0.1) < 0 and math.isnan(measures.excess(1.0, 1.0))


def test_answers_of_different_prompts_are_compared_by_their_group(grader):
    answers = [["1/2", "0.5", None, "3"], ["0.50", "7", "", "7.0"]]
    keys = measures.answer_keys(answers, grader.groups(answers))
    assert keys[0][0] == keys[0][1] and keys[0][2] is None and keys[1][2] is None
    assert keys[1][1] == keys[1][3] != keys[0][3]
    # The first text of a group stands for it: of 1/2 and 0.50 the canonical texts may differ.
    assert len({*keys[0]}) == len({*keys[1]}) == 3


def test_measures_of_a_step(grader):
    problems = [Problem("a", "a", "4", "t"), Problem("b", "b", "5", "t"), Problem("c", "c", None, "t")]
    answers = [["4", "4", "5", None], ["4", "4", "4", "5"], ["4", "4", "1", "2"]]

    def graded(**settings):
        return [grade(p, a, grader, LabelSettings("vote", **settings)) for p, a in zip(problems, answers)]

    found = measures.of_step(graded())
    # Right rollouts: two of a, rewarded, and one of b, not rewarded. Wrong: two of a, not, and three of b, rewarded.
    assert found["label/tpr"] == pytest.approx(2 / 3) and found["label/fpr"] == pytest.approx(3 / 5)
    assert found["label/youden_j"] == pytest.approx(2 / 3 - 3 / 5)
    assert found["label/pass@n"] == 1.0
    assert found["label/margin"] == pytest.approx(np.mean([1 / 4, 2 / 4, 1 / 4]))
    assert found["label/same_answer"] == pytest.approx(measures.same_answer(answers))
    assert found["label/answer_information"] == pytest.approx(measures.answer_information(answers))
    two = measures.of_step(graded(trained_samples=2))  # four vote, two are trained on
    assert two["label/tpr"] == 1.0 and two["label/fpr"] == 1.0 and two["label/margin"] == found["label/margin"]
    assert math.isnan(measures.of_step(graded(threshold=0.99))["label/tpr"])


def test_flip_table_against_a_loop():
    rng = np.random.default_rng(5)
    base, now, share = (
        rng.random(200) < 0.5,
        rng.random(200) < 0.5,
        rng.choice([0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0], 200),
    )
    same = np.where(base & now, True, ~base & ~now & (rng.random(200) < 0.5))
    table = measures.flip_table(base, now, same, share)
    expected = collections.Counter()
    for b, n, s, c in zip(base, now, same, share):
        kind = ("right" if b else "wrong") + ("_right" if n else "_wrong" if b else "_same" if s else "_other")
        expected[("low" if c < 1 / 3 else "middle" if c < 2 / 3 else "high"), kind] += 1
    for name, row in zip(("low", "middle", "high"), table):
        kinds = ("right_right", "right_wrong", "wrong_right", "wrong_other", "wrong_same")
        assert [getattr(row, kind) for kind in kinds] == [expected[name, kind] for kind in kinds]
        assert row.problems == sum(getattr(row, kind) for kind in kinds)
    assert sum(row.problems for row in table) == 200


def test_pass_at_k_crossing():
    base = {1: 0.2, 2: 0.4, 4: 0.6, 8: 0.8}
    assert measures.pass_at_k_crossing(base, {1: 0.5, 2: 0.5, 4: 0.5, 8: 0.5}) == pytest.approx(2 * 2**0.5)
    assert measures.pass_at_k_crossing(base, {k: v + 0.1 for k, v in base.items()}) is None
    assert measures.pass_at_k_crossing(base, {k: v - 0.1 for k, v in base.items()}) is None
    assert measures.pass_at_k_crossing(base, {1: 0.3, 2: 0.4, 16: 0.4}) == pytest.approx(2.0)


def test_kl_apart_is_the_exact_divergence_in_expectation():
    rng, size = np.random.default_rng(7), 200_000
    policies = {
        False: (np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])),
        True: (np.array([0.9, 0.1, 0.0]), np.array([0.3, 0.3, 0.4])),
    }
    answer = rng.random(size) < 0.25
    tokens = np.where(answer, rng.choice(3, size, p=policies[True][0]), rng.choice(3, size, p=policies[False][0]))
    now, reference = (np.log(np.where(answer, policies[True][i][tokens], policies[False][i][tokens])) for i in (0, 1))
    response = rng.random(size) < 0.9
    found = measures.kl_apart(now, reference, response, answer)
    for kl, (p, q) in zip(found, (policies[True], policies[False])):
        # k3 is unbiased where the reference has no mass outside of the policy's support.
        seen = p > 0
        exact = (p[seen] * np.log(p[seen] / q[seen])).sum() + q[seen].sum() - 1
        assert kl == pytest.approx(exact, rel=0.03)
    assert math.isnan(measures.kl_apart(now, reference, response, np.zeros(size, bool))[0])
