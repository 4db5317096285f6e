"""Shared by the benchmarks: loading a model or random weights of its shape, timing calls, peak memory."""

import pathlib
import resource

import jax

from srt_jax.model import attention, decoder, weights
from srt_jax.model.config import ModelConfig, model_shape
from srt_jax.runtime.measure import seconds_of

__all__ = ["choose_kernel", "load_model", "peak_bytes", "seconds_of"]


def load_model(model: str, mesh, dtype: str, remat: str = "none", kernel: str = "xla", seed: int = 0):
    """(graph definition, float32 parameters on the mesh) of a directory, or random parameters of a shipped shape."""
    if pathlib.Path(model).is_dir():
        return weights.load(model, dtype, remat, kernel, mesh)[:2]
    return decoder.create(model_shape(model), seed, mesh, dtype, remat, kernel)


def choose_kernel(name: str, dtype: str, config: ModelConfig) -> str:
    """The attention kernel that a run would choose on this machine."""
    return attention.choose(name, jax.devices()[0].platform, dtype, config.head_dim)


def peak_bytes() -> int:
    """Peak bytes in use on one device so far; on CPUs, which do not report it, of this process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
