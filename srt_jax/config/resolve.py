"""Resolves the fields that depend on the machine: paths with `~`, the compute dtype, mesh and micro-batch.

Every job calls `on_this_machine` after validation, before it uses any of these fields. A run writes the resolved config
to config.json, and can be resumed only with the same resolved config.
"""

from ml_collections import ConfigDict

from srt_jax import runtime
from srt_jax.config.arithmetic import mesh_shape
from srt_jax.config.paths import expand_paths
from srt_jax.config.validation import validate, validate_devices

# The most sequences per device in a micro-batch. On CPUs XLA's attention stores the scores of all sequences.
ROWS, ROWS_ON_CPU = 4, 1


def on_this_machine(config: ConfigDict, trains: bool = True) -> tuple[ConfigDict, list[str]]:
    """(the resolved and checked config, a line for each field that the hardware decided). Raises ConfigError.

    Starts JAX's backend, and sets the precision of JAX's matrix products to that of the compute dtype.
    trains: whether the job makes updates. If it does, the number of devices must divide the batch.
    """
    import jax

    validate(config, recorded=True)
    config, notes = resolve(config, jax.default_backend(), jax.device_count())
    validate_devices(config, jax.device_count(), trains)
    runtime.keep_precision(config.model.dtype)
    return config, notes


def resolve(config: ConfigDict, platform: str, num_devices: int) -> tuple[ConfigDict, list[str]]:
    """(a copy of the config for `num_devices` devices of a platform, a line for each field that they decided).

    platform: the value of jax.Device.platform. All platforms except "cpu" compute in bfloat16. Fields that are set
    explicitly do not change. A mesh that does not fit the devices does not change either; validate_devices refuses it.
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
    """The largest micro-batch that divides a mini-batch, with at most ROWS rows per shard. None if there is none.

    row_shards: the number of data x fsdp shards, over which the rows are split. On CPUs the limit is ROWS_ON_CPU.
    """
    b = config.batch
    minibatch = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step
    most = ROWS_ON_CPU if platform == "cpu" else ROWS
    return next((rows * row_shards for rows in range(most, 0, -1) if minibatch % (rows * row_shards) == 0), None)
