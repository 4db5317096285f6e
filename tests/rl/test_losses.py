import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from srt_jax.rl import losses
from srt_jax.rl.advantages import (
    PER_ROLLOUT,
    dr_grpo,
    grpo,
    reinforce,
    reinforce_baseline,
    returns_to_come,
    rloo,
    whiten,
)


def literal_rloo(returns):
    advantages = np.zeros(returns.shape)
    for p, row in enumerate(returns):
        for i in range(len(row)):
            others = [row[j] for j in range(len(row)) if j != i]
            advantages[p, i] = row[i] - sum(others) / len(others)
    return advantages


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, st.sampled_from([(1, 2), (3, 5)]), elements=st.floats(-5, 5)))
def test_rloo_is_the_leave_one_out_double_loop(returns):
    np.testing.assert_allclose(rloo(returns), literal_rloo(returns), rtol=1e-6, atol=1e-6)  # float32


def test_rloo_of_equal_returns_is_zero_and_of_shifted_ones_the_same():
    returns = np.array([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_allclose(rloo(returns)[0], [2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert (rloo(returns)[1] == 0).all()
    np.testing.assert_allclose(rloo(returns + 7), rloo(returns), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float64, st.sampled_from([(1, 2), (3, 5)]), elements=st.floats(-5, 5)))
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
    slope = jax.grad(lambda p: losses.k3(p, q).sum())(np.array([[-1.0, -2.0, -100.0]]))  # exp(96.5) overflows
    np.testing.assert_allclose(slope, [[0.0, 1 - np.exp(0.5), 0.0]], rtol=1e-6)


@pytest.mark.parametrize("difference", [3.0, 100.0, -11.5, -1000.0])
def test_k3_of_a_token_never_exceeds_ten(difference):
    assert np.exp(min(difference, 50)) - difference - 1 > 10
    assert losses.k3(np.float32(0), np.float32(difference)) == 10


def test_k3_averages_to_the_divergence():
    """Under the policy's own samples E[k3] = KL(policy || reference), here without the clamp's reach."""
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    divergence = (policy * np.log(policy / reference)).sum()
    assert (policy * losses.k3(np.log(policy), np.log(reference))).sum() == pytest.approx(divergence, rel=1e-6)


def test_reinforce_with_baseline_subtracts_the_mean_of_what_is_trained_on():
    rng = np.random.default_rng(0)
    returns, trained = rng.normal(size=(3, 4)).astype(np.float32), rng.random((3, 4)) < 0.6
    chosen = [returns[p, i] for p in range(3) for i in range(4) if trained[p, i]]
    assert 0 < len(chosen) < 12
    np.testing.assert_allclose(reinforce_baseline(returns, trained), returns - sum(chosen) / len(chosen), rtol=1e-5)
    assert np.isfinite(reinforce_baseline(returns, np.zeros((3, 4), bool))).all()


def test_reinforce_pp_is_the_reward_less_the_kl_to_come_whitened_over_tokens():
    rng = np.random.default_rng(1)
    rewards, mask = rng.normal(size=3).astype(np.float32), rng.random((3, 5)) < 0.7
    kl = (rng.exponential(size=(3, 5)) * mask).astype(np.float32)
    to_come = np.zeros((3, 5))
    for b in range(3):
        for t in range(5):
            to_come[b, t] = rewards[b] - 0.1 * sum(kl[b, u] for u in range(t, 5))
    by_token, one_each = np.repeat(rewards[:, None], 5, 1), np.repeat(np.arange(3)[:, None], 5, 1)
    np.testing.assert_allclose(returns_to_come(by_token, kl, 0.1, one_each), to_come, rtol=1e-5)
    in_a_row = returns_to_come(by_token.reshape(1, 15), kl.reshape(1, 15), 0.1, one_each.reshape(1, 15))
    np.testing.assert_allclose(in_a_row.reshape(3, 5), to_come, rtol=1e-5)
    chosen = to_come[mask]
    expected = (to_come - chosen.mean()) / np.sqrt(chosen.var() + 1e-8)
    found = np.asarray(whiten(jnp.asarray(to_come, jnp.float32), jnp.asarray(mask, jnp.float32)))
    np.testing.assert_allclose(found[mask], expected[mask], rtol=1e-5, atol=1e-6)


def test_whitening_nothing_stays_finite():
    assert np.isfinite(whiten(jnp.ones((2, 3)), jnp.zeros((2, 3)))).all()


# ---- equal values have no advantage, whatever float32 makes of their mean

UNEVEN = (0.9, 0.1, 0.7, 1 / 3, 21 / 64, 1 - 0.3, -0.6)  # soft votes, penalties for length


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", [name for name in PER_ROLLOUT if name != "reinforce"])
def test_equal_returns_have_no_advantage(name, jitted):
    estimator = jax.jit(PER_ROLLOUT[name]) if jitted else PER_ROLLOUT[name]
    for n in (2, 3, 16, 32, 64):
        trained = np.ones((1, n), bool)
        for value in UNEVEN:
            assert (np.asarray(estimator(jnp.full((1, n), value, jnp.float32), trained)) == 0).all(), (value, n)


def test_float32_means_of_equal_values_are_not_those_values():
    """Why the estimators ask: 64 times 0.9 gave GRPO an advantage of 0.19 for every sample."""
    returns = jnp.full((1, 64), 0.9, jnp.float32)
    difference = returns - returns.mean(1, keepdims=True)
    assert np.abs(difference / (jnp.std(returns, ddof=1) + 1e-6)).max() > 0.1


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo", "reinforce_pp_baseline"])
def test_a_prompt_of_equal_returns_leaves_the_others_alone(name):
    returns = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    every = np.ones((3, 64), bool)
    expected = np.asarray(PER_ROLLOUT[name](jnp.asarray(returns), every))
    returns[1] = 0.9
    found = np.asarray(PER_ROLLOUT[name](jnp.asarray(returns), every))
    assert (found[1] == 0).all()
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


def test_equal_values_among_those_trained_on_whiten_to_zero():
    for value in UNEVEN:
        values, mask = np.full((4, 50), value, np.float32), np.ones((4, 50), np.float32)
        assert (np.asarray(whiten(jnp.asarray(values), jnp.asarray(mask))) == 0).all(), value
        values[0, :10], mask[0, :10] = 5.0, 0.0  # not trained on
        assert (np.asarray(whiten(jnp.asarray(values), jnp.asarray(mask)))[mask > 0] == 0).all(), value
        baseline = np.asarray(reinforce_baseline(jnp.asarray(values), mask > 0))
        assert (baseline[mask > 0] == 0).all() and (baseline[mask == 0] > 0).all(), value


@pytest.mark.parametrize("name", [name for name in PER_ROLLOUT if name != "reinforce"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_equal_returns_that_are_not_finite_do_not_pass_as_zero(name, value):
    found = PER_ROLLOUT[name](jnp.full((2, 4), value, jnp.float32), np.ones((2, 4), bool))
    assert not np.isfinite(found).any()


def literal_ppo(logprobs, old, advantages, low, high):
    """PPO's surrogate, token by token: (loss, its derivative with respect to the log-prob)."""
    loss, slope = np.zeros(logprobs.shape), np.zeros(logprobs.shape)
    for at in np.ndindex(logprobs.shape):
        ratio, A = np.exp(logprobs[at] - old[at]), advantages[at]
        bounded = min(max(ratio, 1 - low), 1 + high)
        loss[at] = -min(ratio * A, bounded * A)
        slope[at] = -ratio * A if ratio * A <= bounded * A else 0.0
    return loss, slope


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28)])
def test_ppo_is_the_lower_of_the_free_and_the_bounded_surrogate(low, high):
    rng = np.random.default_rng(0)
    old = rng.normal(size=(20, 15)).astype(np.float32)
    logprobs = old + 0.3 * rng.normal(size=(20, 15)).astype(np.float32)
    advantages = rng.normal(size=(20, 15)).astype(np.float32)
    value, clipped, dual = losses.clipped_policy_gradient(logprobs, old, advantages, low, high)
    assert not dual.any()
    slope = jax.grad(lambda x: losses.clipped_policy_gradient(x, old, advantages, low, high)[0].sum())(logprobs)
    expected, expected_slope = literal_ppo(logprobs.astype(np.float64), old, advantages, low, high)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(clipped == 1, expected_slope == 0)
    assert 0.1 < np.mean(clipped) < 0.6


def test_with_the_policy_as_its_own_old_one_the_gradient_is_minus_the_advantage():
    rng = np.random.default_rng(0)
    logprobs, advantages = rng.normal(size=(2, 3, 5)).astype(np.float32)
    gradient = jax.grad(
        lambda x: losses.clipped_policy_gradient(x, jax.lax.stop_gradient(x), advantages, 0.2, 0.2)[0].sum()
    )(jnp.asarray(logprobs))
    np.testing.assert_allclose(gradient, -advantages, rtol=1e-6)


@pytest.mark.parametrize("difference", [-1000.0, 1000.0])
def test_a_ratio_beyond_all_measure_stays_finite(difference):
    for advantage in (-1.0, 1.0):
        value, *_ = losses.clipped_policy_gradient(jnp.float32(difference), 0.0, advantage, 0.2, 0.2)
        assert np.isfinite(value)


def literal_dual_clip(logprobs, old, advantages, low, high, limit):
    """PPO's loss, at most -limit * advantage if the advantage is negative: (loss, slope, is the limit reached?)."""
    loss, slope = literal_ppo(logprobs, old, advantages, low, high)
    reached = np.zeros(loss.shape, bool)
    for at in np.ndindex(loss.shape):
        if advantages[at] < 0 and loss[at] > -limit * advantages[at]:
            loss[at], slope[at], reached[at] = -limit * advantages[at], 0.0, True
    return loss, slope, reached


@pytest.mark.parametrize("limit", [1.1, 3.0])
def test_dual_clip_bounds_the_loss_of_a_negative_advantage(limit):
    rng = np.random.default_rng(0)
    old = rng.normal(size=(20, 15)).astype(np.float32)
    logprobs = old + rng.normal(size=(20, 15)).astype(np.float32)
    advantages = rng.normal(size=(20, 15)).astype(np.float32)
    arguments = old, advantages, 0.2, 0.28
    value, clipped, dual = losses.clipped_policy_gradient(logprobs, *arguments, limit)
    slope = jax.grad(lambda x: losses.clipped_policy_gradient(x, *arguments, limit)[0].sum())(logprobs)
    expected, expected_slope, reached = literal_dual_clip(logprobs.astype(np.float64), *arguments, limit)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dual == 1, reached)
    assert 0.03 < reached.mean() < 0.4
    free, without, _ = losses.clipped_policy_gradient(logprobs, *arguments)
    np.testing.assert_array_equal(clipped, without)  # PPO's own bound is another share
    assert (np.asarray(value)[~reached] == np.asarray(free)[~reached]).all()
    assert (np.asarray(value)[reached] < np.asarray(free)[reached]).all() and not (clipped * dual).any()


def test_importance_weights_are_ratios_below_the_cap():
    trainer, sampler = np.array([-1.0, -1.0, -1.0, -50.0]), np.array([-1.0, -1.5, -4.0, -200.0])
    np.testing.assert_allclose(losses.importance_weight(trainer, sampler, 2.0), [1.0, np.exp(0.5), 2.0, 2.0], rtol=1e-5)


MASK = np.array(
    [
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],  # no label: counts nowhere
        [0, 1, 1, 0, 0, 0],
    ],
    np.float32,
)
SCALE = 2.5
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
        "seq-mean-token-sum-norm": sum(sums) / len(sums) / SCALE,
    }[aggregation]


AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def aggregate(terms, mask, aggregation):
    weights, denominator = losses.row_weights(mask.sum(1).astype(np.int32), aggregation, SCALE)
    return float((terms * mask * np.asarray(weights)[:, None]).sum() / denominator)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregation_is_the_literal_mean(aggregation):
    expected = literal_aggregation(TERMS, MASK, aggregation)
    assert aggregate(TERMS, MASK, aggregation) == pytest.approx(expected, rel=1e-6)


def test_the_norm_is_verls_mean_of_sums_over_a_constant():
    """verl's agg_loss: sum over tokens, mean over sequences, over loss_scale_factor. Twice the batch, same loss."""
    expected = np.mean((TERMS * MASK).sum(1)[MASK.any(1)]) / SCALE
    assert aggregate(TERMS, MASK, "seq-mean-token-sum-norm") == pytest.approx(expected, rel=1e-6)
    twice = aggregate(np.tile(TERMS, (2, 1)), np.tile(MASK, (2, 1)), "seq-mean-token-sum-norm")
    assert twice == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_every_minibatch_has_its_own_denominator(aggregation):
    tokens = np.array([[3, 1, 0], [2, 2, 5]])
    weights, denominators = losses.row_weights(tokens, aggregation, SCALE)
    for row, row_weights, denominator in zip(tokens, weights, denominators):
        alone = losses.row_weights(row, aggregation, SCALE)
        np.testing.assert_array_equal(row_weights, alone[0])
        assert denominator == alone[1]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nothing_labelled_gives_a_zero_denominator_and_zero_weights(aggregation):
    weights, denominator = losses.row_weights(np.zeros(3, np.int32), aggregation, SCALE)
    assert denominator == 0
    assert (np.asarray(weights) == 0).all()
