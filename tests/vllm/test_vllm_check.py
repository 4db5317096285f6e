"""`srt check` with vLLM: the server that it starts itself, and servers that it is given."""

import jax
import pytest
from vllm_support import PYTHON

from srt_jax.config import base
from srt_jax.jobs import check
from tests.several_processes import reserved_port


@pytest.mark.slow
def test_a_server_answers_with_the_log_probs_of_the_trainer():
    config = base()
    config.rollout.vllm.python = str(PYTHON)
    (found,) = check.check_vllm(config, "float32")
    assert found.level == check.OK, found.line()
    gap = float(found.found.rpartition(" ")[2])
    assert 0 < gap < 1e-4 and jax.default_backend() == "cpu"


def test_given_servers_are_asked(server):
    config, nobody = base(), f"http://127.0.0.1:{reserved_port()}"
    config.rollout.servers = (server.url, nobody)
    found = list(check.check_vllm(config, "float32"))
    assert [(f.level, f.found) for f in found] == [
        (check.OK, f"{server.url} answers"),
        (check.WRONG, f"no server answers at {nobody}"),
    ]
