"""Settings that JAX needs before it computes anything, and its profiler."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import jax

from srt_jax.errors import ConfigError
from srt_jax.log import console
from srt_jax.runtime import compile_cache, xla_flags

TRACED = (3, 5)  # first and last traced step; earlier steps compile


def start(cpu_devices: int = 0, dtype: str = "bfloat16") -> None:
    """Starts JAX: sets XLA's flags, caches compiled programs on disk, and joins the other processes of the run.

    cpu_devices: simulated devices on the CPU (0: one). dtype: the compute dtype; `resolve.on_this_machine` sets that of
    a config, which is known only when JAX runs. The cache is $JAX_COMPILATION_CACHE_DIR, by default cache/xla in the
    current folder.
    """
    xla_flags.apply()
    keep_precision(dtype)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "cache/xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    compile_cache.repair(cache)
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    join_processes(os.environ)


def keep_precision(dtype: str) -> None:
    """Makes products of float32 matrices exact: by default they run in TF32 on GPUs and in bfloat16 on TPUs."""
    # bfloat16 needs no setting, and TPU kernels refuse bfloat16 with this one.
    jax.config.update("jax_default_matmul_precision", "highest" if dtype == "float32" else None)


def join_processes(environment) -> None:
    """Joins the processes of a run if the environment has one of these settings:

    - JAX_COORDINATOR_ADDRESS (host:port of process 0) with JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    - more than one task of a SLURM step (srun), or more than one TPU_WORKER_HOSTNAMES: JAX reads the rest from there;
    - SRT_PROCESSES=auto: JAX finds everything by itself, as on Cloud TPU pods.

    They connect to each other without the proxy that the environment may name for downloads. The first one prints all
    messages, the others print only warnings (srt_jax/log.py). Raises ConfigError if a variable is missing or is no
    number.
    """
    # gRPC would use http_proxy to reach the first process. An empty grpc_proxy has priority and means no proxy.
    environment.setdefault("grpc_proxy", "")
    jax.config.update("jax_check_proxy_envs", False)  # its warning says to unset the variables
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        count, index = (_number(environment, name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        # One process per host with all its devices; JAX's default under SLURM is one process per device.
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
    """Tells whether this process prints and writes files for all processes."""
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
    """Yields the steps, and traces the third to the fifth into `directory` for TensorBoard's profiler.

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
