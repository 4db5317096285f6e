"""Measures of self-training: how good a pseudo-reward is, and what changes in the answers. Pure NumPy functions.

The first group needs the hidden truth, the second none. The third compares two policies on a fixed set of probe
problems. Letters: P prompts, n samples, T response tokens. NaN where a measure is undefined.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from srt_jax.grading.canonical import canonical
from srt_jax.reward.rewards import Graded, differ

Keys = Sequence[Sequence[Hashable]]  # [P][n]: equal keys are equal answers, also across prompts; None: no answer
NAN = float("nan")


# ---- with the hidden truth


def true_positive_rate(reward: np.ndarray, right: np.ndarray) -> float:
    """Mean pseudo-reward of the right rollouts (sensitivity). Arrays of one shape; `right` is bool."""
    return float(reward[right].mean()) if right.any() else NAN


def false_positive_rate(reward: np.ndarray, right: np.ndarray) -> float:
    """Mean pseudo-reward of the wrong rollouts (1 - specificity). Arrays of one shape; `right` is bool."""
    return float(reward[~right].mean()) if not right.all() else NAN


def youden_j(reward: np.ndarray, right: np.ndarray) -> float:
    """True minus false positive rate (Youden 1950). Learning needs J > 0; noise with J > 0 only slows it."""
    return true_positive_rate(reward, right) - false_positive_rate(reward, right)


def point_biserial(reward: np.ndarray, right: np.ndarray) -> float:
    """Correlation of the pseudo-reward with the truth over all rollouts; NaN where one of them is constant."""
    x, y = np.ravel(reward).astype(np.float64), np.ravel(right).astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 1e-12 * len(x) else NAN


def pass_at_n(right: np.ndarray) -> float:
    """Share of prompts with a right one among their n rollouts; `right` [P, n] is bool."""
    return float(right.any(1).mean()) if len(right) else NAN


# ---- without the truth


def margin(counts: Sequence[int], n: int) -> float:
    """(Votes of the first answer - votes of the second) / n, in [0, 1]; 0 where nobody voted."""
    first, second, *_ = *sorted(counts, reverse=True), 0, 0
    return (first - second) / n


def answer_information(keys: Keys) -> float:
    """H(answer) - H(answer | prompt) in nats: what an answer tells about its prompt. "None" is an answer.

    This is the mutual information of the P prompts, each equally likely, and the empirical answers. It is at most
    log P. It is 0 where all prompts have the same distribution of answers, as after a collapse into one answer.
    """
    per_prompt = [collections.Counter(row) for row in keys]
    pooled: dict[object, float] = collections.defaultdict(float)
    for row, counts in zip(keys, per_prompt):
        for key, count in counts.items():
            pooled[key] += count / len(row) / len(keys)
    within = np.mean([_entropy(np.array(list(counts.values())) / len(row)) for row, counts in zip(keys, per_prompt)])
    return max(0.0, _entropy(np.array(list(pooled.values()))) - float(within))


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def same_answer(keys: Keys) -> float:
    """Probability that two rollouts of different prompts give the same answer. "None" is an answer.

    How often this happens by nature depends on the problems: `excess` compares it with its expected value.
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
    """(observed - expected) / (1 - expected): 0 as expected, 1 where all are alike (the form of Cohen's kappa)."""
    return (observed - expected) / (1 - expected) if expected < 1 else NAN


def drift(values: Sequence[float], first: int = 10, last: int = 5) -> float:
    """Mean of the last values minus the mean of the first ones: of lengths, or of shares of truncated responses."""
    return float(np.mean(values[-last:]) - np.mean(values[:first])) if len(values) >= first + last else NAN


# ---- of a step's rollouts


def answer_keys(answers: Sequence[Sequence[str | None]], groups: Sequence[Sequence[int]]) -> list[list[str | None]]:
    """[P][n]: the canonical text of each answer's group, so that answers of different prompts can be compared."""
    keys = []
    for row, ids in zip(answers, groups):
        texts = {}
        for answer, group in zip(row, ids):
            if group >= 0 and group not in texts:
                texts[group] = canonical(answer)
        keys.append([texts.get(group) for group in ids])
    return keys


