"""Fixtures of all tests. Every test sees eight simulated devices, and builds its meshes from the first few of them."""
import os
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

from srt_jax import runtime
from srt_jax.grading import Grader
from tests.helpers import REPOSITORY

runtime.start(cpu_devices=8)


@pytest.fixture(scope="session")
def miniature():
    """The miniature base model, made once (about a minute and a half) and kept in the project's cache folder."""
    directory = REPOSITORY / "cache" / "miniature"
    subprocess.run([sys.executable, "-m", "srt_jax.pretrain", f"--out={directory}"], cwd=REPOSITORY, check=True)
    return directory


@pytest.fixture(scope="session")
def grader():
    """One grader for all tests, with two workers."""
    with Grader(workers=2) as shared:
        yield shared
