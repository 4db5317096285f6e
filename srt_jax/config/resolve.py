"""Fields that depend on the machine get their values: paths with `~`, the compute dtype, mesh and micro-batch.

Every job calls `on_this_machine` once, before anything else reads the config. A run writes the resolved config to
config.json, and can be resumed only with the same resolved config.
"""

from ml_collections import ConfigDict

from srt_jax import runtime
from srt_jax.config.arithmetic import mesh_shape
from srt_jax.config.paths import expand_paths
from srt_jax.config.validation import validate, validate_devices

# A micro-batch has at most so many sequences per device. XLA's attention on CPUs stores the scores of all of them.
ROWS, ROWS_ON_CPU = 4, 1


def on_this_machine(config: ConfigDict, trains: bool = True) -> tuple[ConfigDict, list[str]]:
    """(the resolved and checked config, a line for each field that the hardware decided). Starts JAX's backend.

    trains: whether the job makes updates; if it does, the devices must divide the batch. Also sets the precision of
    JAX's matrix products to that of the compute dtype. Raises ConfigError.
    """
    import jax

    validate(config)
    config, notes = resolve(config, jax.default_backend(), jax.device_count())
    validate_devices(config, jax.device_count(), jax.process_count(), trains)
    runtime.keep_precision(config.model.dtype)
    return config, notes


def resolve(config: ConfigDict, platform: str, num_devices: int) -> tuple[ConfigDict, list[str]]:
    """(a copy of the config for so many devices of a platform, a line for each field that they decided).

    platform: the value of jax.Device.platform; all but "cpu" compute in bfloat16. Fields with a value of their own
    stay as they are. So does a mesh of another number of devices, which validate_devices refuses.
    """
    config, notes = expand_paths(config), []
    here = f"{num_devices} {platform.upper()} device{'s' if num_devices != 1 else ''}"
    if config.model.dtype == "auto":
        config.model.dtype = "float32" if platform == "cpu" else "bfloat16"
        notes.append(f"model.dtype: auto -> {config.model.dtype} on {here}")
    if shape := mesh_shape(config.mesh, num_devices):
        if config.mesh.fsdp == -1:
            notes.append(f"mesh.fsdp: -1 -> {shape[1]} on {here}")
        config.mesh.data, config.mesh.fsdp, _ = shape
        if config.batch.microbatch_sequences == -1 and (size := microbatch(config, shape[0] * shape[1], platform)):
            notes.append(f"batch.microbatch_sequences: -1 -> {size} on {here}")
            config.batch.microbatch_sequences = size
    return config, notes


def microbatch(config: ConfigDict, row_shards: int, platform: str) -> int | None:
    """The largest micro-batch with at most ROWS rows per shard that divides a mini-batch; None where none does."""
    b = config.batch
    minibatch = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step
    most = ROWS_ON_CPU if platform == "cpu" else ROWS
    return next((rows * row_shards for rows in range(most, 0, -1) if minibatch % (rows * row_shards) == 0), None)
