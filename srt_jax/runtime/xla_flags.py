"""XLA's flags for each kind of accelerator. `runtime.start` applies them before JAX initialises a device.

An unknown flag aborts the process, so each flag is first looked up in the binary of the installed compiler, which has
every flag's name as a string (tests/test_xla_flags.py compares this with real aborts). Flags that the user has set in
the environment stay unchanged.
"""

import dataclasses
import importlib.util
import mmap
import os
import pathlib
import re

from srt_jax.log import logger

COMBINED = str(512 * 2**20)  # bytes; enough to gather all weights of a layer of a 7B model in bfloat16 at once


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of one kind of accelerator. They apply if one of the `packages` is installed."""

    variable: str  # name of the environment variable
    packages: tuple[str, ...]
    library: tuple[str, str]  # package and file of the compiler that parses them
    values: dict[str, str]


GPU = Flags(
    "XLA_FLAGS",
    ("jax_cuda13_plugin", "jax_cuda12_plugin"),
    ("jaxlib", "libjax_common.so"),
    {
        # Overlaps the gathers of weights and the scatters of gradients with the matrix products.
        "xla_gpu_enable_latency_hiding_scheduler": "true",
        # Sends the weights of a layer as one message instead of seven small ones.
        "xla_gpu_all_gather_combine_threshold_bytes": COMBINED,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": COMBINED,
        "xla_gpu_all_reduce_combine_threshold_bytes": COMBINED,
        # Starts the gather of the next layer during this layer, so that the two overlap.
        "xla_gpu_enable_pipelined_all_gather": "true",
        "xla_gpu_enable_pipelined_reduce_scatter": "true",
        # Uses cuBLAS for plain products: it needs no tuning at start-up. NVIDIA's JAX recipes for these models do so.
        "xla_gpu_enable_triton_gemm": "false",
    },
)

# libtpu 0.0.50 overlaps collectives by default: the program of a 0.5B update for v5p is the same with and without this
# flag, xla_enable_async_all_gather and xla_tpu_overlap_compute_collective_tc. Older recipes also set
# xla_tpu_enable_async_collective_fusion, with which only programs for v5e compile.
TPU = Flags(
    "LIBTPU_INIT_ARGS",
    ("libtpu",),
    ("libtpu", "libtpu.so"),
    {
        "xla_tpu_enable_latency_hiding_scheduler": "true",
    },
)

# Share of a GPU's memory that JAX allocates. JAX's default of 0.75 leaves 35 GB of an H200 unused.
GPU_MEMORY_FRACTION = 0.92


def apply(environ=os.environ) -> dict[str, str]:
    """Adds the flags of all accelerators whose plug-ins are installed to the environment; returns the added flags.

    If only JAX for CPUs is installed, it adds none. It leaves out flags that the installed compiler does not know, with
    a warning. Must run before JAX initialises its backends.
    """
    added = {}
    for flags in (GPU, TPU):
        if any(importlib.util.find_spec(package) for package in flags.packages):
            here = environ.get(flags.variable, "")
            theirs = set(re.findall(r"--(\w+)", here))
            wanted = {name: value for name, value in flags.values.items() if name not in theirs}
            understood = known(flags, wanted)
            if left_out := sorted(wanted.keys() - understood):
                logger.warning(f"XLA flags unknown to this compiler, left out: {', '.join(left_out)}")
            text = " ".join(f"--{name}={wanted[name]}" for name in wanted if name in understood)
            environ[flags.variable] = f"{text} {here}".strip()
            added[flags.variable] = text
    if "XLA_FLAGS" in added:
        environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(GPU_MEMORY_FRACTION))
    return added


def known(flags: Flags, names) -> set[str]:
    """The names among these that the installed compiler parses."""
    package, file = flags.library
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    with open(pathlib.Path(folder) / file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        return {name for name in names if binary.find(b"\0" + name.encode() + b"\0") >= 0}
