"""What must be told to JAX before it computes anything, and its profiler."""
import contextlib
import os
from collections.abc import Iterable, Iterator

import jax

from srt_jax import xla_flags

TRACED = (3, 5)  # first and last of the steps that are traced: the earlier ones compile


def start(cpu_devices: int = 0) -> None:
    """Splits the CPU into simulated devices (0: leaves it whole) and keeps compiled programs between processes.

    The programs go to $JAX_COMPILATION_CACHE_DIR, by default cache/xla in the current folder. Where JAX for GPUs or
    TPUs is installed, XLA's flags for them are set.
    """
    xla_flags.apply()
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", "cache/xla"))
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)


def profiled(steps: Iterable[int], directory, enabled: bool = True) -> Iterator[int]:
    """Yields the steps; the third to the fifth are traced into `directory`, for TensorBoard's profiler.

        for step in profiled(range(start + 1, last + 1), run_directory / "tensorboard", config.log.profile):
    """
    with contextlib.ExitStack() as trace:
        for turn, step in enumerate(steps, 1):
            if enabled and turn == TRACED[0]:
                trace.enter_context(jax.profiler.trace(str(directory)))
            with jax.profiler.StepTraceAnnotation("step", step_num=step):
                yield step
            if turn == TRACED[1]:
                trace.close()