def metrics(graded: Sequence[Graded]) -> dict[str, float]:
    """`label/*`: means over the prompts of a step; NaN where no answer is known. run/metrics.py explains every tag.

    The pseudo-reward, the agreement and the reward accuracy are those of the trained samples; the others count all.
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
    agreement, rewards = trained("agreement"), trained("rewards")
    winners = collections.Counter(canonical(v.winner) for v in votes if v.winner is not None)
    return {
        "label/pseudo_reward": rewards[labelled].mean() if labelled.any() else 0.0,
        "label/agreement": agreement[labelled].mean() if labelled.any() else 0.0,
        "label/true_reward": _mean(true[known]),
        "label/majority_accuracy": _mean(majority_correct),
        "label/majority_gain": _mean(majority_correct) - _mean(true[known]),
        "label/label_accuracy": _mean(label_correct[judged]),
        "label/reward_accuracy": _mean(1 - np.abs(agreement[judged] - trained("true_rewards")[judged])),
        "label/labelled": labelled.mean(),
        "label/from_answers": np.mean([g.label.source == "ground_truth" for g in graded]),
        "label/informative": np.mean([g.labelled and differ(row) for g, row in zip(graded, rewards)]),
        "label/vote_share": np.mean([v.share for v in votes]),
        "label/vote_share_parsed": np.mean([v.share_parsed for v in votes]),
        "label/ties": np.mean([v.tie for v in votes]),
        "label/parse_rate": np.mean(np.array([g.groups for g in graded]) >= 0),
        "label/distinct_answers": np.mean([v.distinct for v in votes]),
        # After a collapse every prompt gets the same answer: this nears 1 while the vote shares look fine.
        "label/top_answer_share": winners.most_common(1)[0][1] / len(votes) if winners else 0.0,
        **of_step(graded),
    }


def _mean(values) -> float:
    return float(np.mean(values)) if np.size(values) else float("nan")


def of_step(graded: Sequence[Graded]) -> dict[str, float]:
    """The measures of a step's P prompts by tag.

    Those of the pseudo-reward count the trained rollouts of labelled prompts whose answer is known.
    """
    true_rewards = np.stack([g.true_rewards for g in graded])
    known = ~np.isnan(true_rewards[:, 0])
    judged = known & [g.labelled for g in graded]
    reward = np.stack([g.agreement[: g.trained] for g in graded])[judged]
    right = np.stack([g.true_rewards[: g.trained] for g in graded])[judged] > 0.5
    keys = answer_keys([g.answers for g in graded], [g.groups for g in graded])
    n = len(keys[0])
    return {
        "label/tpr": true_positive_rate(reward, right),
        "label/fpr": false_positive_rate(reward, right),
        "label/youden_j": youden_j(reward, right),
        "label/point_biserial": point_biserial(reward, right) if right.size else NAN,
        "label/pass@n": pass_at_n(true_rewards[known] > 0.5),
        "label/margin": float(np.mean([margin(g.vote.counts, n) for g in graded])),
        "label/answer_information": answer_information(keys),
        "label/same_answer": same_answer(keys),
    }


# ---- on a fixed probe set


@dataclasses.dataclass(frozen=True)
class Flips:
    """One row of a flip table: the problems whose base vote share is in [low, high), and where their votes went.

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
    """How the votes on P probe problems changed, by the base's vote share; the last bin holds its upper edge.

    same [P]: are the base's winner and the one of now equal answers?
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
    """The k at which the base's pass@k overtakes the policy's, None where it does not.

    base, now: {k: pass@k}. Between two values of k the curves are straight lines over log k.
    """
    ks = sorted(base.keys() & now.keys())
    gaps = [now[k] - base[k] for k in ks]
    for i in range(1, len(ks)):
        if gaps[i - 1] > 0 >= gaps[i]:
            part = gaps[i - 1] / (gaps[i - 1] - gaps[i])
            return math.exp(math.log(ks[i - 1]) + part * math.log(ks[i] / ks[i - 1]))
    return None


def anchored_agreement(keys: Keys, anchors: Sequence[Hashable]) -> float:
    """Share of samples [P][n] with the answer of the frozen base's majority [P]; prompts without one do not count."""
    agreed = [np.mean([key == anchor for key in row]) for row, anchor in zip(keys, anchors) if anchor is not None]
    return float(np.mean(agreed)) if agreed else NAN


def kl_apart(
    logprobs: np.ndarray, reference: np.ndarray, response: np.ndarray, answer: np.ndarray
) -> tuple[float, float]:
    """(of answer tokens, of reasoning tokens): estimated KL(policy || reference) per token, in nats.

    logprobs, reference: of the sampled tokens; response, answer: masks, all of one shape. The estimate is k3, mean of
    r - 1 - log r with r = reference / policy (Schulman 2020), which is never negative.
    """
    log_ratio = reference.astype(np.float64) - logprobs
    k3 = np.expm1(log_ratio) - log_ratio
    of_answer, of_reasoning = (
        float(k3[mask].mean()) if mask.any() else NAN for mask in (response & answer, response & ~answer)
    )
    return of_answer, of_reasoning
