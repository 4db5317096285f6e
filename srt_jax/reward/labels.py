"""From answers to labels and rewards, with the true reward beside the pseudo-reward wherever an answer is known.

`Graded` holds the rewards and labels that are logged, saved and trained on: nothing changes them after `shaped`.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from srt_jax.data import label_file
from srt_jax.data.base import Problem
from srt_jax.data.split import uniform
from srt_jax.errors import DataError
from srt_jax.grading.canonical import canonical
from srt_jax.grading.grader import TRUTHS, Grader
from srt_jax.reward import measures, shaping
from srt_jax.reward.votes import Vote, majority, soft_votes

Answers = Sequence[Sequence[str | None]]


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """Where labels come from, how answers are compared with them, and what the length of a response does.

    source: vote | soft_vote | ground_truth | file | mixed | none; threshold: least vote share of a label; match: of an
    answer and a voted or filed label, None: as votes are compared; labelled_fraction: for mixed, of the problems whose
    answer is used, drawn by (seed, id), 0: Problem.labelled says which; filed: {problem id: label}. overlong_buffer,
    max_response_tokens, drop_truncated: of shaping.py.
    """

    source: str = "vote"
    threshold: float = 0.0
    match: str | None = None
    labelled_fraction: float = 0.0
    seed: int = 0
    filed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overlong_buffer: int = 0
    max_response_tokens: int = 0
    drop_truncated: bool = False

    @classmethod
    def of(cls, config) -> "LabelSettings":
        """Those of a config, its label file read. Raises DataError."""
        c = config.labels
        filed = label_file.labels(c.path, c.threshold) if c.source == "file" else {}
        return cls(
            c.source,
            c.threshold,
            config.reward.match,
            c.labelled_fraction,
            config.seed,
            filed,
            config.reward.overlong_buffer,
            config.batch.max_response_tokens,
            config.reward.drop_truncated,
        )

    def source_of(self, problem: Problem) -> str:
        """The source of this problem's label: `mixed` is ground truth for some problems and the vote for the others."""
        if self.source != "mixed":
            return self.source
        if self.labelled_fraction:
            trusted = uniform(self.seed, "labelled", problem.id) < self.labelled_fraction
        else:
            trusted = bool(problem.labelled)
        return "ground_truth" if trusted and _has_answer(problem) else "vote"


@dataclasses.dataclass(frozen=True)
class Graded:
    """The outcome of P prompts with n answers each.

    groups: group id of each answer, -1 where unparseable; votes, sources and labels: one per prompt, the label None
    where there is none; agreement [P, n] in [0, 1]: with the label; rewards [P, n]: what is trained on, agreement and
    the penalty for length; kept [P, n] bool: does the response count in the loss; labelled [P]: False where there is
    nothing to reward by (discarded from the loss); true_rewards [P, n]: agreement with the known answer;
    majority_correct and label_correct [P]: is the vote's winner right, is the label; NaN where no answer is known, or
    there is no label.
    """

    answers: list[list[str | None]]
    groups: list[list[int]]
    votes: list[Vote]
    sources: list[str]
    labels: list[str | None]
    agreement: np.ndarray
    rewards: np.ndarray
    kept: np.ndarray
    labelled: np.ndarray
    true_rewards: np.ndarray
    majority_correct: np.ndarray
    label_correct: np.ndarray

    def first(self, n: int) -> "Graded":
        """The first n samples of each prompt, with the label of all of them (TTRL: many vote, some are trained on)."""
        return dataclasses.replace(
            self,
            answers=[row[:n] for row in self.answers],
            groups=[row[:n] for row in self.groups],
            **{name: getattr(self, name)[:, :n] for name in ("agreement", "rewards", "kept", "true_rewards")},
        )

    def take(self, indices: Sequence[int]) -> "Graded":
        """These prompts, in this order."""
        return Graded(
            *(
                values[indices] if isinstance(values, np.ndarray) else [values[i] for i in indices]
                for values in _fields(self)
            )
        )


def join(parts: Sequence[Graded]) -> Graded:
    """The prompts of several gradings, as if they had been graded together."""
    return Graded(
        *(
            np.concatenate(values) if isinstance(values[0], np.ndarray) else list(itertools.chain(*values))
            for values in zip(*map(_fields, parts))
        )
    )


def _fields(graded: Graded) -> list:
    return [getattr(graded, field.name) for field in dataclasses.fields(graded)]


