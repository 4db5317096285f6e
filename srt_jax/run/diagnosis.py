"""Warnings, each with a remedy, that the set-up of a run looks wrong. Pure functions of the metrics of a step.

Each of these faults makes a run useless without stopping it: no answer is found in the responses, the responses are
truncated, the vote collapses, or the rewards give no gradient. A run reports each of them once.
"""

import dataclasses
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from srt_jax.grading import extract
from srt_jax.grading.answers import MARKED_STYLES

# If a tenth of 32 responses have an answer, only about three of them vote: too few for a majority.
PARSE_RATE = 0.1
# If most responses are truncated, the reward mostly distinguishes short from long ones.
TRUNCATED = 0.5
# A style fits if it finds an answer in at least this share of the responses.
FITS = 0.5
# This many steps in a row without a difference between rewards. One alone can be chance if a step has few prompts.
STEPS_ALIKE = 3
PARSE_START = "answer.style="  # of a warning that no answer is found
# These advantages compare a response only with the other responses to its prompt.
WITHIN_PROMPT = ("rloo", "grpo", "dr_grpo", "reinforce_pp_baseline")

Responses = Callable[[], Sequence[str]]  # returns the texts; called only if they are needed


def nothing() -> Sequence[str]:
    """The Responses of a caller that has none."""
    return ()


def fitting_style(responses: Sequence[str], style: str) -> tuple[str, float] | None:
    """(another answer style that finds an answer in most responses, their share), or None if there is none."""
    if not responses:
        return None
    shares = {
        name: sum(extract(text, name) is not None for text in responses) / len(responses)
        for name in MARKED_STYLES
        if name not in style.split(",")
    }
    best = max(shares, key=shares.get, default="")
    return (best, shares[best]) if best and shares[best] >= FITS else None


def parse_warning(parse_rate: float, truncated: float, style: str, responses: Responses = nothing) -> str | None:
    """The warning if nearly no response has an answer, unless truncation is the likely reason; else None."""
    if not parse_rate < PARSE_RATE:
        return None
    found = f"only {parse_rate:.0%} of the responses" if parse_rate else "none of the responses"
    problem = f"{PARSE_START}{style!r} finds an answer in {found}"
    if other := fitting_style(responses(), style):
        return f"{problem}; answer.style={other[0]!r} would find one in {other[1]:.0%}: set it."
    if truncated > TRUNCATED:
        return None  # they were truncated before the answer, which cut_warning reports
    return (
        f"{problem}, and no other style fits them: read some (rollouts/, or TensorBoard's Text tab), then change "
        f"prompts.instruction and prompts.template, or answer.style ({', '.join(MARKED_STYLES)})."
    )


def cut_warning(truncated: float, max_response_tokens: int, stop_tokens: Sequence[str]) -> str | None:
    """The warning if most responses reach the length limit; else None."""
    if not truncated > TRUNCATED:
        return None
    return (
        f"{truncated:.0%} of the responses are cut at batch.max_response_tokens={max_response_tokens}: raise it. "
        f"If they go on after their answer, check that the model ends its turn with one of the stop tokens "
        f"({', '.join(map(repr, stop_tokens))}), and that prompts.template is the one it was trained with."
    )


def alike_warning(metrics: dict[str, float], config: ConfigDict) -> str:
    """The warning for equal rewards within every prompt, with a remedy that depends on the metrics of the step."""
    labels = config.labels
    found = f"nothing is learned: for {STEPS_ALIKE} steps all rewards of each prompt were equal (label/informative 0)"
    if metrics.get("label/labelled", 1) == 0:
        penalised = ", so every response is penalised" if labels.unlabelled == "penalty" else ""
        return (
            f"{found}: no prompt has a label{penalised}. Lower labels.threshold ({labels.threshold}), or check that "
            "the responses have answers (label/parse_rate)."
        )
    agreement = metrics.get("label/agreement", metrics["label/pseudo_reward"])  # early records have only the latter
    if config.reward.mixture:  # its rewards are standardised, so equal ones are 0
        return f"{found}. Take problems whose responses differ, or raise rollout.temperature."
    if agreement > 0.999:
        return (
            f"{found}: every response agrees with its label. Take harder problems or a higher "
            "rollout.temperature, or stop here."
        )
    if agreement < 0.001:
        return (
            f"{found}: no response agrees with its label. Take easier problems, and compare some labels with the "
            "answers in rollouts/."
        )
    return f"{found}. Take problems that the model solves sometimes, or raise batch.samples_per_prompt."


