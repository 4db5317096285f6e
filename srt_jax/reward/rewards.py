"""Rewards: the only module that grades a prompt's n rollouts. It uses NumPy; the grader's workers compare answers.

    votes -> label -> agreement with the label -> shape, or mixture of shapes -> + penalty for length = reward

The result, `Graded`, is logged, saved and trained on. If an answer is known, it also contains the true rewards.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from srt_jax.config.fields import CONFIDENCES
from srt_jax.data.base import Problem
from srt_jax.data.split import uniform
from srt_jax.grading.grader import TRUTHS, Grader
from srt_jax.reward.labels import BY_VOTE, Label, LabelSettings, choose_label
from srt_jax.reward.shapes import SHAPES, Samples
from srt_jax.reward.votes import Vote, majority, most_frequent_wrong, soft_votes

Answers = Sequence[str | None]

# Spread of equal values that are computed in float32 in different orders: relative to the largest one, but absolute
# below 1. A log-probability near 0 is the difference of larger numbers, and has their rounding error.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class Graded:
    """The graded answers of one prompt with n samples. Unknown numbers are NaN.

    groups [n]: group id of each answer, -1 if it cannot be parsed.
    shaped [n] float32: the result of reward.shape, by default the agreement with the label, in [0, 1]. With
        reward.mixture it is the weighted sum of standardised rewards. The files and metrics of a run call it agreement.
    rewards [n] float32: shaped + penalty for length. The update trains on them.
    kept [n] bool: does the response count in the loss?
    labelled: False if the prompt has no label. labels.unlabelled says what the loss does with such a prompt.
    left_out: True if batch.resample_rounds found no better prompt in place of this one. The loss then treats it like a
        prompt without a label, but the metrics count its label.
    trained: only this many samples, the first ones, are trained on.
    true_rewards [n] float32: 1 if the answer agrees with the known one, else 0.
    majority_correct, label_correct: 1 if the winner of the vote is right, if the label is right, else 0.
    """

    answers: list[str | None]
    groups: list[int]
    vote: Vote
    label: Label
    shaped: np.ndarray
    rewards: np.ndarray
    kept: np.ndarray
    labelled: bool
    trained: int
    true_rewards: np.ndarray
    majority_correct: float
    label_correct: float
    left_out: bool = False

    @property
    def counts_as_labelled(self) -> bool:
        """Is the prompt trained on as one with a label?"""
        return self.labelled and not self.left_out


def grade(
    problem: Problem,
    answers: Answers,
    grader: Grader,
    settings: LabelSettings = BY_VOTE,
    lengths: Sequence[int] | None = None,
    stopped: Sequence[bool] | np.ndarray | None = None,
    responses: Sequence[str] = (),
) -> Graded:
    """Grades the n answers to one problem: vote, label, rewards and true rewards.

    lengths [n]: number of tokens of each response. stopped [n]: did the response end with a stop token? By default no
    response counts as too long or truncated. responses [n]: their texts, which user functions read.
    """
    lengths = np.zeros(len(answers), np.int32) if lengths is None else lengths
    stopped = np.ones(len(answers), bool) if stopped is None else stopped
    trained = settings.trained_samples or len(answers)
    groups = grader.groups([answers])[0]
    vote = majority(answers, groups, settings.threshold)

    def wrong() -> str | None:
        right = true_rewards(problem, vote.representatives, grader)
        return most_frequent_wrong(vote, right.tolist(), len(answers), settings.threshold)

    label = choose_label(problem, vote, settings, answers, responses, wrong)
    # One call grades the samples, the vote's winner and the label, so that the workers get all comparisons at once.
    *true, majority_correct, label_correct = true_rewards(problem, [*answers, vote.winner, label.text], grader)
    true = np.array(true, np.float32)
    known = label.source == "ground_truth"
    has_label = not np.isnan(true[0]) if known else label.text is not None
    agreement = np.nan_to_num(true) if known else label_agreement(answers, groups, vote, label, grader, settings)
    if known:  # also where only a scorer can tell
        label_correct = 1.0
    # Without labels (source `none`), and with rewards from the confidence only, every prompt is trained on.
    labelled = has_label or label.source == "none" or not names_without_confidence(settings)
    if settings.reward:
        shaped = settings.reward(answers, label.text, responses, problem.answer)
    elif labelled:
        samples = functools.partial(samples_of, problem, answers, groups, vote, agreement, lengths, grader, settings)
        shaped = shaped_rewards(agreement, samples, settings, trained)
    else:
        shaped = np.zeros(len(answers))
    shaped = np.asarray(shaped, np.float32)
    return Graded(
        answers=list(answers),
        groups=groups,
        vote=vote,
        label=label,
        shaped=shaped,
        rewards=shaped + overlong_penalty(lengths, settings.max_response_tokens, settings.overlong_buffer),
        kept=kept(stopped, settings.drop_truncated),
        labelled=bool(labelled),
        trained=trained,
        true_rewards=true,
        majority_correct=float(majority_correct),
        label_correct=float(label_correct) if has_label else np.nan,
    )


# ---- agreement with the label, and its shape


def label_agreement(
    answers: Answers, groups: Sequence[int], vote: Vote, label: Label, grader: Grader, settings: LabelSettings
) -> np.ndarray:
    """[n] in [0, 1]: the agreement of the answers with a label that does not come from a known answer.

    It is 1 with labels.source = none, and 0 if the prompt has no label.
    """
    as_votes = settings.match in (None, grader.match)
    if label.source == "none":
        return np.ones(len(answers))
    if label.text is None:
        return np.zeros(len(answers))
    if label.source == "vote" and as_votes:  # every voter of the majority gets 1
        return np.array(groups) == vote.group
    return agrees(answers, label.text, grader, settings.match)


def agrees(answers: Answers, label: str, grader: Grader, match: str | None) -> np.ndarray:
    """[n] bool: does each answer agree with the label?

    With the match `equivalent`, `string` or None (the grader's own), the label is grouped together with the answers,
    and the answers of its group agree with it. `verify` compares as with known answers, with the same tolerances.
    `math_verify` uses the package of this name.
    """
    if match in TRUTHS:
        return np.array(grader.grade(answers, [label] * len(answers), match))
    *ids, own = grader.groups([[*answers, label]], match)[0]
    return (np.array(ids) == own) & (own >= 0)


def names_without_confidence(settings: LabelSettings) -> list[str]:
    """The rewards that `grade` computes. `with_confidence` adds those of CONFIDENCES, also where no answer is found."""
    return [name for name in settings.mixture or (settings.shape,) if name not in CONFIDENCES]


def shaped_rewards(
    agreement: np.ndarray, samples: Callable[[], Samples], settings: LabelSettings, trained: int
) -> np.ndarray:
    """[n]: the result of reward.shape or reward.mixture for a labelled prompt, without the policy's confidence.

    agreement [n]: with the label. samples: makes what the other shapes need, which may take comparisons of answers.
    """
    names = names_without_confidence(settings)
    if not names:
        return np.zeros(len(agreement))
    if names == ["agreement"] and not settings.mixture:
        return agreement
    found = samples()
    return combined({name: SHAPES[name](found) for name in names}, settings, trained)


def samples_of(
    problem: Problem,
    answers: Answers,
    groups: Sequence[int],
    vote: Vote,
    agreement: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    grader: Grader,
    settings: LabelSettings,
) -> Samples:
    """The samples of a labelled prompt, as shapes see them."""
    if settings.match in (None, grader.match):
        share = np.array(soft_votes(answers, groups))
    else:
        share = _soft_votes_by_match(answers, vote, grader, settings.match)
    coins = [uniform(settings.seed, "coin", f"{problem.id}/{i}") for i in range(len(answers))]
    return Samples(
        agreement=agreement,
        share=share,
        counts=np.array(vote.counts),
        margin=vote.margin,
        lengths=np.array(lengths),
        max_tokens=settings.max_response_tokens,
        coins=np.array(coins),
    )


def combined(values: Mapping[str, np.ndarray], settings: LabelSettings, trained: int) -> np.ndarray:
    """[n]: the only one of the rewards, or with a mixture the weighted sum of the standardised ones.

    values: {reward: [n] or [trained]}. A mixture is computed over the first `trained` samples; the others get 0.
    """
    if not settings.mixture:
        (only,) = values.values()
        return only
    total = np.zeros(max(map(len, values.values())))
    for name, value in values.items():
        total[:trained] += settings.mixture[name] * standardised(value[:trained])
    return total


def standardised(values: np.ndarray) -> np.ndarray:
    """(values - mean) / (standard deviation + 1e-6), the deviation over n - 1 as in GRPO. All 0 for equal values.

    Values that differ by float32 rounding only, such as confidences of equal responses, are equal.
    """
    x = np.asarray(values, np.float64)
    if np.ptp(x) <= ROUNDING * max(1.0, np.abs(x).max()):
        return np.zeros(len(x))
    return (x - x.mean()) / (x.std(ddof=1) + 1e-6)


def _soft_votes_by_match(answers: Answers, vote: Vote, grader: Grader, match: str) -> np.ndarray:
    """[n]: for each sample, the sum of the shares of the groups whose earliest answer it agrees with.

    The released SRT code does the same.
    """
    found = np.zeros(len(answers))
    for count, text in zip(vote.counts, vote.representatives):
        found += count / len(answers) * agrees(answers, text, grader, match)
    return found


def true_rewards(problem: Problem, answers: Answers, grader: Grader) -> np.ndarray:
    """[n] float32: 1 if the answer agrees with the known answer, else 0. NaN if the problem has no known answer.

    Problems of Reasoning Gym are graded by that package's scorer. An answer is right if its score is the maximum, 1.
    """
    if problem.metadata is not None:
        scores = grader.grade_gym(answers, [problem.metadata] * len(answers))
        return np.array([score >= 1 for score in scores], np.float32)
    if problem.answer is not None:
        return np.array(grader.grade(answers, [problem.answer] * len(answers)), np.float32)
    return np.full(len(answers), np.nan, np.float32)


def with_confidence(graded: Graded, confidence: Mapping[str, np.ndarray], settings: LabelSettings) -> Graded:
    """The same prompt with rewards from the policy's confidence (rl/confidence.py), {reward: [trained] float32}.

    They are added to the other rewards of a mixture. The penalty for length is added. Samples that only vote keep 0.
    A prompt without a label stays as it is.
    """
    if not graded.labelled:
        return graded
    values = graded.shaped.copy() if settings.mixture else np.zeros_like(graded.shaped)
    values[: graded.trained] += combined(confidence, settings, graded.trained).astype(np.float32)
    return dataclasses.replace(graded, shaped=values, rewards=graded.rewards - graded.shaped + values)


# ---- length (DAPO, Yu et al. 2025)


def overlong_penalty(lengths: Sequence[int] | np.ndarray, max_tokens: int, buffer: int) -> np.ndarray:
    """DAPO eq. 13: 0 up to max_tokens - buffer tokens, then falling linearly to -1 at max_tokens.

    The result is float32 and has the shape of lengths. With buffer 0 there is no penalty. A truncated response has
    max_tokens tokens, and so the penalty -1.
    """
    if not buffer:
        return np.zeros(np.shape(lengths), np.float32)
    return np.clip((max_tokens - buffer - np.asarray(lengths)) / buffer, -1, 0).astype(np.float32)


def kept(stopped: Sequence[bool] | np.ndarray, drop_truncated: bool) -> np.ndarray:
    """bool, in the shape of stopped: does the response count in the loss?

    With drop_truncated it counts only if it stopped (DAPO, section 3.4). A response that does not count still votes,
    and its reward stays in the baseline of the others.
    """
    return np.asarray(stopped, bool) | (not drop_truncated)


# ---- which prompts give a gradient


def shaped_rewards_differ(graded: Graded) -> bool:
    """Has the prompt a label, and do the trained samples differ in their shaped rewards? (DAPO, section 3.2, eq. 11)

    If the baseline is the mean of the prompt's samples, equal rewards give no gradient. This test ignores the penalty
    for length and a KL in the reward. The metric label/informative does not ignore the penalty.
    """
    return graded.labelled and differ(graded.shaped[: graded.trained])


def differ(values: np.ndarray) -> bool:
    """Are the values not all equal?"""
    return bool((values != values[0]).any())