def grade_rollouts(
    problems: Sequence[Problem], answers: list[list[str | None]], grader: Grader, settings: LabelSettings | None = None
) -> Graded:
    """Votes, labels, rewards and true rewards of the answers [P][n] to P problems; without settings: by vote.

    The rewards are the agreement: lengths count in `shaped` only.
    """
    settings = settings or LabelSettings()
    groups = grader.groups(answers)
    votes = [majority(a, g, settings.threshold) for a, g in zip(answers, groups)]
    sources = [settings.source_of(problem) for problem in problems]
    labels = [LABELS[source](problem, v, settings) for source, problem, v in zip(sources, problems, votes)]
    # One call grades the samples, each vote's winner and each label: the workers see all there is to do at once.
    judged = true_rewards(
        problems, [[*row, _winner(v), label] for row, v, label in zip(answers, votes, labels)], grader
    )
    true, majority_correct, label_correct = judged[:, :-2], judged[:, -2], judged[:, -1]
    from_answers = np.array([source == "ground_truth" for source in sources])
    has_label = np.array([label is not None for label in labels])
    labelled = np.where(from_answers, ~np.isnan(true[:, 0]), has_label | (settings.source == "none"))
    label_correct = np.where(from_answers & labelled, 1.0, np.where(has_label, label_correct, np.nan))
    agreed = np.where(
        from_answers[:, None],
        np.nan_to_num(true),
        _label_rewards(answers, groups, votes, sources, labels, grader, settings),
    ).astype(np.float32)
    return Graded(
        answers,
        groups,
        votes,
        sources,
        labels,
        agreed,
        agreed,
        np.ones(agreed.shape, bool),
        labelled,
        true,
        majority_correct,
        label_correct,
    )


def shaped(graded: Graded, lengths: np.ndarray, stopped: np.ndarray, settings: LabelSettings | None = None) -> Graded:
    """The grading with what the lengths [P, n] of the responses, and whether they `stopped` [P, n], do to it.

    Without settings, as in evaluations: nothing.
    """
    s = settings or LabelSettings()
    penalty = shaping.overlong_penalty(lengths, s.max_response_tokens, s.overlong_buffer)
    return dataclasses.replace(graded, rewards=graded.agreement + penalty, kept=shaping.kept(stopped, s.drop_truncated))


LABELS = {
    "vote": lambda problem, v, settings: v.label,
    "soft_vote": lambda problem, v, settings: v.label,
    "ground_truth": lambda problem, v, settings: problem.answer,
    "file": lambda problem, v, settings: settings.filed.get(problem.id),
    "none": lambda problem, v, settings: None,
}


def _label_rewards(answers: Answers, groups, votes, sources, labels, grader: Grader, settings: LabelSettings):
    """[P, n]: agreement with labels that are no known answers; 1 where the source is none."""
    as_votes = settings.match in (None, grader.match)
    if settings.source == "none":
        return np.ones((len(answers), len(answers[0])))
    if settings.source == "ground_truth":
        return np.zeros((len(answers), len(answers[0])))
    if settings.source == "soft_vote":
        soft = _soft_by_group(answers, groups) if as_votes else _soft_by_match(answers, votes, grader, settings.match)
        return soft * np.array([[label is not None] for label in labels])
    if settings.source != "file" and as_votes:  # membership in the vote's own group: every voter gets 1
        return np.array(
            [[label is not None and group == v.group for group in row] for row, v, label in zip(groups, votes, labels)]
        )
    mine = [label if source != "ground_truth" else None for label, source in zip(labels, sources)]
    return agreement(answers, mine, grader, settings.match)


def agreement(answers: Answers, labels: Sequence[str | None], grader: Grader, match: str | None) -> np.ndarray:
    """[P, n] bool: does an answer agree with its prompt's label (None: no)?

    equivalent, string, None (the grader's own): the label joins the grouping, and its group agrees. verify: the
    directed comparison of ground truth, with its tolerances. math_verify: that package's.
    """
    if match in TRUTHS:
        flat = [(answer, label) for row, label in zip(answers, labels) if label is not None for answer in row]
        verdicts = iter(grader.grade(*zip(*flat), match) if flat else ())
        return np.array([[label is not None and next(verdicts) for _ in row] for row, label in zip(answers, labels)])
    joined = grader.groups([[*row, label] for row, label in zip(answers, labels)], match)
    return np.array([[group == ids[-1] >= 0 for group in ids[:-1]] for ids in joined])


def _soft_by_group(answers: Answers, groups) -> np.ndarray:
    return np.array([soft_votes(row, ids) for row, ids in zip(answers, groups)])


