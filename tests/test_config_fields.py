"""The table of config fields: its rules, its comments, and the code that acts on each choice."""

import inspect
import io
import pathlib
import re
import tokenize

import pytest

from srt_jax.config import base, fields, source
from srt_jax.config.allowed import rules
from srt_jax.config.validation import ACROSS_PROMPTS, validate
from srt_jax.data.problems import LOADERS
from srt_jax.errors import ConfigError
from srt_jax.grading.answers import BOXES, STYLES
from srt_jax.grading.grader import Grader
from srt_jax.model.decoder import KEPT
from srt_jax.reward.labels import SOURCES
from srt_jax.reward.shapes import SHAPES
from srt_jax.rl.advantages import PER_ROLLOUT, WHITENED
from srt_jax.rl.confidence import CONFIDENCES
from srt_jax.rl.losses import KL_ESTIMATES
from srt_jax.run.diagnosis import WITHIN_PROMPT

RULES = {**dict(rules(fields.FIELDS)), **{f"eval.sets.a.{name}": rule for name, rule in rules(fields.SOURCE)}}


def valid_config():
    config = base()
    config.name, config.model.path = "x", "y"
    with config.eval.unlocked():
        config.eval.sets.a = source()
    return config


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("data.kind", LOADERS),
        ("answer.style", STYLES),
        ("answer.boxes", BOXES),
        ("model.remat", KEPT),
        ("labels.source", {*SOURCES, "mixed"}),
        ("reward.shape", {*SHAPES, *CONFIDENCES}),
        ("rl.kl", KL_ESTIMATES),
        ("rl.advantage", {*PER_ROLLOUT, *WHITENED}),
    ],
)
def test_the_choices_of_a_field_are_those_that_the_code_knows(field, known):
    assert set(RULES[field].choices) == set(known)


def test_each_advantage_has_its_baseline_within_a_prompt_or_not():
    """Checks of a config and warnings of a run depend on it."""
    assert {*WITHIN_PROMPT} ^ {*ACROSS_PROMPTS} == {*RULES["rl.advantage"].choices}


def test_the_comment_on_the_time_limit_of_a_proof_names_that_of_all_proofs():
    budget = inspect.signature(Grader).parameters["budget"].default
    assert f"but {budget:g} s after the first one" in pathlib.Path(fields.__file__).read_text()


@pytest.mark.parametrize("field", RULES)
def test_a_rule_allows_its_default_and_refuses_a_wrong_value_with_the_field_s_name(field):
    rule, config = RULES[field], valid_config()
    validate(config)
    assert rule.allows(rule.default) and all(rule.allows(choice) for choice in rule.choices)
    if rule.elements:
        return
    wrong = "nothing" if isinstance(rule.default, str) else type(rule.default)(-7)
    assert not rule.allows(wrong)
    *sections, name = field.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = wrong
    with pytest.raises(ConfigError, match=rf"^{re.escape(field)} is {wrong!r}: .*\.$"):
        validate(config)


@pytest.mark.parametrize(
    ("field", "value", "switch", "off", "on"),
    [
        ("model.lora.alpha", 64.0, "model.lora.rank", 0, 8),
        ("model.lora.rslora", True, "model.lora.rank", 0, 8),
        ("rollout.temperature_end", 0.5, "rollout.temperature_steps", 0, 10),
        ("curriculum.steps", 600, "curriculum.path", "", "f.jsonl"),
        ("reward.overlong_buffer", 512, "rl.objective", "cross_entropy", "policy_gradient"),
    ],
)
def test_a_value_that_a_run_would_ignore_is_refused(field, value, switch, off, on):
    """Otherwise a run that sets only the rank's scale, for example, trains the model itself."""

    def config(**changes):
        c = valid_config()
        c.rollout.old_logprobs = "trainer"
        c.update_from_flattened_dict({switch: off, **changes})
        if c.rl.objective == "cross_entropy":
            c.labels.source, c.rl.kl_coef = "none", 0.0
        return c

    validate(config())
    validate(config(**{switch: on, field: value}))
    message = (
        rf"^{field} is {re.escape(repr(value))}, but {switch} is {off!r}, so it is ignored: set {switch} to .*, or "
    )
    with pytest.raises(
        ConfigError, match=message + rf"{field} to .*, and resume .* --allow_change={field.split('.')[0]}"
    ):
        validate(config(**{field: value}))
    validate(config(**{field: value}), recorded=True)  # nobody can change the config of an older run


def test_a_comment_on_a_field_is_one_sentence_and_lists_no_choices():
    text = pathlib.Path(fields.__file__).read_text()
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    sentences = [comment for comment in comments if comment.endswith(".")]
    assert len(sentences) > 100 and set(comments) - set(sentences) <= {"# jsonl and parquet", "# set", "# gym"}
    for comment in sentences:
        assert not re.search(r"\. [A-Z]| \| ", comment), comment
