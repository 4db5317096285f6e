"""Access to .venv-plan, which has 5 GB of compilers. A user makes it as docs/planning.md describes."""

import os

import pytest

from tests.helpers import REPOSITORY

PYTHON = REPOSITORY / ".venv-plan" / "bin" / "python"
needs_plan_environment = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-plan: the compilers for TPUs and GPUs are 5 GB (docs/planning.md)"
)


def python() -> str:
    """The environment's interpreter."""
    return str(PYTHON)


def variables() -> dict[str, str]:
    """The environment variables of a process there. Its compilers do not know the flags of tests/conftest.py."""
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return inherited | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