def _soft_by_match(answers: Answers, votes: Sequence[Vote], grader: Grader, match: str) -> np.ndarray:
    """The shares of all groups whose earliest answer the sample agrees with, as in the released code."""
    out = np.zeros((len(answers), len(answers[0])))
    for k in range(max(v.distinct for v in votes)):
        texts = [v.representatives[k] if k < v.distinct else None for v in votes]
        shares = np.array([[v.counts[k] / len(row) if k < v.distinct else 0.0] for row, v in zip(answers, votes)])
        out += shares * agreement(answers, texts, grader, match)
    return out


def true_rewards(problems: Sequence[Problem], answers: Answers, grader: Grader) -> np.ndarray:
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


def uninformative(rewards: np.ndarray) -> np.ndarray:
    """[P] bool: all rewards [P, n] of the prompt are alike (DAPO, section 3.2, of its agreement with the answer).

    Where each prompt is its own baseline they give no gradient; what a KL in the reward adds is left aside.
    """
    return (rewards == rewards[:, :1]).all(1)


def describe(problems: Sequence[Problem], settings: LabelSettings) -> str:
    """How many problems have a label before anything is sampled, in one line. Raises DataError if none can get one."""
    answered = [p for p in problems if _has_answer(p)]
    if settings.source == "ground_truth":
        count = len(answered)
        if not count:
            raise DataError(
                "labels.source is 'ground_truth', but no problem has an answer: set data.answer_column, or "
                "another source."
            )
    elif settings.source == "file":
        count = sum(p.id in settings.filed for p in problems)
        if not count:
            raise DataError(
                "labels.path labels none of the problems of data: write labels for this data with "
                "srt_jax.jobs.label, or use the data it was written for."
            )
    elif settings.source == "mixed":
        count = sum(settings.source_of(p) == "ground_truth" for p in problems)
        if not count:
            raise DataError(
                "labels.source is 'mixed', but no problem is labelled: set labels.labelled_fraction, or "
                "name a column of true and false in data.labelled_column, and see that these have answers."
            )
    else:
        return f"labels: {settings.source}"
    return f"labels: {settings.source}: {count} of {len(problems)} problems"


def metrics(graded: Graded, trained: Graded | None = None) -> dict[str, float]:
    """Means over the prompts of a step; NaN where no answer is known. Every tag is explained in docs/operations.md.

    trained: the samples that are trained on, where more have voted; what concerns the reward is of these.
    """
    trained = trained or graded
    true, labelled, votes = graded.true_rewards, graded.labelled, graded.votes
    known = ~np.isnan(true[:, 0])
    judged = labelled & ~np.isnan(graded.label_correct)
    winners = collections.Counter(canonical(_winner(v)) for v in votes if v.counts)
    return {
        "label/pseudo_reward": trained.rewards[labelled].mean() if labelled.any() else 0.0,
        "label/agreement": trained.agreement[labelled].mean() if labelled.any() else 0.0,
        "label/true_reward": _mean(true[known]),
        "label/majority_accuracy": _mean(graded.majority_correct[known]),
        "label/majority_gain": _mean(graded.majority_correct[known]) - _mean(true[known]),
        "label/label_accuracy": _mean(graded.label_correct[judged]),
        "label/reward_accuracy": _mean(1 - np.abs(trained.agreement[judged] - trained.true_rewards[judged])),
        "label/labelled": labelled.mean(),
        "label/from_answers": np.mean([source == "ground_truth" for source in graded.sources]),
        "label/informative": np.mean(labelled & ~uninformative(trained.rewards)),
        "label/vote_share": np.mean([v.share for v in votes]),
        "label/vote_share_parsed": np.mean([v.share_parsed for v in votes]),
        "label/ties": np.mean([v.tie for v in votes]),
        "label/parse_rate": np.mean(np.array(graded.groups) >= 0),
        "label/distinct_answers": np.mean([v.distinct for v in votes]),
        # After a collapse every prompt gets the same answer: this nears 1 while the vote shares look fine.
        "label/top_answer_share": winners.most_common(1)[0][1] / len(votes) if winners else 0.0,
        **measures.of_step(graded, trained),
    }


def _has_answer(problem: Problem) -> bool:
    return problem.answer is not None or problem.metadata is not None


def _winner(v: Vote) -> str | None:
    """The text of the largest group, below the threshold too; None where nobody could be parsed."""
    return v.representatives[v.counts.index(max(v.counts))] if v.counts else None


def _mean(values) -> float:
    return float(np.mean(values)) if np.size(values) else float("nan")
