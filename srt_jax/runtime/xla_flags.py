"""XLA's flags for each kind of accelerator: the one list of them. `runtime.start` applies it before JAX sees a device.

A flag that the installed compiler does not know would abort the process, so each is looked up in the compiler's binary
first: every flag's name stands there as a string of its own (tests/test_xla_flags.py compares this with what really
aborts). What the user has set in the environment stays.
"""

import dataclasses
import importlib.util
import mmap
import os
import pathlib
import re

from srt_jax.log import logger

COMBINED = str(512 * 2**20)  # bytes; all weights of a layer of a 7B model in bfloat16, gathered as one


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of one kind of accelerator. They apply where one of the `packages` is installed."""

    variable: str  # of the environment
    packages: tuple[str, ...]
    library: tuple[str, str]  # package and file that parse them
    values: dict[str, str]


GPU = Flags(
    "XLA_FLAGS",
    ("jax_cuda13_plugin", "jax_cuda12_plugin"),
    ("jaxlib", "libjax_common.so"),
    {
        # Runs the gathers of weights and the scatters of gradients beside the products.
        "xla_gpu_enable_latency_hiding_scheduler": "true",
        # The weights of a layer travel as one message, not as seven small ones.
        "xla_gpu_all_gather_combine_threshold_bytes": COMBINED,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": COMBINED,
        "xla_gpu_all_reduce_combine_threshold_bytes": COMBINED,
        # The loop over layers starts the next layer's gather in this one; else there is nothing to hide it behind.
        "xla_gpu_enable_pipelined_all_gather": "true",
        "xla_gpu_enable_pipelined_reduce_scatter": "true",
        # cuBLAS for plain products: nothing to tune at start-up; NVIDIA's own JAX recipes for these models use it.
        "xla_gpu_enable_triton_gemm": "false",
    },
)

# libtpu 0.0.50 overlaps collectives by itself: a 0.5B update for v5p is the same program with or without this flag, or
# xla_enable_async_all_gather and xla_tpu_overlap_compute_collective_tc. xla_tpu_enable_async_collective_fusion of older
# recipes refuses to compile for anything but a v5e.
TPU = Flags(
    "LIBTPU_INIT_ARGS",
    ("libtpu",),
    ("libtpu", "libtpu.so"),
    {
        "xla_tpu_enable_latency_hiding_scheduler": "true",
    },
)

# Share of a GPU's memory that JAX takes; its own default of 0.75 leaves 35 GB of an H200 unused.
GPU_MEMORY_FRACTION = 0.92


def apply(environ=os.environ) -> dict[str, str]:
    """Adds the flags of the accelerators whose plug-ins are installed to the environment; returns what was added.

    On a machine with JAX for CPUs alone nothing is. One that the installed compiler does not know is left out, and told
    on stderr. Must run before JAX initialises its backends.
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
    """Those of the names that the installed compiler parses."""
    package, file = flags.library
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    with open(pathlib.Path(folder) / file, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        return {name for name in names if binary.find(b"\0" + name.encode() + b"\0") >= 0}
