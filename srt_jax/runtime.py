"""What must be told to JAX before it computes anything."""
import os

import jax


def start(cpu_devices: int = 0) -> None:
    """Splits the CPU into simulated devices (0: leaves it whole) and keeps compiled programs between processes.

    The programs go to $JAX_COMPILATION_CACHE_DIR, by default cache/xla in the current folder.
    """
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", "cache/xla"))
    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
