"""Settings that JAX needs before it computes anything, and its profiler.

The functions import JAX, which takes most of a second. A parent (run/parent.py) and a config with a mistake do without.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from srt_jax.log import console
from srt_jax.runtime import compile_cache, xla_flags
from srt_jax.runtime.place import Place, has_all_devices, place_of

# The parents (run/parent.py) end a run with a better message than JAX, which does it so many seconds later.
JAX_PEER_SECONDS, JAX_JOIN_SECONDS = 10, 300
TRACED = (3, 5)  # first and last traced step; earlier steps compile


def start(
    cpu_devices: int = 0,
    dtype: str = "bfloat16",
    peer_seconds: float | None = None,
    join_seconds: float | None = None,
    limit: contextlib.AbstractContextManager | None = None,
) -> Place | None:
    """Starts JAX: sets XLA's flags, caches compiled programs on disk, and joins the other processes of the run.

    cpu_devices: simulated devices on the CPU (0: one). dtype: the compute dtype; `resolve.on_this_machine` sets that of
    a config, which is known only when JAX runs. The cache is $JAX_COMPILATION_CACHE_DIR, by default cache/xla in the
    current folder. peer_seconds, join_seconds, limit and the result: see `join_processes`.
    """
    import jax

    xla_flags.apply()
    keep_precision(dtype)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "cache/xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    compile_cache.repair(cache)
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    return join_processes(os.environ, peer_seconds, join_seconds, limit)


def keep_precision(dtype: str) -> None:
    """Makes products of float32 matrices exact: by default they run in TF32 on GPUs and in bfloat16 on TPUs."""
    import jax

    # bfloat16 needs no setting, and TPU kernels refuse bfloat16 with this one.
    jax.config.update("jax_default_matmul_precision", "highest" if dtype == "float32" else None)


def join_processes(
    environment: MutableMapping[str, str],
    peer_seconds: float | None = None,
    join_seconds: float | None = None,
    limit: contextlib.AbstractContextManager | None = None,
) -> Place | None:
    """Joins the processes of a run if it has several (`place_of`). Returns the place of this one in the run, or None.

    They connect to each other without the proxy that the environment may name for downloads. The first one prints all
    messages, the others print only warnings (srt_jax/log.py). peer_seconds, join_seconds: the fields of `stop`, None
    for JAX's own limits. If a process gives no sign of life for peer_seconds, JAX ends all others. limit: a
    context in which this process waits for the others. Raises ConfigError if a variable is missing or wrong.
    """
    import jax

    # gRPC would use http_proxy to reach the first process. An empty grpc_proxy has priority and means no proxy.
    environment.setdefault("grpc_proxy", "")
    jax.config.update("jax_check_proxy_envs", False)  # its warning says to unset the variables
    if (place := place_of(environment)) is None:
        return None
    settings: dict[str, Any] = {}
    if peer_seconds is not None:
        settings["heartbeat_timeout_seconds"] = math.ceil(peer_seconds) + JAX_PEER_SECONDS
    if join_seconds is not None:
        settings["initialization_timeout"] = math.ceil(join_seconds) + JAX_JOIN_SECONDS
    if place.address:
        settings |= {"coordinator_address": place.address, "num_processes": place.count, "process_id": place.index}
        settings["cluster_detection_method"] = "deactivate"
    else:
        # JAX gives each task of srun or mpirun one GPU, that with the task's number on its host. [] restricts nothing.
        if has_all_devices(environment) and "JAX_LOCAL_DEVICE_IDS" not in environment:
            settings["local_device_ids"] = []
        environment.pop("JAX_COORDINATOR_ADDRESS", None)  # it is empty, and JAX would take that for an address
    with limit or contextlib.nullcontext():
        jax.distributed.initialize(**settings)
    console.process = jax.process_index()
    return Place(jax.process_index(), jax.process_count(), place.address)


def is_first_process() -> bool:
    """Tells whether this process prints and writes files for all processes."""
    import jax

    return jax.process_index() == 0


def profiled(steps: Iterable[int], directory, enabled: bool = True) -> Iterator[int]:
    """Yields the steps, and traces the third to the fifth into `directory` for TensorBoard's profiler.

    for step in profiled(range(start + 1, last + 1), run_directory, config.log.profile):
    """
    import jax

    with contextlib.ExitStack() as trace:
        for turn, step in enumerate(steps, 1):
            if enabled and turn == TRACED[0]:
                trace.enter_context(jax.profiler.trace(str(directory)))
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                yield step
            if turn == TRACED[1]:
                trace.close()
