import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from srt_jax.rl import losses
from srt_jax.rl.advantages import dr_grpo, grpo, reinforce, rloo


def literal_rloo(returns):
    advantages = np.zeros(returns.shape)
    for p, row in enumerate(returns):
        for i in range(len(row)):
            others = [row[j] for j in range(len(row)) if j != i]
            advantages[p, i] = row[i] - sum(others) / len(others)
    return advantages


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-5, 5)))
def test_rloo_is_the_leave_one_out_double_loop(returns):
    np.testing.assert_allclose(rloo(returns), literal_rloo(returns), atol=1e-12)


def test_rloo_of_equal_returns_is_zero_and_of_shifted_ones_the_same():
    returns = np.array([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_allclose(rloo(returns)[0], [2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert (rloo(returns)[1] == 0).all()
    np.testing.assert_allclose(rloo(returns + 7), rloo(returns), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-5, 5)))
def test_grpo_divides_by_the_sample_s_deviation_and_dr_grpo_does_not(returns):
    for row, centred, scaled in zip(returns, dr_grpo(returns), grpo(returns)):
        mean = sum(row) / len(row)
        deviation = np.sqrt(sum((r - mean) ** 2 for r in row) / (len(row) - 1))
        np.testing.assert_allclose(centred, [r - mean for r in row], atol=1e-12)
        np.testing.assert_allclose(scaled, [(r - mean) / (deviation + 1e-6) for r in row], atol=1e-4)


def test_the_kl_estimates_average_to_the_divergence():
    """k1 and k3 are unbiased under the policy, k2 is not; all vanish where the distributions agree."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    divergence = (p * np.log(p / q)).sum()
    mean = {name: float((p * np.asarray(f(np.log(p), np.log(q)))).sum()) for name, f in losses.KL_ESTIMATES.items()}
    assert mean["k1"] == pytest.approx(divergence, rel=1e-5) and mean["k3"] == pytest.approx(divergence, rel=1e-5)
    assert mean["k2"] == pytest.approx((p * 0.5 * np.log(p / q) ** 2).sum(), rel=1e-5) != pytest.approx(divergence)
    assert all(float(np.abs(f(np.log(p), np.log(p))).max()) == 0 for f in losses.KL_ESTIMATES.values())


def test_reinforce_takes_the_returns_as_they_are():
    returns = np.array([[1.0, -2.0]])
    assert (reinforce(returns) == returns).all()


def test_k3_is_the_difference_of_exponential_and_tangent():
    p, q = np.array([[-1.0, -2.0, -0.5]]), np.array([[-1.0, -1.5, -3.5]])
    np.testing.assert_allclose(losses.k3(p, q), np.exp(q - p) - (q - p) - 1, rtol=1e-6)
    assert losses.k3(p, q)[0, 0] == 0
    assert (np.asarray(losses.k3(p, q)) >= 0).all()


@pytest.mark.parametrize("difference", [3.0, 100.0, -11.5, -1000.0])
def test_k3_of_a_token_never_exceeds_ten(difference):
    assert np.exp(min(difference, 50)) - difference - 1 > 10
    assert losses.k3(np.float32(0), np.float32(difference)) == 10


def test_k3_averages_to_the_divergence():
    """Under the policy's own samples E[k3] = KL(policy || reference), here without the clamp's reach."""
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    divergence = (policy * np.log(policy / reference)).sum()
    assert (policy * losses.k3(np.log(policy), np.log(reference))).sum() == pytest.approx(divergence, rel=1e-6)


def test_policy_gradient_is_minus_advantage_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    logprobs, advantages = rng.normal(size=(3, 5)).astype(np.float32), np.array([1.5, 0.0, -2.0], np.float32)
    value = losses.policy_gradient(jnp.asarray(logprobs), advantages)
    gradient = jax.grad(lambda x: losses.policy_gradient(x, advantages).sum())(jnp.asarray(logprobs))
    expected = np.broadcast_to(-advantages[:, None], (3, 5))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


MASK = np.array([[0, 1, 1, 1, 0, 0],
                 [0, 0, 1, 0, 0, 0],
                 [0, 0, 0, 0, 0, 0],  # no label: counts nowhere
                 [0, 1, 1, 0, 0, 0]], np.float32)
MAX_RESPONSE_TOKENS = 4
TERMS = np.arange(24.0).reshape(4, 6)


def literal_aggregation(terms, mask, aggregation):
    sums, means, tokens = [], [], []
    for row, inside in zip(terms, mask):
        chosen = [x for x, m in zip(row, inside) if m]
        if chosen:
            sums.append(sum(chosen))
            means.append(sum(chosen) / len(chosen))
            tokens += chosen
    return {
        "token-mean": sum(tokens) / len(tokens),
        "seq-mean-token-sum": sum(sums) / len(sums),
        "seq-mean-token-mean": sum(means) / len(means),
        "seq-mean-token-sum-norm": sum(sums) / len(sums) / MAX_RESPONSE_TOKENS,
    }[aggregation]


AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def aggregate(terms, mask, aggregation):
    weights, denominator = losses.token_weights(mask, aggregation, MAX_RESPONSE_TOKENS)
    return float((terms * weights).sum() / denominator)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregation_is_the_literal_mean(aggregation):
    expected = literal_aggregation(TERMS, MASK, aggregation)
    assert aggregate(TERMS, MASK, aggregation) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregation_does_not_see_padding(aggregation):
    wide = np.pad(MASK, ((0, 0), (0, 10)))
    terms = np.pad(TERMS, ((0, 0), (0, 10)), constant_values=99)
    assert aggregate(terms, wide, aggregation) == pytest.approx(aggregate(TERMS, MASK, aggregation), rel=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nothing_labelled_gives_a_zero_denominator_and_zero_weights(aggregation):
    weights, denominator = losses.token_weights(np.zeros((3, 4), np.float32), aggregation, MAX_RESPONSE_TOKENS)
    assert denominator == 0
    assert (np.asarray(weights) == 0).all()
