"""What must be told to JAX before it computes anything, and its profiler."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import jax

from srt_jax.errors import ConfigError
from srt_jax.log import console
from srt_jax.runtime import xla_flags

TRACED = (3, 5)  # first and last of the steps that are traced: the earlier ones compile


def start(cpu_devices: int = 0, dtype: str = "bfloat16") -> None:
    """Splits the CPU into simulated devices (0: leaves it whole) and keeps compiled programs between processes.

    The programs go to $JAX_COMPILATION_CACHE_DIR, by default cache/xla in the current folder. Where JAX for GPUs or
    TPUs is installed, XLA's flags for them are set. `dtype` is the compute dtype; that of a config is known only once
    JAX runs, and resolve.on_this_machine sets it. Joins the other processes of a run on several hosts.
    """
    xla_flags.apply()
    keep_precision(dtype)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", "cache/xla"))
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    join_processes(os.environ)


def keep_precision(dtype: str) -> None:
    """Computes float32 as float32: matrix products of it would run in TF32 on GPUs and in bfloat16 on TPUs."""
    # 16 bits need nothing, and with it TPU kernels refuse them.
    jax.config.update("jax_default_matmul_precision", "highest" if dtype == "float32" else None)


def join_processes(environment) -> None:
    """Joins the processes of a run, where the environment tells of several:

    - JAX_COORDINATOR_ADDRESS (host:port of process 0) with JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    - more than one task of a SLURM step (srun), or more than one TPU_WORKER_HOSTNAMES: JAX finds the rest there;
    - SRT_PROCESSES=auto: JAX finds all by itself, as on Cloud TPU pods.

    They reach each other directly, whatever proxy the environment names for downloads. Only the first one prints
    messages, the others warnings (srt_jax/log.py). Raises ConfigError where a variable is missing or no number.
    """
    # gRPC would ask http_proxy for the way to the first process. An empty grpc_proxy comes before it and means none.
    environment.setdefault("grpc_proxy", "")
    jax.config.update("jax_check_proxy_envs", False)  # its warning asks to unset the variables
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        count, index = (_number(environment, name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        # With all devices of its host; JAX's own way under SLURM is one process per device.
        jax.distributed.initialize(
            environment["JAX_COORDINATOR_ADDRESS"], count, index, cluster_detection_method="deactivate"
        )
    elif (
        int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or environment.get("SRT_PROCESSES") == "auto"
    ):
        jax.distributed.initialize()
    else:
        return
    console.process = jax.process_index()


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return jax.process_index() == 0


def _number(environment, name: str) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS is set, but {name} is {value!r}: set it to a number in every "
            "process, or unset JAX_COORDINATOR_ADDRESS."
        )
    return int(value)


def profiled(steps: Iterable[int], directory, enabled: bool = True) -> Iterator[int]:
    """Yields the steps; the third to the fifth are traced into `directory`, for TensorBoard's profiler.

    for step in profiled(range(start + 1, last + 1), run_directory, config.log.profile):
    """
    with contextlib.ExitStack() as trace:
        for turn, step in enumerate(steps, 1):
            if enabled and turn == TRACED[0]:
                trace.enter_context(jax.profiler.trace(str(directory)))
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                yield step
            if turn == TRACED[1]:
                trace.close()
