import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

# Before anything computes: every test sees eight simulated devices, and builds its meshes from the first few of them.
jax.config.update("jax_num_cpu_devices", 8)
