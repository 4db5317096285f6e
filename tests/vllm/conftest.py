"""Real vLLM servers. One that serves the miniature is shared by all tests of this folder."""
import contextlib

import pytest

from srt_jax.rollout import vllm_server
from srt_jax.rollout.vllm_command import Settings
from tests.helpers import REPOSITORY

PYTHON = REPOSITORY / ".venv-vllm" / "bin" / "python"
MAX_MODEL_LEN = 28  # of small_config
START_SECONDS = 300.0


def pytest_collection_modifyitems(items):
    """Without an environment for the servers there is nothing to test; with one the limit is a start's."""
    installed = (REPOSITORY / ".venv-vllm" / "installed").exists()
    for item in items:
        if "tests/vllm/" in str(item.path):
            item.add_marker(pytest.mark.timeout(2 * START_SECONDS))
            if not installed:
                item.add_marker(pytest.mark.skip(reason="no .venv-vllm: launch/test.sh makes it, or says why not"))


@contextlib.contextmanager
def started(log_folder, models: dict, **settings):
    """{name: Server} that all started at once, each on its model directory."""
    fields = dict(dtype="float32", max_model_len=MAX_MODEL_LEN, memory_fraction=1, threads=1) | settings
    servers = {name: vllm_server.Server(name, Settings(str(PYTHON), **fields), log_folder / f"{name}.log",
                                        start_seconds=START_SECONDS, max_restarts=0) for name in models}
    try:
        for name, server in servers.items():
            server.start(models[name])
        for server in servers.values():
            server.wait()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture(scope="session")
def server(miniature, tmp_path_factory):
    """A server of the miniature, at first with its base weights."""
    with started(tmp_path_factory.mktemp("server"), {"shared": miniature}, threads=2) as servers:
        yield servers["shared"]
