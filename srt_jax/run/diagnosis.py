"""Says in plain words, and with a remedy, that a run's set-up looks wrong. Pure functions of a step's metrics.

What is looked for makes a run useless without stopping it: responses in which no answer is found, responses that are
cut, a vote that collapses, rewards that teach nothing. Each is said once in a run.
"""

import dataclasses
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from srt_jax.grading import extract
from srt_jax.grading.answers import MARKED_STYLES

# With an answer in less than a tenth of the responses 32 samples have about three votes: no majority to speak of.
PARSE_RATE = 0.1
# More cut responses than whole ones: the reward mostly tells short from long.
TRUNCATED = 0.5
# A style fits where it finds an answer in most responses.
FITS = 0.5
# Steps in a row without a difference between rewards: one can be chance, where a step has few prompts.
STEPS_ALIKE = 3
# Advantages that compare a response with the others to its prompt only.
WITHIN_PROMPT = ("rloo", "grpo", "dr_grpo", "reinforce_pp_baseline")

Responses = Callable[[], Sequence[str]]  # the texts, made only where they are looked at


def nothing() -> Sequence[str]:
    """No responses are at hand."""
    return ()


def fitting_style(responses: Sequence[str], style: str) -> tuple[str, float] | None:
    """(another answer style that finds an answer in most of the responses, the share of them); None: there is none."""
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
    """Where nearly no response has an answer and another reason than that they were cut is likely."""
    if not parse_rate < PARSE_RATE:
        return None
    found = f"only {parse_rate:.0%} of the responses" if parse_rate else "none of the responses"
    problem = f"answer.style={style!r} finds an answer in {found}"
    if other := fitting_style(responses(), style):
        return f"{problem}; answer.style={other[0]!r} would find one in {other[1]:.0%}: set it."
    if truncated > TRUNCATED:
        return None  # they were cut before their answer: cut_warning says so
    return (
        f"{problem}, and no other style fits them: read some (rollouts/, or TensorBoard's Text tab), then change "
        f"prompts.instruction and prompts.template, or answer.style ({', '.join(MARKED_STYLES)})."
    )


def cut_warning(truncated: float, max_response_tokens: int, stop_tokens: Sequence[str]) -> str | None:
    """Where most responses reach the limit of their length."""
    if not truncated > TRUNCATED:
        return None
    return (
        f"{truncated:.0%} of the responses are cut at batch.max_response_tokens={max_response_tokens}: raise it. "
        f"Where the responses ought to have ended, see whether the model ends its turn with one of the stop tokens "
        f"({', '.join(map(repr, stop_tokens))}), and whether prompts.template is the one it was trained with."
    )


def alike_warning(metrics: dict[str, float], labels: ConfigDict) -> str:
    """What to do where all rewards of each prompt are alike, by a step's `label/*` metrics."""
    found = f"nothing is learned: for {STEPS_ALIKE} steps all rewards of a prompt were alike (label/informative 0)"
    if metrics.get("label/labelled", 1) == 0:
        return (
            f"{found}: no prompt has a label. Lower labels.threshold ({labels.threshold}), or see whether the "
            "responses have answers (label/parse_rate)."
        )
    agreement = metrics.get("label/agreement", metrics["label/pseudo_reward"])  # early records have the latter only
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
    return f"{found}. Take problems that the model solves sometimes, or more batch.samples_per_prompt."


def is_alike(metrics: dict[str, float], config: ConfigDict) -> bool:
    """Do a step's rewards give no gradient with the config's advantage?"""
    if config.rl.objective != "policy_gradient" or config.labels.source == "none" or metrics["label/informative"] > 0:
        return False
    if config.rl.advantage in WITHIN_PROMPT:
        return True
    rewards = (0,) if config.rl.advantage == "reinforce" else (0, 1)
    return metrics["label/labelled"] == 0 or metrics["label/pseudo_reward"] in rewards


def collapse_warning(alarm: str, ends: bool) -> str:
    """What an alarm of collapse.Detector means."""
    remedy = (
        "The run ends here (stop.collapse)."
        if ends
        else "Compare rollouts/ of this step with those of the first ones. With stop.collapse such a run ends by "
        "itself; a higher rl.kl_coef or a lower optimizer.learning_rate makes a collapse less likely."
    )
    return f"the vote seems to collapse, while the pseudo-reward looks fine: {alarm} {remedy}"


@dataclasses.dataclass
class Diagnosis:
    """The warnings of a run, each kind once. Its state is what `update` was given: feed the records again to go on."""

    config: ConfigDict
    stop_tokens: Sequence[str]
    said: set[str] = dataclasses.field(default_factory=set)
    alike: int = 0  # steps in a row

    def update(self, metrics: dict[str, float], alarm: str | None = None, responses: Responses = nothing) -> list[str]:
        """The new warnings, by the metrics of a step (`label/*`, `rollout/*`) or of evaluations (`eval/<set>/*`).

        alarm: of collapse.Detector; responses: the texts that the metrics are of, for the answer styles.
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
            if self.alike >= STEPS_ALIKE and "parse" not in self.said:  # else that is the reason
                found["alike"] = alike_warning(metrics, config.labels)
        if alarm:
            found["collapse"] = collapse_warning(alarm, config.stop.collapse)
        new = {kind: text for kind, text in found.items() if text and kind not in self.said}
        self.said |= new.keys()
        return list(new.values())


def _pairs(metrics: dict[str, float]) -> list[tuple[float, float]]:
    """(parse rate, share of cut responses) of the step and of each evaluation set."""
    prefixes = [
        (tag, tag.replace("label/parse_rate", "rollout/truncated").replace("parse_rate", "truncated"))
        for tag in metrics
        if tag.endswith("/parse_rate")
    ]
    return [(metrics[tag], metrics.get(cut, 0.0)) for tag, cut in prefixes]