def is_alike(metrics: dict[str, float], config: ConfigDict) -> bool:
    """Tells whether the rewards of a step give no gradient with the advantage of the config."""
    if config.rl.objective != "policy_gradient" or config.labels.source == "none" or metrics["label/informative"] > 0:
        return False
    if config.labels.unlabelled == "penalty" and 0 < metrics["label/labelled"] < 1:
        return False
    # Resampling leaves prompts with equal rewards out of the loss, whatever the advantage is.
    if config.rl.advantage in WITHIN_PROMPT or config.batch.resample_rounds:
        return True
    rewards = (0,) if config.rl.advantage == "reinforce" else (0, 1)
    return metrics["label/labelled"] == 0 or metrics["label/pseudo_reward"] in rewards


def collapse_warning(alarm: str, action: str, source: str) -> str:
    """The warning for an alarm of collapse.Detector. action: guard.action. source: labels.source."""
    known = source == "ground_truth"
    remedy = {
        "stop": "The run ends here (guard.action).",
        "teacher": "The run returns to the chosen checkpoint, or ends if it has done so before (guard.action).",
    }.get(
        action,
        "Such a run may recover; a lower optimizer.learning_rate makes it steadier."
        if known
        else "Compare the rollouts of this step with those of the first steps (rollouts/). guard.action='stop' "
        "ends such a run; a higher rl.kl_coef or a lower optimizer.learning_rate makes a collapse less likely.",
    )
    if known:
        return f"signs of a collapse, although the labels are known answers: {alarm} {remedy}"
    return f"the vote seems to collapse, although the pseudo-reward looks good: {alarm} {remedy}"


@dataclasses.dataclass
class Diagnosis:
    """The warnings of a run, each kind once. To resume a run, `repeat` its records."""

    config: ConfigDict
    stop_tokens: Sequence[str]
    said: set[str] = dataclasses.field(default_factory=set)
    alike: int = 0  # steps in a row

    def update(self, metrics: dict[str, float], alarm: str | None = None, responses: Responses = nothing) -> list[str]:
        """The new warnings for the metrics of a step (`label/*`, `rollout/*`) or of evaluations (`eval/<set>/*`).

        alarm: from collapse.Detector; responses: the texts that these metrics describe, to try other answer styles on.
        """
        config, found = self.config, {}
        for parse_rate, truncated in _pairs(metrics):
            if "parse" not in self.said:
                found["parse"] = found.get("parse") or parse_warning(
                    parse_rate, truncated, config.answer.style, responses
                )
            found["cut"] = found.get("cut") or cut_warning(
                truncated, config.batch.max_response_tokens, self.stop_tokens
            )
        if "label/informative" in metrics:
            self.alike = self.alike + 1 if is_alike(metrics, config) else 0
            if self.alike >= STEPS_ALIKE and "parse" not in self.said:  # otherwise that is the reason
                found["alike"] = alike_warning(metrics, config)
        if alarm:
            found["collapse"] = collapse_warning(alarm, config.guard.action, config.labels.source)
        new = {kind: text for kind, text in found.items() if text and kind not in self.said}
        self.said |= new.keys()
        return list(new.values())

    def repeat(self, record: dict, alarm: str | None = None) -> None:
        """Repeats the updates of a record of metrics.jsonl. Its warnings tell what its responses, now gone, led to."""
        self.update(record, alarm)
        if any(line.startswith(PARSE_START) for line in record.get("warning", "").splitlines()):
            self.said.add("parse")


def _pairs(metrics: dict[str, float]) -> list[tuple[float, float]]:
    """(parse rate, share of truncated responses) of the step and of each evaluation set."""
    prefixes = [
        (tag, tag.replace("label/parse_rate", "rollout/truncated").replace("parse_rate", "truncated"))
        for tag in metrics
        if tag.endswith("/parse_rate")
    ]
    return [(metrics[tag], metrics.get(cut, 0.0)) for tag, cut in prefixes]
