"""The configuration of a run: its fields with the papers' values, and what can be checked before anything starts."""

from srt_jax.config.fields import (
    MEAN,
    VALIDATION,
    base,
    describe,
    differing_fields,
    expanded,
    fingerprint_fields,
    mesh_shape,
    recorded,
    run_directory,
    source,
)

__all__ = [
    "MEAN",
    "VALIDATION",
    "base",
    "describe",
    "differing_fields",
    "expanded",
    "fingerprint_fields",
    "mesh_shape",
    "recorded",
    "run_directory",
    "source",
]
