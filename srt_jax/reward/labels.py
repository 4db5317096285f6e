"""From answers to labels and rewards, with the true reward beside the pseudo-reward wherever an answer is known."""
import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from srt_jax.data.base import Problem
from srt_jax.reward import vote
from srt_jax.reward.canonical import canonical
from srt_jax.reward.grader import Grader


@dataclasses.dataclass(frozen=True)
class Graded:
    """The outcome of P prompts with n answers each.

    groups: group id of each answer, -1 where unparseable; votes and labels: one per prompt, the label None where there
    is none; rewards [P, n]: agreement with the label, in {0, 1}; labelled [P]: False where there is no label (discarded
    from the loss); true_rewards [P, n]: agreement with the known answer; majority_correct and label_correct [P]: is the
    vote's winner right, is the label; NaN where no answer is known.
    """
    answers: list[list[str | None]]
    groups: list[list[int]]
    votes: list[vote.Vote]
    labels: list[str | None]
    rewards: np.ndarray
    labelled: np.ndarray
    true_rewards: np.ndarray
    majority_correct: np.ndarray
    label_correct: np.ndarray


def grade_rollouts(problems: Sequence[Problem], answers: list[list[str | None]], grader: Grader, source: str = "vote",
                   threshold: float = 0.0, reward_match: str | None = None) -> Graded:
    """Votes, labels, rewards and true rewards of the answers [P][n] to P problems; `source` is a key of LABELS.

    reward_match: how an answer is compared with a voted label, where not as the votes among themselves.
    """
    groups = grader.groups(answers)
    same = reward_match in (None, grader.match)
    reward_groups = groups if same else grader.groups(answers, reward_match)
    votes = [vote.majority(a, g, threshold) for a, g in zip(answers, groups)]
    winners = [_winner(v) for v in votes]
    # One call grades the samples and each vote's winner: the workers see all there is to do at once.
    true = true_rewards(problems, [[*row, winner] for row, winner in zip(answers, winners)], grader)
    true, majority_correct = true[:, :-1], true[:, -1]
    labels, labelled, rewards = LABELS[source](problems, groups, reward_groups, votes, true)
    label_correct = majority_correct if source == "vote" else np.where(np.isnan(majority_correct), np.nan, 1.0)
    return Graded(answers, groups, votes, labels, rewards, labelled, true, majority_correct, label_correct)


def true_rewards(problems: Sequence[Problem], answers: Sequence[Sequence[str | None]], grader: Grader) -> np.ndarray:
    """[P, n] float32: 1 where the answer agrees with the known one, NaN where the problem has none.

    Reasoning Gym problems are scored by their task's own scorer and count as right at its full score, 1.
    """
    out = np.full((len(problems), len(answers[0]) if answers else 0), np.nan, np.float32)
    own = [p for p, problem in enumerate(problems) if problem.answer is not None and problem.metadata is None]
    gym = [p for p, problem in enumerate(problems) if problem.metadata is not None]
    if own:
        flat = [(a, problems[p].answer) for p in own for a in answers[p]]
        out[own] = np.reshape(grader.grade(*zip(*flat)), (len(own), -1))
    if gym:
        flat = [(a, problems[p].metadata) for p in gym for a in answers[p]]
        out[gym] = np.reshape([score >= 1 for score in grader.grade_gym(*zip(*flat))], (len(gym), -1))
    return out


def _from_vote(problems, groups, reward_groups, votes, true):
    """SRT: the label is the majority vote; the reward is membership in its group, so that every voter gets 1."""
    rewards = np.zeros(true.shape, np.float32)
    for p, v in enumerate(votes):
        if v.label is not None:
            labels_group = reward_groups[p][groups[p].index(v.group)]
            rewards[p] = [group == labels_group for group in reward_groups[p]]
    return [v.label for v in votes], np.array([v.label is not None for v in votes]), rewards


def _from_ground_truth(problems, groups, reward_groups, votes, true):
    """RLVR: the label is the known answer, or the task's own scorer; a problem with neither is discarded."""
    return [problem.answer for problem in problems], ~np.isnan(true[:, 0]), np.nan_to_num(true)


LABELS = {"vote": _from_vote, "ground_truth": _from_ground_truth}


def metrics(graded: Graded) -> dict[str, float]:
    """Means over the prompts of a step; NaN where no answer is known. Every tag is explained in docs/operations.md."""
    true, labelled, votes = graded.true_rewards, graded.labelled, graded.votes
    known = ~np.isnan(true[:, 0])
    judged = known & labelled
    winners = collections.Counter(canonical(_winner(v)) for v in votes if v.counts)
    parsed = np.array([v.parsed for v in votes])
    n = graded.rewards.shape[1]
    return {
        "label/pseudo_reward": graded.rewards[labelled].mean() if labelled.any() else 0.0,
        "label/true_reward": _mean(true[known]),
        "label/majority_accuracy": _mean(graded.majority_correct[known]),
        "label/majority_gain": _mean(graded.majority_correct[known]) - _mean(true[known]),
        "label/label_accuracy": _mean(graded.label_correct[judged]),
        "label/reward_accuracy": _mean(graded.rewards[judged] == true[judged]),
        "label/labelled": labelled.mean(),
        "label/vote_share": np.mean([v.share for v in votes]),
        "label/vote_share_parsed": np.mean([v.share_parsed for v in votes]),
        "label/ties": np.mean([v.tie for v in votes]),
        "label/parse_rate": parsed.mean() / n,
        "label/distinct_answers": np.mean([v.distinct for v in votes]),
        # After a collapse every prompt gets the same answer: this nears 1 while the vote shares look fine.
        "label/top_answer_share": winners.most_common(1)[0][1] / len(votes) if winners else 0.0,
    }


def _winner(v: vote.Vote) -> str | None:
    """The text of the largest group, below the threshold too; None where nobody could be parsed."""
    return v.representatives[v.counts.index(max(v.counts))] if v.counts else None


def _mean(values) -> float:
    return float(np.mean(values)) if np.size(values) else float("nan")
