"""What a config leaves open until it is known where it runs: home directories, the compute dtype, the mesh.

Every job calls `on_this_machine` once, before anything else reads the config. The resolved config is the one that is
written to config.json and that a run must have again to go on.
"""

from ml_collections import ConfigDict

from srt_jax import runtime
from srt_jax.config import expanded, mesh_shape
from srt_jax.config.validation import validate, validate_devices

PATHS = ("out", "model.path", "labels.path", "curriculum.path", "rollout.vllm.weights_directory", "rollout.vllm.python")
SOURCE_PATHS = ("path", "root")
# Sequences per device of a micro-batch: 4 make 32 on a node of 8 GPUs; XLA's attention on CPUs keeps all their scores.
ROWS, ROWS_ON_CPU = 4, 1


def on_this_machine(config: ConfigDict, trains: bool = True) -> tuple[ConfigDict, list[str]]:
    """(the resolved and checked config, a line for each field that followed the hardware). Starts JAX's backend.

    trains: does the job make updates, whose batch the devices must divide? Also sets JAX's matrix products to the
    precision of the compute dtype. Raises ConfigError.
    """
    import jax

    validate(config)
    config, notes = resolve(config, jax.default_backend(), jax.device_count())
    validate_devices(config, jax.device_count(), jax.process_count(), trains)
    runtime.keep_precision(config.model.dtype)
    return config, notes


def resolve(config: ConfigDict, platform: str, num_devices: int) -> tuple[ConfigDict, list[str]]:
    """(a copy of the config for so many devices of a platform, a line for each field that followed them).

    platform: what jax.Device.platform says; all but "cpu" compute in bfloat16. Fields that were set stay as they are,
    and so does a mesh that does not make the devices: validate_devices refuses it.
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
    """The micro-batch of the most rows per shard, up to ROWS, that divides a mini-batch; None where none does."""
    b = config.batch
    minibatch = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step
    most = ROWS_ON_CPU if platform == "cpu" else ROWS
    return next((rows * row_shards for rows in range(most, 0, -1) if minibatch % (rows * row_shards) == 0), None)


def expand_paths(config: ConfigDict) -> ConfigDict:
    """A copy of the config with the home directory in the place of `~` at the start of every path."""
    config = config.copy_and_resolve_references()
    for field in PATHS:
        *sections, name = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = expanded(section[name])
    for source in (config.data, *config.eval.sets.values()):
        for name in SOURCE_PATHS:
            source[name] = expanded(source[name])
    return config
