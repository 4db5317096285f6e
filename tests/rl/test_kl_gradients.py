"""Which divergence each KL estimate restrains, in the reward and in the loss, by enumeration of two-token sequences.

The policy writes two bits: theta[0] is the logit of the first, theta[1 + x] that of the second after x. All four
sequences are weighted with their probabilities, so that expected gradients are exact. The other side of each comparison
is a divergence in NumPy, differentiated numerically.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.rl import advantages, losses

SEQUENCES = np.array(list(itertools.product((0, 1), repeat=2)))  # [4, 2]
POLICY, REFERENCE = np.array([0.4, -0.7, 1.1]), np.array([-0.3, 0.2, 0.6])


def token_logprobs(theta, np=np):
    """[4, 2]: the log-probs of each sequence's tokens."""
    first, second = theta[0], theta[1 + SEQUENCES[:, 0]]
    logits = np.stack([np.broadcast_to(first, (4,)), second], 1)
    return -np.logaddexp(0.0, np.where(SEQUENCES == 1, -logits, logits))


def expected_gradient(place, kind, tokens=2):
    """The gradient of the mean loss over the policy's samples (1 or 2 tokens), as the update computes it."""
    old, reference = (token_logprobs(theta)[:, :tokens] for theta in (POLICY, REFERENCE))
    probability = np.exp(token_logprobs(POLICY).sum(1))  # a shorter sequence: the sum of both that begin alike

    def loss(theta):
        new = token_logprobs(theta, jnp)[:, :tokens]
        if place == "loss":
            terms = losses.KL_ESTIMATES[kind](new, reference)
        else:
            penalty = losses.KL_ESTIMATES[kind](old, reference)
            if place == "reward":
                gain = -penalty.sum(1, keepdims=True) * jnp.ones_like(penalty)
            else:  # REINFORCE++: a token's return holds its own penalty and those of later tokens
                rollout = jnp.broadcast_to(jnp.arange(4)[:, None], penalty.shape)
                gain = advantages.returns_to_come(jnp.zeros_like(penalty), penalty, 1.0, rollout)
            terms, *_ = losses.clipped_policy_gradient(new, old, gain, 0.2, 0.2)
        return (probability * terms.sum(1)).sum()

    with jax.enable_x64(True):
        return np.asarray(jax.grad(loss)(jnp.asarray(POLICY)))


def slope(function):
    """Gradient of a function of theta at the policy, by central differences."""
    return np.array([(function(POLICY + step) - function(POLICY - step)) / 2e-5 for step in 1e-5 * np.eye(3)])


def bits(theta):
    """Probabilities [3, 2] of 0 and 1 behind each logit."""
    ones = 1 / (1 + np.exp(-theta))
    return np.stack([1 - ones, ones], 1)


def token_divergences(p, q):
    """KL(p || q) [3] of each of the three distributions of a bit."""
    return (p * np.log(p / q)).sum(1)


def of_sequences(theta):
    """KL(p(y) || q(y)) over the four sequences."""
    log_p, log_q = token_logprobs(theta).sum(1), token_logprobs(REFERENCE).sum(1)
    return (np.exp(log_p) * (log_p - log_q)).sum()


def reached():
    """How often the policy comes to each of the three distributions, [3]."""
    return np.array([1.0, *bits(POLICY)[0]])


def reverse_with_given_prefixes(theta):
    return (reached() * token_divergences(bits(theta), bits(REFERENCE))).sum()


def forward_with_given_prefixes(theta):
    return (reached() * token_divergences(bits(REFERENCE), bits(theta))).sum()


def mean_of_fixed_penalties(kind):
    """theta -> mean over p_theta(y) of the penalty that y has at POLICY. REINFORCE lowers it."""
    difference = token_logprobs(POLICY) - token_logprobs(REFERENCE)
    penalty = {"k1": difference, "k2": difference**2 / 2, "k3": np.exp(-difference) - 1 + difference}[kind].sum(1)
    return lambda theta: (np.exp(token_logprobs(theta).sum(1)) * penalty).sum()


GRADIENTS = {
    ("reward", "k1"): of_sequences,
    ("reward", "k2"): mean_of_fixed_penalties("k2"),
    ("reward", "k3"): mean_of_fixed_penalties("k3"),
    ("reward to come", "k1"): of_sequences,
    ("reward to come", "k2"): mean_of_fixed_penalties("k2"),
    ("reward to come", "k3"): mean_of_fixed_penalties("k3"),
    ("loss", "k1"): lambda theta: 0.0,
    ("loss", "k2"): reverse_with_given_prefixes,
    ("loss", "k3"): forward_with_given_prefixes,
}


@pytest.mark.parametrize(("place", "kind"), GRADIENTS)
def test_every_estimate_has_the_gradient_that_the_docs_say(place, kind):
    np.testing.assert_allclose(expected_gradient(place, kind), slope(GRADIENTS[place, kind]), atol=1e-8)


def test_only_k1_in_the_reward_restrains_the_divergence_of_sequences():
    right = slope(of_sequences)
    assert np.abs(right).min() > 0.01
    for place, kind in GRADIENTS:
        same = np.abs(expected_gradient(place, kind) - right).max() < 1e-8
        assert same == (kind == "k1" and place != "loss"), (place, kind)


def test_k2_in_the_loss_is_k1_in_the_reward_for_last_tokens_only():
    in_loss, in_reward = expected_gradient("loss", "k2"), expected_gradient("reward", "k1")
    np.testing.assert_allclose(in_loss[1:], in_reward[1:], atol=1e-12)
    assert abs(in_loss[0] - in_reward[0]) > 0.01  # the first token's effect on what comes after it
    one = expected_gradient("loss", "k2", tokens=1), expected_gradient("reward", "k1", tokens=1)
    np.testing.assert_allclose(*one, atol=1e-12)
