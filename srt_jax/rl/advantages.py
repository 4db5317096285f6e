"""Advantages of rollouts from their returns. Pure functions; groups are the samples of one prompt."""
import jax.numpy as jnp


def rloo(returns):
    """Leave-one-out baseline: A_i = R_i - mean of the other R_j of the prompt (SRT v1, appendix B.1; Ahmadian et al. 2024).

    returns [prompts, n] with n >= 2 -> advantages [prompts, n].
    """
    n = returns.shape[1]
    return (returns - returns.mean(1, keepdims=True)) * (n / (n - 1))


ADVANTAGES = {"rloo": rloo}
