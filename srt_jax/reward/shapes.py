"""Shapes of the reward: how the vote over a prompt's n samples becomes their rewards (reward.shape).

The functions are pure. They need no known answer, so they can be tried on any problems. With an advantage that
subtracts the mean of the prompt's other rewards (rloo, grpo, ...), a constant added to all rewards of a prompt changes
nothing. Constants that the papers do not give, or that we could not read, are ours and say so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# SCRL's script (https://arxiv.org/abs/2603.19880, Jasper-Yan/SCRL@06535a1); the paper has 0.5, 0.15 and 0.15.
SCRL_SHARE = 0.375  # the majority needs at least this share of the votes
SCRL_MARGIN = 0.125  # and a larger margin
SCRL_RARE = 0.125  # an answer with a smaller share is a negative one
RESTRAIN_WIDTH = 0.5  # ours: the paper weights shares with a Gaussian whose width we could not read


@dataclass(frozen=True)
class Samples:
    """The n samples of one prompt, as shapes see them.

    agreement [n]: the agreement with the label, in [0, 1].
    share [n]: votes of the sample's own answer / n. 0 without an answer.
    counts [G]: votes of each of the G different answers. margin: (votes of the first - votes of the second) / n.
    lengths [n]: tokens of the responses. max_tokens: their limit.
    coins [n]: random numbers in [0, 1), which depend on (seed, problem, sample).
    """

    agreement: np.ndarray
    share: np.ndarray
    counts: np.ndarray
    margin: float
    lengths: np.ndarray
    max_tokens: int
    coins: np.ndarray


def agreement(s: Samples) -> np.ndarray:
    """The agreement with the label: SRT's and TTRL's reward, if the label comes from the vote."""
    return s.agreement


def soft_vote(s: Samples) -> np.ndarray:
    """r_i = the vote share of the sample's own answer."""
    return s.share


def empo(s: Samples) -> np.ndarray:
    """Soft votes, but 0 for a prompt where no two samples have the same answer.

    EMPO (https://arxiv.org/abs/2504.05812), rewards.py of QingyangZhang/EMPO@c5eccd4: the entropy of the answers is
    then log n, because a response without an answer counts as an answer of its own. Its other training script has no
    such gate.
    """
    return s.share if s.counts.max(initial=0) > 1 else np.zeros(len(s.share))


def scrl_like(s: Samples) -> np.ndarray:
    """1 for the majority if it leads clearly, -1 for rare answers and for responses without one, else 0.

    SCRL (https://arxiv.org/abs/2603.19880) also requires that the tokens of a rare answer have a high entropy. That
    condition is missing here.
    """
    clear = s.share.max() >= SCRL_SHARE and s.margin > SCRL_MARGIN
    return np.where(s.share < SCRL_RARE, -1.0, np.where(s.agreement > 0, float(clear), 0.0))


def restrain_like(s: Samples) -> np.ndarray:
    """r_i = w(share of the sample's answer), where w is a Gaussian around 1, normalised over the prompt's answers.

    RESTRAIN (https://arxiv.org/abs/2510.02172) takes each answer as a label of weight w. With one update per step and
    an advantage that is linear in the rewards, that is this reward. Its penalty for prompts without a consensus is
    labels.unlabelled=penalty. Its prompt weights from the frozen base are missing.
    """

    def weight(share: np.ndarray) -> np.ndarray:
        return np.exp(-((share - 1) ** 2) / (2 * RESTRAIN_WIDTH**2))

    total = weight(s.counts / len(s.share)).sum()
    return np.where(s.share > 0, weight(s.share) / max(total, 1e-9), 0.0)


def minority_penalty(s: Samples) -> np.ndarray:
    """0 for the majority and -1 for all others.

    With a baseline it has the gradient of `agreement`. With rl.advantage=reinforce it only pushes minorities down.
    """
    return s.agreement - 1.0


# ---- controls: rewards that do not depend on the votes


def random(s: Samples) -> np.ndarray:
    """0 or 1 by a coin (Spurious Rewards, https://arxiv.org/abs/2506.10947).

    The coins of a problem are the same in every epoch. If they are all equal, and the advantage subtracts the mean of
    the prompt, the problem is never trained on.
    """
    return (s.coins < 0.5).astype(float)


def format(s: Samples) -> np.ndarray:
    """1 for a response with an answer that can be parsed, else 0."""
    return (s.share > 0).astype(float)


def brevity(s: Samples) -> np.ndarray:
    """1 - tokens / limit: the shorter the better."""
    return 1.0 - s.lengths / s.max_tokens


SHAPES: dict[str, Callable[[Samples], np.ndarray]] = {
    f.__name__: f
    for f in (agreement, soft_vote, empo, scrl_like, restrain_like, minority_penalty, random, format, brevity)
}
