"""Three hosts on one machine, as network namespaces: two run trainer processes, the third one a server."""

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from vllm_support import MAX_MODEL_LEN, PYTHON, config_of_run

from srt_jax.run.metrics_log import read_metrics
from tests.helpers import REPOSITORY
from tests.several_processes import variables_of

SPACES = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def may_make_hosts() -> bool:
    """Tells whether this user may make network namespaces, and connect them."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    connect = (
        "mount -t tmpfs tmpfs /mnt && ip link add bridge0 type bridge && ip link add port0 type veth peer name port1"
    )
    return subprocess.run([*SPACES, "sh", "-c", connect], capture_output=True, check=False).returncode == 0


@pytest.mark.long
def test_two_hosts_train_with_a_server_on_a_third(miniature, tmp_path):
    if not may_make_hosts():
        pytest.skip("this user may not make network namespaces, or the programs `unshare` and `ip` are missing")
    server = [PYTHON, "-m", "srt_jax.rollout.vllm.command", miniature, "--host=10.77.0.12", "--allow_unauthenticated"]
    server += ["--dtype=float32", "--memory_fraction=1", f"--max_model_len={MAX_MODEL_LEN}"]
    config = config_of_run(miniature, tmp_path, "http://host2:8000")
    trainer = [sys.executable, "-m", "srt_jax.main", f"--config={config}", "--config.mesh.cpu_devices=4"]
    trainer += ["--config.rollout.allow_unauthenticated=True", "--config.steps=1"]
    for i, command in enumerate((trainer, trainer, server)):
        own = variables_of(2, "host0:7000", i)
        line = shlex.join(["env", *(f"{name}={value}" for name, value in own.items()), *map(str, command)])
        (tmp_path / f"host{i}.sh").write_text(f"cd {shlex.quote(str(REPOSITORY))}\n{line}\n")
    hosts = [*SPACES, str(REPOSITORY / "tests/vllm/hosts.sh"), str(tmp_path)]
    subprocess.run(hosts, check=True, env=os.environ, timeout=500)
    said = [(tmp_path / f"host{i}.log").read_text() for i in range(3)]
    assert [(tmp_path / f"host{i}.status").read_text() for i in (0, 1)] == ["0\n", "0\n"], said[0][-3000:]
    assert "final holds the model" in said[0] and "final holds" not in said[1]
    records = read_metrics(tmp_path / "run")
    assert [record["step"] for record in records] == [0, 1]
    assert records[1]["publish/probe_gap_max"] < 1e-4 and records[1]["update/logprob_gap_max"] < 1e-4
    assert np.isfinite(records[1]["update/grad_norm"]) and records[1]["rollout/weights_version"] == 0
