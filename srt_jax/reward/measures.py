"""Measures of self-training: the quality of a pseudo-reward, and changes in the answers. Pure NumPy functions.

The first group of functions needs the known answers, the second does not. The last group compares two policies on a
fixed set of probe problems. Letters: P prompts, n samples, T response tokens. An undefined measure is NaN.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from srt_jax.grading.canonical import canonical
from srt_jax.reward.rewards import Graded, differ
from srt_jax.reward.votes import Vote

Keys = Sequence[Sequence[Hashable]]  # [P][n]: equal answers have equal keys, also across prompts; None: no answer
NAN = float("nan")


# ---- with known answers


def true_positive_rate(reward: np.ndarray, right: np.ndarray) -> float:
    """Mean pseudo-reward of the right rollouts (sensitivity). The arrays have one shape; `right` is bool."""
    return float(reward[right].mean()) if right.any() else NAN


def false_positive_rate(reward: np.ndarray, right: np.ndarray) -> float:
    """Mean pseudo-reward of the wrong rollouts (1 - specificity). The arrays have one shape; `right` is bool."""
    return float(reward[~right].mean()) if not right.all() else NAN


def youden_j(reward: np.ndarray, right: np.ndarray) -> float:
    """True positive rate minus false positive rate (Youden 1950).

    Learning needs J > 0. A noisy reward with J > 0 only slows it. The arrays have one shape; `right` is bool.
    """
    return true_positive_rate(reward, right) - false_positive_rate(reward, right)


def point_biserial(reward: np.ndarray, right: np.ndarray) -> float:
    """Correlation of the pseudo-reward with correctness over all rollouts. NaN if one of the two is constant.

    The arrays have one shape; `right` is bool.
    """
    x, y = np.ravel(reward).astype(np.float64), np.ravel(right).astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 1e-12 * len(x) else NAN


def pass_at_n(right: np.ndarray) -> float:
    """Share of prompts with at least one right rollout among their n rollouts; `right` [P, n] is bool."""
    return float(right.any(1).mean()) if len(right) else NAN


# ---- without known answers


def answer_information(keys: Keys) -> float:
    """H(answer) - H(answer | prompt) in nats: how much an answer tells about its prompt.

    This is the mutual information between the prompt, uniform over the P prompts, and its sampled answers. It is at
    most log P. It is 0 if all prompts have the same distribution of answers, as after a collapse into one answer. A
    missing answer (None) counts as an answer.
    """
    return max(0.0, float(information_by_prompt(keys).mean()))


def information_by_prompt(keys: Keys) -> np.ndarray:
    """[P]: KL in nats from each prompt's answers to the answers of all prompts. Its mean is the answer information."""
    shares = [{key: count / len(row) for key, count in collections.Counter(row).items()} for row in keys]
    pooled: dict[Hashable, float] = collections.defaultdict(float)
    for row in shares:
        for key, share in row.items():
            pooled[key] += share / len(keys)
    return np.array([sum(p * np.log(p / pooled[key]) for key, p in row.items()) for row in shares])


def same_answer(keys: Keys) -> float:
    """Probability that two rollouts of different prompts have the same answer. NaN for fewer than two prompts.

    The value without a collapse depends on the problems; `excess` corrects for it. A missing answer (None) counts as an
    answer.
    """
    if len(keys) < 2:
        return NAN
    share = collections.defaultdict(float)
    within = 0.0
    for row in keys:
        for key, count in collections.Counter(row).items():
            share[key] += count / len(row)
            within += (count / len(row)) ** 2
    return (sum(s * s for s in share.values()) - within) / (len(keys) * (len(keys) - 1))


def excess(observed: float, expected: float) -> float:
    """(observed - expected) / (1 - expected), the form of Cohen's kappa.

    It is 0 if `observed` is as expected, and 1 if `observed` is 1. NaN if `expected` is 1.
    """
    return (observed - expected) / (1 - expected) if expected < 1 else NAN


# ---- the measures of a step, for the log


def answer_keys(answers: Sequence[Sequence[str | None]], groups: Sequence[Sequence[int]]) -> list[list[str | None]]:
    """[P][n]: the canonical text of each answer's group. These texts are comparable across prompts.

    answers [P][n]: texts. groups [P][n]: group ids. An answer with a negative id gets None.
    """
    keys = []
    for row, ids in zip(answers, groups):
        texts = {}
        for answer, group in zip(row, ids):
            if group >= 0 and group not in texts:
                texts[group] = canonical(answer)
        keys.append([texts.get(group) for group in ids])
    return keys


def metrics(graded: Sequence[Graded]) -> dict[str, float]:
    """The metrics `label/*` of a step's P prompts, by tag. NaN if no answer is known. run/metrics.py explains each tag.

    The pseudo-reward, the agreement and the reward accuracy count the trained samples only. In the tags, agreement is
    the shaped reward, as it is by default.
    """

    def trained(name):
        return np.stack([getattr(g, name)[: g.trained] for g in graded])

    votes = [g.vote for g in graded]
    labelled = np.array([g.labelled for g in graded])
    label_correct = np.array([g.label_correct for g in graded], np.float32)
    true = np.stack([g.true_rewards for g in graded])
    known = ~np.isnan(true[:, 0])
    majority_correct = np.array([g.majority_correct for g in graded], np.float32)[known]
    judged = labelled & ~np.isnan(label_correct)
    shaped, rewards = trained("shaped"), trained("rewards")
    return {
        "label/pseudo_reward": rewards[labelled].mean() if labelled.any() else 0.0,
        "label/agreement": shaped[labelled].mean() if labelled.any() else 0.0,
        "label/true_reward": _mean(true[known]),
        "label/majority_accuracy": _mean(majority_correct),
        "label/majority_gain": _mean(majority_correct) - _mean(true[known]),
        "label/label_accuracy": _mean(label_correct[judged]),
        "label/reward_accuracy": _mean(1 - np.abs(shaped[judged] - trained("true_rewards")[judged])),
        "label/labelled": labelled.mean(),
        "label/from_answers": np.mean([g.label.source == "ground_truth" for g in graded]),
        "label/informative": np.mean([g.counts_as_labelled and differ(row) for g, row in zip(graded, rewards)]),
        "label/vote_share": np.mean([v.share for v in votes]),
        "label/vote_share_parsed": np.mean([v.share_parsed for v in votes]),
        "label/ties": np.mean([v.tie for v in votes]),
        "label/parse_rate": np.mean(np.array([g.groups for g in graded]) >= 0),
        "label/distinct_answers": np.mean([v.distinct for v in votes]),
        # After a collapse every prompt gets the same answer. Then this is near 1, while the vote shares look good.
        "label/top_answer_share": top_answer_share(votes),
        **of_step(graded),
    }


