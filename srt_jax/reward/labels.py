"""Labels: the answer that a prompt's rollouts are rewarded for, from the vote, a known answer or a file."""

import dataclasses
from collections.abc import Mapping, Sequence

from srt_jax.data import label_file
from srt_jax.data.base import Problem
from srt_jax.data.split import uniform
from srt_jax.errors import DataError
from srt_jax.reward import functions
from srt_jax.reward.votes import Vote


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """The settings of labels and rewards. The defaults are those of an evaluation: the vote, and plain agreement.

    source: vote | soft_vote | ground_truth | file | mixed | none, or the name of the function `label`.
    threshold: a vote below this share gives no label.
    match: how an answer is compared with a voted or filed label; None: as votes are compared.
    labelled_fraction: with `mixed`, the share of the problems whose known answer is used, drawn by (seed, id).
        0: Problem.labelled decides.
    filed: {problem id: label} of a label file.
    overlong_buffer, max_response_tokens, drop_truncated: how the length of a response counts (rewards.py).
    trained_samples: the first so many samples of each prompt are trained on; all of them vote. 0: all are trained on.
    label, reward: functions of one's own (functions.py); None: the label of `source`, the agreement with it.
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
    trained_samples: int = 0
    label: functions.Label | None = None
    reward: functions.Reward | None = None

    @classmethod
    def of(cls, config) -> "LabelSettings":
        """The settings of a config; reads its label file. Raises DataError."""
        c = config.labels
        return cls(
            source=c.source,
            threshold=c.threshold,
            match=config.reward.match,
            labelled_fraction=c.labelled_fraction,
            seed=config.seed,
            filed=label_file.labels(c.path, c.threshold) if c.source == "file" else {},
            overlong_buffer=config.reward.overlong_buffer,
            max_response_tokens=config.batch.max_response_tokens,
            drop_truncated=config.reward.drop_truncated,
            trained_samples=config.batch.samples_per_prompt,
            label=functions.label_function(c.source),
            reward=functions.reward_function(config.reward.shape),
        )

    def source_of(self, problem: Problem) -> str:
        """The source of this problem's label: `mixed` is ground truth for some problems and the vote for the others."""
        if self.source != "mixed":
            return self.source
        if self.labelled_fraction:
            trusted = uniform(self.seed, "labelled", problem.id) < self.labelled_fraction
        else:
            trusted = bool(problem.labelled)
        return "ground_truth" if trusted and has_answer(problem) else "vote"


BY_VOTE = LabelSettings()  # of evaluations


@dataclasses.dataclass(frozen=True)
class Label:
    """The label of one prompt: its text, None where there is none, and the source it comes from (never `mixed`)."""

    text: str | None
    source: str


# The text of the label by source: f(problem, vote, settings).
SOURCES = {
    "vote": lambda problem, vote, settings: vote.label,
    "soft_vote": lambda problem, vote, settings: vote.label,
    "ground_truth": lambda problem, vote, settings: problem.answer,
    "file": lambda problem, vote, settings: settings.filed.get(problem.id),
    "none": lambda problem, vote, settings: None,
}


def choose_label(
    problem: Problem, vote: Vote, settings: LabelSettings, answers: Sequence[str | None], responses: Sequence[str]
) -> Label:
    """The label of one prompt with its n answers; responses [n]: their texts, for a function of one's own."""
    if settings.label:
        return Label(settings.label(answers, responses, problem), settings.source)
    source = settings.source_of(problem)
    return Label(SOURCES[source](problem, vote, settings), source)


def has_answer(problem: Problem) -> bool:
    """Can a response to this problem be graded by a known answer, or by its task's scorer?"""
    return problem.answer is not None or problem.metadata is not None


def describe(problems: Sequence[Problem], settings: LabelSettings) -> str:
    """One line: how many problems have a label before anything is sampled. Raises DataError where none can get one."""
    if settings.source == "ground_truth":
        count = sum(map(has_answer, problems))
        remedy = "no problem has an answer: set data.answer_column, or another source."
    elif settings.source == "file":
        count = sum(p.id in settings.filed for p in problems)
        if not count:
            raise DataError(
                "labels.path labels none of the problems of data: write labels for this data with "
                "srt_jax.jobs.label, or use the data it was written for."
            )
    elif settings.source == "mixed":
        count = sum(settings.source_of(p) == "ground_truth" for p in problems)
        remedy = (
            "no problem is labelled: set labels.labelled_fraction, or name a column of true and false in "
            "data.labelled_column, and see that these have answers."
        )
    else:
        return f"labels: {settings.source}"
    if not count:
        raise DataError(f"labels.source is {settings.source!r}, but {remedy}")
    return f"labels: {settings.source}: {count} of {len(problems)} problems"
