"""`srt check`: each fault that it must find, and whole runs of it in one process and in two."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from srt_jax.jobs import check
from srt_jax.model import sharding
from srt_jax.rollout.vllm.command import free_port
from srt_jax.runtime import hardware, measure
from tests.helpers import REPOSITORY

H100 = hardware.CHIPS["h100"]
RIGHT = {"jax": "0.11.0", "jaxlib": "0.11.0", "jax-cuda13-plugin": "0.11.0", "driver": "580.65.06"}


def lines(found) -> str:
    found = [found] if isinstance(found, check.Finding) else found
    return "\n".join(finding.line() for finding in found)


@pytest.mark.parametrize(
    "by_process, line",
    [
        ([RIGHT], "ok     versions: jax 0.11.0, jaxlib 0.11.0, jax-cuda13-plugin 0.11.0, driver 580.65.06"),
        (
            [RIGHT | {"jax-cuda13-plugin": "0.10.2"}],
            "wrong  versions: jax-cuda13-plugin 0.10.2 does not match jaxlib 0.11.0, so that JAX does not use it: "
            'pip install "jax[cuda13]==0.11.0"',
        ),
        (
            [RIGHT | {"driver": "570.124.06"}],
            "wrong  driver: the NVIDIA driver is 570.124.06, and jax-cuda13-plugin needs 580 or newer: update the "
            "driver, or install the plug-in of an older CUDA version",
        ),
        (
            [RIGHT, RIGHT, RIGHT | {"jaxlib": "0.11.2"}],
            "wrong  versions: jaxlib is 0.11.0 in process 0 and 0.11.2 in process 2: install the same requirements "
            "on every host",
        ),
        (
            [{"jax": "0.11.0", "jaxlib": "0.11.0"}, {"jax": "0.11.0", "jaxlib": "0.11.0", "libtpu": "0.0.50"}],
            "wrong  versions: libtpu is missing in process 0 and 0.0.50 in process 1: install the same requirements "
            "on every host",
        ),
    ],
)
def test_versions_that_do_not_fit_together(by_process, line):
    assert lines(check.judge_versions(by_process)) == line


def test_accelerators_that_jax_does_not_use():
    gpus = {"gpu": "8 NVIDIA GPUs"}
    assert lines(check.judge_devices("cpu", "cpu", [1], gpus)) == (
        "wrong  devices: 1 x cpu, but this machine has 8 NVIDIA GPUs, which JAX cannot use: pip install -r "
        "requirements-cuda.txt"
    )
    assert check.judge_devices("cpu", "cpu", [1], gpus, "cpu").level == check.SLOW
    assert check.judge_devices("gpu", "NVIDIA H100 80GB HBM3", [8, 8], gpus).level == check.OK
    assert check.judge_devices("gpu", "NVIDIA H100 80GB HBM3", [8, 7], gpus).level == check.WRONG
    assert check.judge_devices("cpu", "cpu", [2], {}).level == check.OK


def test_limits_of_memory_arithmetic_and_links():
    """Each judgement: facts that are right, and facts of which one is not."""
    limit = H100.memory * 0.92
    cases = [
        (check.judge_flags, [()], [({"xla_gpu_new"},)]),
        (
            check.judge_device_memory,
            (limit, 0.0, H100.memory),
            [(limit, 30e9, H100.memory), (limit / 2, 0.0, H100.memory)],
        ),
        (check.judge_host_memory, (64e9, 60e9), [(64e9, 1e9)]),
        (check.judge_peaks, (700e12, 2900e9, H100), [(300e12, 2900e9, H100), (700e12, 1000e9, H100)]),
        (check.judge_collective, ("all-gather", 300e9, True, "gpu", 8), [("all-gather", 5e9, True, "gpu", 8)]),
        (check.judge_collective, ("all-gather", 1e9, True, "cpu", 8), [("all-gather", 1e9, False, "cpu", 8)]),
        (check.judge_update, ("8 x 64 tokens", 0.1, 9.0, True), [("8 x 64 tokens", 0.1, 9.0, False)]),
        (check.judge_server, (30.0, 1e-6), [(30.0, 0.5), (30.0, float("nan"))]),
    ]
    for judge, right, wrong in cases:
        assert judge(*right).level == check.OK, judge
        for facts in wrong:
            found = judge(*facts)
            assert found.level in (check.SLOW, check.WRONG) and found.advice, (judge, facts)


def test_a_wrong_attention_kernel():
    plain = np.full(5, 0.004)
    assert check.judge_attention("cudnn", "1024 tokens", plain * 1.5, plain).level == check.OK
    errors = np.array([0.004, 0.004, 0.3, 0.004, 0.004])
    assert lines(check.judge_attention("cudnn", "1024 tokens", errors, plain)).startswith(
        "wrong  attention cudnn: relative error of score, out, dq, dk, dv at most 0.3000, 1024 tokens, above 0.0100: "
    )


def test_a_slow_disk():
    folder = pathlib.Path("/mnt/nfs")
    assert lines(check.judge_disk("disk", folder, 0.05e9, 0.1e9, 2e12, check.SLOW_DISK)) == (
        "slow   disk: /mnt/nfs: 0.05 GB/s written, 0.10 GB/s read, 2000 GB free; a checkpoint of a 7B model (91 GB) "
        "takes 1820 s: set config.out to a faster disk, or checkpoint.every to more steps"
    )
    assert check.judge_disk("disk", folder, 0.5e9, 0.1e9, 2e12, check.SLOW_DISK).level == check.OK


def test_disks_that_cannot_be_written_and_that_are_missing(tmp_path):
    found = list(check.check_disks(pathlib.Path("/proc/runs"), tmp_path / "no_ram_disk"))
    assert [(f.level, f.what) for f in found] == [(check.WRONG, "disk"), (check.NOTE, "RAM disk")]
    assert "/proc cannot be written" in found[0].found


def test_a_disk_is_measured_and_left_as_it_was(tmp_path):
    written, read = measure.disk(tmp_path, 16 * 2**20)
    assert written > 0 and read > 0 and not list(tmp_path.iterdir())


def test_collectives_are_timed_and_their_results_compared():
    mesh = sharding.make_mesh(data=1, fsdp=8)
    found = measure.collectives(mesh, 2**20)
    assert list(found) == ["all-gather", "reduce-scatter"]
    assert all(bandwidth > 0 and right for bandwidth, right in found.values())


def test_the_verdict_names_what_is_wrong_and_slow():
    found = [check.Finding(level, what, "") for level, what in (("ok", "a"), ("slow", "b"), ("slow", "b"))]
    assert check.verdict(found[:1]) == "verdict: ready"
    assert check.verdict(found) == "verdict: ready; slow: b"
    assert check.verdict([*found, check.Finding("wrong", "c", "")]) == "verdict: not ready; wrong: c; slow: b"


def with_package(folder: pathlib.Path, name: str, version: str) -> dict[str, str]:
    """The environment in which importlib.metadata finds this version of a package, too."""
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}


def test_two_processes_with_a_wrong_plug_in_and_no_vllm(tmp_path):
    """A whole check. Each process has its own line of what is wrong, and the first one prints all."""
    port = free_port()
    started = []
    for process in range(2):
        given = with_package(tmp_path / str(process), "jax_cuda13_plugin", f"0.9.{process}")
        given |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
        command = [
            *(sys.executable, "-m", "srt_jax", "check", "--config=configs/quickstart.py"),
            *("--config.rollout.sampler=vllm", f"--config.rollout.vllm.python={tmp_path}/none"),
            f"--config.out={tmp_path}",
        ]
        started.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=given | {"JAX_PROCESS_ID": str(process)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    try:
        (printed, errors), (other, _) = (process.communicate(timeout=240) for process in started)
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [1, 1], errors[-2000:]
    assert "versions" not in other  # but lines of Gloo
    assert "jax-cuda13-plugin 0.9.0 does not match jaxlib" in printed
    assert "jax-cuda13-plugin is 0.9.0 in process 0 and 0.9.1 in process 1" in printed
    assert f"wrong  vLLM: rollout.vllm.python is '{tmp_path}/none', which does not run" in printed
    for line in ("devices: 4 x cpu in 2 processes", "ok     all-gather: ", "ok     update: ", "ok     attention xla: "):
        assert line in printed
    assert "Error" not in printed
    assert printed.splitlines()[-1].startswith("verdict: not ready; wrong: versions, vLLM")