def top_answer_share(votes: Sequence[Vote]) -> float:
    """The share of the prompts whose winning answer is the most common one, in [0, 1]; 0 without any answer."""
    winners = collections.Counter(canonical(v.winner) for v in votes if v.winner is not None)
    return max(winners.values(), default=0) / len(votes)


def _mean(values) -> float:
    return float(np.mean(values)) if np.size(values) else float("nan")


def of_step(graded: Sequence[Graded]) -> dict[str, float]:
    """The measures of this module for a step's P prompts, by tag.

    The measures of the pseudo-reward count the trained rollouts of labelled prompts with a known answer. They are
    computed from the shaped rewards, without the penalty for length.
    """
    true_rewards = np.stack([g.true_rewards for g in graded])
    known = ~np.isnan(true_rewards[:, 0])
    judged = known & [g.labelled for g in graded]
    reward = np.stack([g.shaped[: g.trained] for g in graded])[judged]
    right = np.stack([g.true_rewards[: g.trained] for g in graded])[judged] > 0.5
    keys = answer_keys([g.answers for g in graded], [g.groups for g in graded])
    return {
        "label/tpr": true_positive_rate(reward, right),
        "label/fpr": false_positive_rate(reward, right),
        "label/youden_j": youden_j(reward, right),
        "label/point_biserial": point_biserial(reward, right) if right.size else NAN,
        "label/pass@n": pass_at_n(true_rewards[known] > 0.5),
        "label/margin": float(np.mean([g.vote.margin for g in graded])),
        "label/answer_information": answer_information(keys),
        "label/same_answer": same_answer(keys),
    }


# ---- on a fixed probe set


@dataclasses.dataclass(frozen=True)
class Flips:
    """One row of a flip table: how the votes changed on the problems whose base vote share is in [low, high).

    The five counts add up to `problems`: right before and after, right to wrong, wrong to right, wrong to another
    wrong answer, wrong and the same answer.
    """

    low: float
    high: float
    problems: int
    right_right: int
    right_wrong: int
    wrong_right: int
    wrong_other: int
    wrong_same: int


def flip_table(
    base_right: Sequence[bool],
    now_right: Sequence[bool],
    same: Sequence[bool],
    confidence: Sequence[float],
    edges: Sequence[float] = (0.0, 1 / 3, 2 / 3, 1.0),
) -> list[Flips]:
    """How the votes on P probe problems changed, in bins of the base's vote share.

    base_right, now_right [P] bool: is the winner of the base's vote, of the current policy's vote right? same [P] bool:
    are the two winners equal answers? confidence [P]: the base's vote shares. edges: those of the bins; the last bin
    includes its upper edge.
    """
    base_right, now_right, same, confidence = map(np.asarray, (base_right, now_right, same, confidence))
    bins = np.clip(np.searchsorted(edges, confidence, "right") - 1, 0, len(edges) - 2)
    table = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        mine = bins == i
        before, after, alike = base_right[mine], now_right[mine], same[mine]
        kinds = (before & after, before & ~after, ~before & after, ~before & ~after & ~alike, ~before & ~after & alike)
        table.append(Flips(low, high, int(mine.sum()), *(int(kind.sum()) for kind in kinds)))
    return table


def pass_at_k_crossing(base: dict[int, float], now: dict[int, float]) -> float | None:
    """The k at which the base's pass@k reaches the current policy's from below. None if it does not.

    base, now: {k: pass@k}. The gap between the curves is interpolated linearly in log k.
    """
    ks = sorted(base.keys() & now.keys())
    gaps = [now[k] - base[k] for k in ks]
    for i in range(1, len(ks)):
        if gaps[i - 1] > 0 >= gaps[i]:
            part = gaps[i - 1] / (gaps[i - 1] - gaps[i])
            return math.exp(math.log(ks[i - 1]) + part * math.log(ks[i] / ks[i - 1]))
    return None


def kl_apart(
    logprobs: np.ndarray, reference: np.ndarray, response: np.ndarray, answer: np.ndarray
) -> tuple[float, float]:
    """Estimated KL(policy || reference) in nats per token: (on answer tokens, on the other response tokens).

    logprobs, reference: the log-probs of the sampled tokens under the policy and the reference. response, answer: bool
    masks. All arrays have one shape. The estimate is k3, the mean of r - 1 - log r with r = reference / policy
    (Schulman 2020). It is never negative.
    """
    return kl(logprobs, reference, response & answer), kl(logprobs, reference, response & ~answer)


def kl(logprobs: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Estimated KL(policy || reference) in nats per token of the mask, as in `kl_apart`. NaN for an empty mask."""
    log_ratio = reference.astype(np.float64) - logprobs
    return float((np.expm1(log_ratio) - log_ratio)[mask].mean()) if mask.any() else NAN
