"""Labels: the answer that a prompt's rollouts are rewarded for. It comes from a vote, a known answer or a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from srt_jax.config import reward_weights
from srt_jax.data import label_file
from srt_jax.data.base import Problem
from srt_jax.data.split import uniform
from srt_jax.errors import DataError
from srt_jax.reward import functions
from srt_jax.reward.votes import Vote


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """The settings of labels and rewards. The defaults, a vote and the plain agreement with it, are for evaluations.

    source: vote | ground_truth | file | mixed | none | ema | wrong | paraphrase, or the MODULE:FUNCTION of `label`.
    threshold: a vote whose share is lower gives no label. The share lies in [0, 1].
    match: how an answer is compared with a label from a vote or a file. None: in the same way as votes are compared.
    labelled_fraction: with `mixed`, the share of the problems whose known answer is used, drawn by (seed, id).
        0: Problem.labelled decides.
    labels_by_id: {problem id: label}, read from a label file, or voted for in a step by other samples than the
        problem's own.
    overlong_buffer, max_response_tokens, drop_truncated: how the length of a response counts, in tokens (rewards.py).
    trained_samples: only this many samples of each prompt, the first ones, are trained on. All samples vote.
        0: all are trained on.
    shape: the reward's shape, a name in shapes.py. The agreement with the label is one of them.
    mixture: {reward: weight}. The reward is the weighted sum of these rewards, each standardised per prompt. Empty: the
        reward of `shape`.
    label, reward: user functions (functions.py). None: the label of `source`, the reward of `shape`.
    """

    source: str = "vote"
    threshold: float = 0.0
    match: str | None = None
    labelled_fraction: float = 0.0
    seed: int = 0
    labels_by_id: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overlong_buffer: int = 0
    max_response_tokens: int = 0
    drop_truncated: bool = False
    trained_samples: int = 0
    shape: str = "agreement"
    mixture: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label: functions.Label | None = None
    reward: functions.Reward | None = None

    @classmethod
    def of(cls, config) -> "LabelSettings":
        """The settings of a config. Reads its label file and raises DataError if the file is bad."""
        c = config.labels
        return cls(
            source=c.source,
            threshold=c.threshold,
            match=config.reward.match,
            labelled_fraction=c.labelled_fraction,
            seed=config.seed,
            labels_by_id=label_file.labels(c.path, c.threshold) if c.source == "file" else {},
            overlong_buffer=config.reward.overlong_buffer,
            max_response_tokens=config.batch.max_response_tokens,
            drop_truncated=config.reward.drop_truncated,
            trained_samples=config.batch.samples_per_prompt,
            shape=config.reward.shape,
            mixture=reward_weights(config.reward) if config.reward.mixture else {},
            label=functions.label_function(c.source),
            reward=functions.reward_function(config.reward.shape),
        )

    def with_labels(self, labels: Mapping[str, str]) -> "LabelSettings":
        """The settings with labels from other samples than a problem's own, {problem id: label}.

        They are the votes of a teacher or of the paraphrases. If the source is neither of these, the guard has replaced
        the policy's votes by those of a frozen teacher. The reward is then the agreement with its labels, whatever it
        was before.
        """
        if self.source in FROM_OTHER_SAMPLES:
            return dataclasses.replace(self, labels_by_id=labels)
        return dataclasses.replace(self, source="file", labels_by_id=labels, shape="agreement", mixture={}, reward=None)

    def source_of(self, problem: Problem) -> str:
        """The source of this problem's label. `mixed` means ground_truth for some problems and vote for the others."""
        if self.source != "mixed":
            return self.source
        if self.labelled_fraction:
            trusted = uniform(self.seed, "labelled", problem.id) < self.labelled_fraction
        else:
            trusted = bool(problem.labelled)
        return "ground_truth" if trusted and has_answer(problem) else "vote"


BY_VOTE = LabelSettings()  # for evaluations
# Sources whose labels are votes of other samples in the same step: the teacher's, or those of the paraphrase.
FROM_OTHER_SAMPLES = ("ema", "paraphrase")


@dataclasses.dataclass(frozen=True)
class Label:
    """The label of one prompt. text: None if the prompt has no label. source: its source, never `mixed`."""

    text: str | None
    source: str


# {source: function (problem, vote, settings, wrong) -> the label's text, or None}. wrong: see `choose_label`.
SOURCES = {
    "vote": lambda problem, vote, settings, wrong: vote.label,
    "ground_truth": lambda problem, vote, settings, wrong: problem.answer,
    **dict.fromkeys(
        ("file", *FROM_OTHER_SAMPLES), lambda problem, vote, settings, wrong: settings.labels_by_id.get(problem.id)
    ),
    "wrong": lambda problem, vote, settings, wrong: wrong(),
    "none": lambda problem, vote, settings, wrong: None,
}


def choose_label(
    problem: Problem,
    vote: Vote,
    settings: LabelSettings,
    answers: Sequence[str | None],
    responses: Sequence[str],
    wrong: Callable[[], str | None],
) -> Label:
    """The label of one prompt. answers [n] and responses [n]: its samples, which a user function reads.

    wrong: finds the most frequent wrong answer, which only the source `wrong` needs.
    """
    if settings.label:
        return Label(settings.label(answers, responses, problem), settings.source)
    source = settings.source_of(problem)
    return Label(SOURCES[source](problem, vote, settings, wrong), source)


def has_answer(problem: Problem) -> bool:
    """Does the problem have a known answer, or a task with a scorer of its own?"""
    return problem.answer is not None or problem.metadata is not None


def describe(problems: Sequence[Problem], settings: LabelSettings) -> str:
    """One line for the log: how many problems have a label before sampling starts.

    Raises DataError if labels come from known answers or a file and no problem has one.
    """
    if settings.source in ("ground_truth", "wrong"):
        count = sum(map(has_answer, problems))
        remedy = "no problem has an answer: set data.answer_column, or choose another source."
    elif settings.source == "file":
        count = sum(p.id in settings.labels_by_id for p in problems)
        if not count:
            raise DataError(
                "the file labels.path labels none of the problems of data: write labels for this data with "
                "python -m srt_jax label, or use the data that the file was written for."
            )
    elif settings.source == "mixed":
        count = sum(settings.source_of(p) == "ground_truth" for p in problems)
        remedy = (
            "no problem is labelled: set labels.labelled_fraction, or name a column of true and false in "
            "data.labelled_column, and check that the labelled problems have answers."
        )
    else:
        return f"labels: {settings.source}"
    if not count:
        raise DataError(f"labels.source is {settings.source!r}, but {remedy}")
    return f"labels: {settings.source}: {count} of {len(problems)} problems"
