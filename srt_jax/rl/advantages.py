"""Advantages of rollouts from their returns. Pure functions; groups are the samples of one prompt."""


def rloo(returns):
    """Leave-one-out baseline: A_i = R_i - mean of the other R_j of the prompt.

    SRT v1, appendix B.1; Ahmadian et al. 2024. returns [prompts, n] with n >= 2 -> advantages [prompts, n].
    """
    n = returns.shape[1]
    return (returns - returns.mean(1, keepdims=True)) * (n / (n - 1))


def reinforce(returns):
    """No baseline: A_i = R_i. With every reward 1 and no KL the loss's gradient is that of cross-entropy."""
    return returns


ADVANTAGES = {"rloo": rloo, "reinforce": reinforce}
