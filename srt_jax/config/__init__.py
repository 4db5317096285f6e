"""The configuration of a run: its fields with the paper's values, and the checks before a run starts."""

from srt_jax.config.arithmetic import (
    describe,
    has_teacher,
    may_fall_back,
    mesh_shape,
    needs_reference,
    plans_checkpoint,
    policy_samples,
    prompts_per_call,
    reward_weights,
    stores_teacher,
    takes_readings,
    teacher_samples,
    votes_per_prompt,
)
from srt_jax.config.fields import MEAN, VALIDATION, base, source
from srt_jax.config.paths import expanded, run_directory
from srt_jax.config.records import differing_fields, fingerprint_fields, recorded

__all__ = [
    "MEAN",
    "VALIDATION",
    "base",
    "describe",
    "differing_fields",
    "expanded",
    "fingerprint_fields",
    "has_teacher",
    "may_fall_back",
    "mesh_shape",
    "needs_reference",
    "plans_checkpoint",
    "policy_samples",
    "prompts_per_call",
    "recorded",
    "reward_weights",
    "run_directory",
    "source",
    "stores_teacher",
    "takes_readings",
    "teacher_samples",
    "votes_per_prompt",
]
