"""The planner's environment with its 5 GB of compilers, for the tests that need it; made by hand (docs/planning.md)."""

import pytest

from tests.helpers import REPOSITORY

PYTHON = REPOSITORY / ".venv-plan" / "bin" / "python"
needs_plan_environment = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-plan: the compilers for TPUs and GPUs are 5 GB (docs/planning.md)"
)


def python() -> str:
    """The environment's interpreter."""
    return str(PYTHON)
