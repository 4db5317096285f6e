"""Advantages of rollouts. Pure functions; returns are [P, n], the n samples of each of P prompts.

R_i = r_i - kl_coef * sum_t kl_t is the return of sample i. If the KL is not part of the reward, R_i = r_i.

If an estimator subtracts the mean of equal values, the difference is exactly 0. The float32 mean of equal values may
differ from them in the last place. Division by their standard deviation would make this difference large.

Users can supply a function (rl.advantage = MODULE:FUNCTION) with the signature

    def advantage(returns: jax.Array, trained: jax.Array) -> jax.Array

returns [P, n] is float32. trained [P, n] is bool: the samples that are trained on and have a label. The result
is [P, n] and finite, also where all returns of a prompt are equal. jax.jit traces the function. P counts all prompts of
a step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from srt_jax.config import functions
from srt_jax.errors import ConfigError

GRPO_EPS = 1e-6
WHITEN_EPS = 1e-8


def centred(values: jax.Array, mean: jax.Array, counted: jax.Array | bool = True, axis: int | None = None) -> jax.Array:
    """values - mean. If all counted values are equal, the result is exactly 0 for every value equal to them.

    mean: the mean of the counted values over `axis` (None: over all axes). mean and counted (bool) broadcast to values.
    A value that is not finite gives a result that is not finite.
    """
    counted = jnp.broadcast_to(counted, jnp.shape(values))
    highest = jnp.max(values, axis, keepdims=True, where=counted, initial=-jnp.inf)
    lowest = jnp.min(values, axis, keepdims=True, where=counted, initial=jnp.inf)
    return jnp.where(lowest == highest, values - highest, values - mean)


def rloo(returns: jax.Array) -> jax.Array:
    """Leave-one-out baseline: A_i = R_i - mean of the other R_j of the prompt.

    SRT v1, appendix B.1; Ahmadian et al. 2024. returns [P, n] with n >= 2 -> advantages [P, n].
    """
    n = returns.shape[1]
    return dr_grpo(returns) * (n / (n - 1))


def dr_grpo(returns: jax.Array) -> jax.Array:
    """A_i = R_i - mean R of the prompt, without GRPO's division (Liu et al. 2025, Dr. GRPO)."""
    return centred(returns, returns.mean(1, keepdims=True), axis=1)


def grpo(returns: jax.Array) -> jax.Array:
    """A_i = (R_i - mean R) / (std R + eps) over the prompt's samples (Shao et al. 2024, section 4.1.2).

    The variance is divided by n - 1, as in verl and TRL. Equal returns give advantage 0.
    """
    return dr_grpo(returns) / (jnp.std(returns, axis=1, keepdims=True, ddof=1) + GRPO_EPS)


def reinforce(returns: jax.Array) -> jax.Array:
    """No baseline: A_i = R_i (Williams 1992)."""
    return returns


def reinforce_baseline(returns: jax.Array, trained: jax.Array) -> jax.Array:
    """A_i = R_i - mean R, where the mean is over all trained rollouts of the step (Williams 1992).

    returns [P, n]; trained [P, n] bool.
    """
    return centred(returns, (returns * trained).sum() / jnp.maximum(trained.sum(), 1), trained)


def returns_to_come(rewards: jax.Array, kl: jax.Array, kl_coef: float, rollout: jax.Array) -> jax.Array:
    """R_t = r - kl_coef * sum_{u >= t} kl_u: REINFORCE++'s return of each token, with discount 1 (Hu 2025, section 3).

    Arrays [..., S]. rewards: the reward of the token's response. kl: 0 outside the responses. rollout: the index of the
    token's response; the sum ends where the next response of the row begins.
    """

    def join(
        later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]
    ) -> tuple[
        jax.Array, jax.Array
    ]:  # (sum up to the end of the span or of its first rollout, does a rollout end in the span?)
        return jnp.where(earlier[1], earlier[0], earlier[0] + later[0]), earlier[1] | later[1]

    last = rollout != jnp.roll(rollout, -1, -1)
    return rewards - kl_coef * jax.lax.associative_scan(join, (kl, last), reverse=True, axis=kl.ndim - 1)[0]


def whiten(values: jax.Array, mask: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) over all tokens of the mask: REINFORCE++'s normalisation (Hu 2025, section 3).

    values and mask have one shape, [..., S]. The variance is divided by the number of tokens. Equal values give 0.
    """
    tokens = jnp.maximum(mask.sum(), 1)
    found = centred(values, (values * mask).sum() / tokens, mask > 0)
    return found * jax.lax.rsqrt((jnp.square(found) * mask).sum() / tokens + WHITEN_EPS)


# Each estimator maps (returns [P, n], trained [P, n]) to one advantage per rollout.
PER_ROLLOUT = {
    "rloo": lambda returns, trained: rloo(returns),
    "grpo": lambda returns, trained: grpo(returns),
    "dr_grpo": lambda returns, trained: dr_grpo(returns),
    "reinforce": lambda returns, trained: reinforce(returns),
    "reinforce_baseline": reinforce_baseline,
    "reinforce_pp_baseline": lambda returns, trained: dr_grpo(returns),
}
WHITENED = ("reinforce_pp", "reinforce_pp_baseline")


def per_rollout(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (returns [P, n], trained [P, n]) -> advantages [P, n] that rl.advantage names.

    Raises ConfigError if MODULE:FUNCTION cannot be loaded.
    """
    return PER_ROLLOUT[name] if name in PER_ROLLOUT else functions.load("rl.advantage", name)


def check(name: str, prompts: int, samples: int) -> None:
    """Tests a user's function on made-up returns [prompts, samples]. Built-in estimators are not tested.

    Raises ConfigError if the function fails, returns another shape, or returns values that are not finite.
    """
    if not functions.is_function(name):
        return
    function, shape = jax.jit(per_rollout(name)), (prompts, samples)
    trained = jnp.ones(shape, bool)
    for returns in (np.arange(prompts * samples).reshape(shape) % 2, np.ones(shape), np.zeros(shape)):
        found = functions.call("rl.advantage", name, function, jnp.asarray(returns, jnp.float32), trained)
        if jnp.shape(found) != shape:
            raise ConfigError(
                f"rl.advantage is {name!r}, which returns shape {jnp.shape(found)} for returns of shape {shape}: "
                "return one advantage for each return."
            )
        if not np.isfinite(np.asarray(found)).all():
            raise ConfigError(
                f"rl.advantage is {name!r}, which returns values that are not finite for the returns "
                f"{returns[0, :4].tolist()}...: return finite numbers, also where all returns are equal."
            )
