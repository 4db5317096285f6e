"""KL estimates, token losses and their aggregation. Pure functions over token arrays [..., S].

A loss is a sum of weighted token terms; the weights' common denominator is divided out once, over the whole mini-batch,
so that micro-batches, padding and sharding change nothing but rounding.
"""

import jax
import jax.numpy as jnp

KL_CLAMP = 10.0  # of one token's k3, as the released SRT code does
LOG_RATIO_CLAMP = 20.0  # as verl does: exp() of more overflows


def k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """log p - log q per token: the plain estimate of KL(policy || reference), of either sign.

    As a term of the reward its gradient is, on average, that of the sequences' reverse KL divergence; as a term of the
    loss its gradient is zero on average.
    """
    return logprobs - reference_logprobs


def k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """(log p - log q)^2 / 2 per token: biased, never negative.

    As a term of the loss its gradient is, on average, that of each token's reverse KL divergence with its prefix given.
    k1 in the reward has more: the effect of a token on the divergence of the tokens after it.
    """
    return 0.5 * jnp.square(logprobs - reference_logprobs)


def k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """q/p - 1 - log(q/p) per token: unbiased, never negative, clamped to +-10 (Schulman 2020).

    As a term of the loss its gradient is, on average, that of each token's forward KL divergence, KL(q || p), with its
    prefix given. As a term of the reward it has neither gradient (docs/algorithms.md).
    """
    # Values beyond are clamped anyway; the gradient through an overflow would be 0 * inf.
    difference = jnp.clip(reference_logprobs - logprobs, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    return jnp.clip(jnp.exp(difference) - difference - 1.0, -KL_CLAMP, KL_CLAMP)


KL_ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}


def clipped_policy_gradient(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)), ratio = p / p_old (PPO, Schulman et al. 2017, eq. 7).

    clip_high > clip_low is DAPO's clip-higher (Yu et al. 2025, section 3.1). With dual_clip > 1 the loss of a token
    with A < 0 is at most -A dual_clip, however large its ratio (Ye et al. 2020, eq. 5). All arrays [..., S].
    Returns (loss, clipped, dual_clipped): 1 where PPO's or the dual bound is active, so that the token has no gradient.
    """
    ratio = jnp.exp(jnp.clip(logprobs - old_logprobs, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP))
    free = -advantages * ratio
    bound = -advantages * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    value, clipped = jnp.maximum(free, bound), (bound > free).astype(jnp.float32)
    if not dual_clip:
        return value, clipped, jnp.zeros_like(clipped)
    above = (advantages < 0) & (value > -advantages * dual_clip)
    return jnp.where(above, -advantages * dual_clip, value), clipped, above.astype(jnp.float32)


def importance_weight(trainer_logprobs: jax.Array, sampler_logprobs: jax.Array, cap: float) -> jax.Array:
    """min(p_trainer / p_sampler, cap) per token: truncated importance sampling of the rollouts (Yao et al. 2025).

    Both are of the weights before the update: it corrects for a sampler that computes otherwise, or is a step behind.
    """
    return jnp.minimum(jnp.exp(trainer_logprobs - sampler_logprobs), cap)


def row_weights(tokens: jax.Array, aggregation: str, scale: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Weight of each response token in the loss, by row, and the denominator of their sum.

    tokens [..., B] response tokens of each sequence of a mini-batch, 0 where it does not count. The names are verl's:
    token-mean: every token alike; seq-mean-token-sum: mean over sequences of token sums; seq-mean-token-mean: mean over
    sequences of token means; seq-mean-token-sum-norm: mean over sequences of token sums / scale, a constant.
    Returns (weights [..., B], denominator [...]; 0 where nothing counts).
    """
    counts = (tokens > 0).astype(jnp.float32)
    sequences = counts.sum(-1)
    return {
        "token-mean": lambda: (counts, tokens.sum(-1).astype(jnp.float32)),
        "seq-mean-token-sum": lambda: (counts, sequences),
        "seq-mean-token-mean": lambda: (counts / jnp.maximum(tokens, 1), sequences),
        "seq-mean-token-sum-norm": lambda: (counts, sequences * scale),
    }[aggregation]()
