"""KL estimates, token losses and their aggregation. Pure functions over token arrays [..., S].

A loss is a weighted sum of token terms divided by one denominator, which is computed over the whole mini-batch.
Micro-batches, padding and sharding therefore change the loss by rounding only.
"""

import jax
import jax.numpy as jnp

KL_CLAMP = 10.0  # bound on the k3 of a token, as in the released SRT code
LOG_RATIO_CLAMP = 20.0  # bound on a log-ratio before exp(), as in verl: a larger one may overflow


def k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """log p - log q per token: an estimate of KL(policy || reference) that is unbiased and may be negative.

    In the reward, its mean gradient is that of the sequences' reverse KL divergence. In the loss, its mean gradient is
    zero. Arrays [..., S], in nats.
    """
    return logprobs - reference_logprobs


def k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """(log p - log q)^2 / 2 per token: an estimate of KL(policy || reference) that is biased and never negative.

    In the loss, its mean gradient is that of each token's reverse KL divergence given its prefix. k1 in the reward also
    includes the effect of a token on the divergence of later tokens. Arrays [..., S], in nats.
    """
    return 0.5 * jnp.square(logprobs - reference_logprobs)


def k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
    """q/p - 1 - log(q/p) per token: an estimate of KL(policy || reference) that is never negative (Schulman 2020).

    It is unbiased, except for the clamp to +-10. In the loss, its mean gradient is that of each token's forward KL
    divergence, KL(q || p), given its prefix. In the reward, its mean gradient is that of no divergence
    (docs/algorithms.md). Arrays [..., S], in nats.
    """
    # This clip does not change the result, which is clamped below. Without it exp() could overflow, and the gradient
    # would be 0 * inf = NaN.
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
    Returns (loss, clipped, dual_clipped). `clipped` is 1 where PPO's bound is active, and `dual_clipped` is 1 where the
    dual bound is active. Such a token has no gradient.
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

    trainer_logprobs belong to the weights before the step's updates. The factor corrects for a sampler whose arithmetic
    differs from the trainer's, or whose weights are one step older. Arrays [..., S].
    """
    return jnp.minimum(jnp.exp(trainer_logprobs - sampler_logprobs), cap)


def row_weights(tokens: jax.Array, aggregation: str, scale: float) -> tuple[jax.Array, jax.Array]:
    """The weight that all response tokens of a sequence have in the loss, and the denominator of the weighted sum.

    tokens [..., B]: number of response tokens of each sequence of a mini-batch, 0 for a sequence outside the loss.
    The names of the aggregations are verl's:

        token-mean               mean over all tokens
        seq-mean-token-sum       mean over sequences of the sum over tokens
        seq-mean-token-mean      mean over sequences of the mean over tokens
        seq-mean-token-sum-norm  mean over sequences of the sum over tokens divided by the constant `scale`

    Returns (weights [..., B], denominators [...]). A denominator is 0 if no sequence counts.
    """
    counts = (tokens > 0).astype(jnp.float32)
    sequences = counts.sum(-1)
    return {
        "token-mean": lambda: (counts, tokens.sum(-1).astype(jnp.float32)),
        "seq-mean-token-sum": lambda: (counts, sequences),
        "seq-mean-token-mean": lambda: (counts / jnp.maximum(tokens, 1), sequences),
        "seq-mean-token-sum-norm": lambda: (counts, sequences * scale),
    }[aggregation]()
