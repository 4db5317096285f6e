"""Advantages of rollouts from their returns. Pure functions; groups are the samples of one prompt."""
import jax.numpy as jnp

GRPO_EPS = 1e-6


def rloo(returns):
    """Leave-one-out baseline: A_i = R_i - mean of the other R_j of the prompt.

    SRT v1, appendix B.1; Ahmadian et al. 2024. returns [prompts, n] with n >= 2 -> advantages [prompts, n].
    """
    n = returns.shape[1]
    return dr_grpo(returns) * (n / (n - 1))


def dr_grpo(returns):
    """A_i = R_i - mean R of the prompt, without GRPO's division (Liu et al. 2025, Dr. GRPO)."""
    return returns - returns.mean(1, keepdims=True)


def grpo(returns):
    """A_i = (R_i - mean R) / (std R + eps) over the prompt's samples (Shao et al. 2024, section 4.1.2).

    The standard deviation is the sample's (n - 1), as in verl and TRL. Equal returns give advantage 0.
    """
    return dr_grpo(returns) / (jnp.std(returns, axis=1, keepdims=True, ddof=1) + GRPO_EPS)


def reinforce(returns):
    """No baseline: A_i = R_i. With every reward 1 and no KL the loss's gradient is that of cross-entropy."""
    return returns


ADVANTAGES = {"rloo": rloo, "dr_grpo": dr_grpo, "grpo": grpo, "reinforce": reinforce}
