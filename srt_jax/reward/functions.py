"""User functions, given as MODULE:FUNCTION, that label a prompt (labels.source) or reward its samples (reward.shape).

    def label(answers, responses, problem) -> str | None
    def reward(answers, label, responses, truth) -> list[float]

Each call gets one prompt with its n samples. No two calls run at a time, but they may come from different threads, and
other prompts are still sampled meanwhile.

    answers    n extracted answers, None for a response without an answer
    responses  n texts
    problem    a data.base.Problem
    label      the prompt's label, None if it has none
    truth      the known answer, None if there is none

`label` returns the label, or None if the prompt gets no label. Answers are compared with the label by reward.match.
`reward` returns n finite numbers, which replace the agreement with the label. DAPO's penalty for length is added. For a
prompt without a label they are not used: labels.unlabelled says what the loss does with such a prompt.
"""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import functions
from srt_jax.data.base import Problem
from srt_jax.errors import ConfigError
from srt_jax.files import shown

Label = Callable[[Sequence[str | None], Sequence[str], Problem], str | None]
Reward = Callable[[Sequence[str | None], str | None, Sequence[str], str | None], np.ndarray]


def label_function(value: str) -> Label | None:
    """The user function that labels.source names, or None if it names a built-in source.

    Every call checks the result and raises ConfigError if it is neither a text nor None.
    """
    if not functions.is_function(value):
        return None
    function = functions.load("labels.source", value)

    def label(answers: Sequence[str | None], responses: Sequence[str], problem: Problem) -> str | None:
        found = functions.call("labels.source", value, function, list(answers), list(responses), problem)
        if found is not None and not isinstance(found, str):
            raise ConfigError(f"labels.source is {value!r}, which returns {shown(found)}: return a str or None.")
        return found

    return label


def reward_function(value: str) -> Reward | None:
    """The user function that reward.shape names, or None if it names a built-in reward.

    Every call checks the result and raises ConfigError if it is not n finite numbers.
    """
    if not functions.is_function(value):
        return None
    function = functions.load("reward.shape", value)

    def reward(answers: Sequence[str | None], label: str | None, responses: Sequence[str], truth: str | None):
        found = functions.call("reward.shape", value, function, list(answers), label, list(responses), truth)
        try:
            rewards = np.asarray(found, np.float32)
        except (TypeError, ValueError):
            rewards = np.empty((), np.float32)
        n = len(answers)
        if rewards.shape != (n,):
            raise ConfigError(
                f"reward.shape is {value!r}, which returns {shown(found)} for {n} samples: return {n} numbers, one "
                "for each sample."
            )
        if not np.isfinite(rewards).all():
            raise ConfigError(
                f"reward.shape is {value!r}, which returns {shown(found)}, and some of these numbers are not finite: "
                "return a finite reward for every sample, e.g. 0 for a sample without an answer."
            )
        return rewards

    return reward


def check(config: ConfigDict) -> None:
    """Calls the user functions of the config with made-up samples. Raises ConfigError if one fails."""
    votes = max(config.batch.votes_per_prompt, config.batch.samples_per_prompt)
    answers = [str(i % 3) if i % 4 else None for i in range(votes)]
    responses = [f"The answer is {answer}." if answer else "I do not know." for answer in answers]
    if label := label_function(config.labels.source):
        label(answers, responses, Problem("probe", "What is 1 + 1?", None, "probe"))
    if reward := reward_function(config.reward.shape):
        for of_prompt, truth in ((None, None), ("2", "2")):
            reward(answers, of_prompt, responses, truth)
