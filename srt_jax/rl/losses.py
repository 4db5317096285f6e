"""KL estimates, policy-gradient losses and their aggregation. Pure functions over [B, S] token arrays.

A loss is returned as a sum of weighted token terms; the weights' common denominator is divided out once, over the whole
batch, so that micro-batches, padding and sharding change nothing but rounding.
"""
import jax
import jax.numpy as jnp

KL_CLAMP = 10.0  # of one token's k3, as the released SRT code does


def k1(logprobs, reference_logprobs):
    """log p - log q per token: the plain estimate of KL(policy || reference), of either sign.

    As a term of the reward it gives the unbiased gradient of the reverse KL divergence.
    """
    return logprobs - reference_logprobs


def k2(logprobs, reference_logprobs):
    """(log p - log q)^2 / 2 per token: biased, never negative."""
    return 0.5 * jnp.square(logprobs - reference_logprobs)


def k3(logprobs, reference_logprobs):
    """q/p - 1 - log(q/p) per token: unbiased, never negative, clamped to +-10 (Schulman 2020).

    As a term of the reward its gradient is not an unbiased reverse-KL gradient; k1's is (docs/algorithms.md).
    """
    difference = reference_logprobs - logprobs
    return jnp.clip(jnp.exp(difference) - difference - 1.0, -KL_CLAMP, KL_CLAMP)


KL_ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}


def policy_gradient(logprobs, advantages):
    """-A_i * ratio with the ratio to the policy itself, which is 1: plain REINFORCE, for one update per batch.

    logprobs [B, S], advantages [B] -> [B, S].
    """
    ratio = jnp.exp(logprobs - jax.lax.stop_gradient(logprobs))
    return -advantages[:, None] * ratio


def token_weights(mask, aggregation: str, max_response_tokens: int = 0):
    """Weight of each response token in the loss, and the denominator of their sum.

    mask [B, S], 1 for the response tokens of labelled prompts. The names are verl's:
    token-mean: every token alike; seq-mean-token-sum: mean over sequences of token sums; seq-mean-token-mean: mean over
    sequences of token means; seq-mean-token-sum-norm: token sums over (sequences * max_response_tokens).
    Returns (weights [B, S], denominator scalar; 0 where nothing is labelled).
    """
    tokens = mask.sum(1, keepdims=True)
    sequences = (tokens > 0).sum()
    return {
        "token-mean": lambda: (mask, mask.sum()),
        "seq-mean-token-sum": lambda: (mask, sequences),
        "seq-mean-token-mean": lambda: (mask / jnp.maximum(tokens, 1), sequences),
        "seq-mean-token-sum-norm": lambda: (mask, sequences * max_response_tokens),
    }[aggregation]()
