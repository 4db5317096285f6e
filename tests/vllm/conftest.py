"""Real vLLM servers. One that serves the miniature is shared by all tests of this folder."""

import os

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # a server starts with 18 s of CPU time instead of 24 s

import pytest
from vllm_support import START_SECONDS, started

from tests.helpers import REPOSITORY


def pytest_collection_modifyitems(items):
    """Without an environment for the servers there is nothing to test; with one the limit is a start's."""
    installed = (REPOSITORY / ".venv-vllm" / "installed").exists()
    for item in items:
        if "tests/vllm/" in str(item.path):
            item.add_marker(pytest.mark.timeout(2 * START_SECONDS))
            if not installed:
                item.add_marker(pytest.mark.skip(reason="no .venv-vllm: launch/test.sh makes it, or says why not"))


@pytest.fixture(scope="session")
def server(miniature, tmp_path_factory):
    """A server of the miniature, at first with its base weights."""
    with started(tmp_path_factory.mktemp("server"), {"shared": miniature}, threads=2) as servers:
        yield servers["shared"]
