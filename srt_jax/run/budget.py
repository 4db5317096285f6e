"""Checks that a run fits in the memory of this machine's devices, before any weights are loaded.

All figures are bytes per device, computed from shapes (model/memory.py), and differ by up to about 15% from XLA's. They
depend on the config and on the total memory of the hardware, and not on its free memory: they decide how sampling is
split into calls, and another split may round differently.
"""

import jax
from ml_collections import ConfigDict

from srt_jax.config import (
    has_teacher,
    mesh_shape,
    needs_reference,
    policy_samples,
    prompts_per_call,
    stores_teacher,
    teacher_samples,
)
from srt_jax.errors import ConfigError, RolloutError, UserError
from srt_jax.model import attention, lora, memory
from srt_jax.model.config import ModelConfig
from srt_jax.model.lora import LoRA
from srt_jax.rollout.jax import sampler as jax_sampler
from srt_jax.runtime import hardware, processes

GB = 1e9
TOLERANCE = 1.15  # figures can be too high by this factor, so only a larger excess is refused


def resident(config: ConfigDict, model: ModelConfig, training: bool) -> dict[str, float]:
    """Bytes that are always in use: parameters, and in training AdamW's moments, the reference model and the teacher.

    Trained parameters are float32. With adapters the model is frozen in model.dtype, and is also the reference.
    """
    _, fsdp, tensor = _mesh(config)
    share = model.num_params / (fsdp * tensor)
    small = adapters(config, model)
    if small:
        found = {"weights": memory.SIZES[config.model.dtype] * share, "adapters": memory.FLOAT * small}
    else:
        found = {"weights": memory.FLOAT * share}
    if training:
        found["optimizer"] = 2 * memory.SIZES[config.optimizer.moments_dtype] * (small or share)
        if needs_reference(config) and not small:
            found["reference"] = memory.SIZES[config.model.reference_dtype] * share
        if stores_teacher(config):
            found["teacher"] = memory.FLOAT * (small or share)
    return found


def adapters(config: ConfigDict, model: ModelConfig) -> float:
    """Number of the adapters' parameters on each device; 0 without adapters."""
    settings, (_, fsdp, tensor) = LoRA.of(config.model.lora), _mesh(config)
    return lora.num_params(settings, model, fsdp, tensor) if settings else 0.0


def _mesh(config: ConfigDict) -> tuple[int, int, int]:
    """(data, fsdp, tensor) on this machine's devices, or as the config has it if they do not match it."""
    return mesh_shape(config.mesh, jax.device_count()) or (1, max(1, config.mesh.fsdp), config.mesh.tensor)


def available() -> float | None:
    """Bytes of memory of each device, the same in all processes; None if unknown."""
    return processes.from_first(lambda: hardware.device_memory(jax.local_devices()[0], jax.local_device_count()))


def sampler_memory(config: ConfigDict, model: ModelConfig, training: bool) -> float | None:
    """Bytes that one call of the in-process sampler may use on each device, beside `resident`; None if unknown.

    On a CPU a part of the memory is left to Python, the graders and other programs.
    """
    if (there := available()) is None:
        return None
    if jax.devices()[0].platform == "cpu":
        there *= hardware.CPU_MEMORY_FRACTION
    return there - sum(resident(config, model, training).values())


def step(config: ConfigDict, model: ModelConfig, samples: bool = True) -> dict[str, float]:
    """Bytes per device of a training step: of `resident`, and of sampler and update, which run in turn.

    samples: does this process sample? A replay does not. Raises RolloutError if there is no memory to sample even one
    response.
    """
    data, fsdp, tensor = _mesh(config)
    found, b, platform = resident(config, model, training=True), config.batch, jax.devices()[0].platform
    if samples and config.rollout.sampler == "jax":
        found["sampler"] = sampler_call(config, model)[2]
    found["update"] = memory.update(
        model,
        config.model.dtype,
        memory.Update(
            max(1, b.microbatch_sequences // (data * fsdp)),
            max(b.length_buckets),
            config.model.head_chunk_tokens,
            config.model.remat,
            _kernel(config, model),
            b.minibatches_per_step * b.epochs_per_step > 1,
            config.optimizer.moments_dtype,
            platform=platform,
            adapters=adapters(config, model),
            teacher=has_teacher(config),
            fsdp=fsdp,
            tensor=tensor,
        ),
    )
    return found


def _kernel(config: ConfigDict, model: ModelConfig) -> str:
    """The attention kernel of this machine."""
    return attention.choose(config.model.attention, jax.devices()[0].platform, config.model.dtype, model.head_dim)


def sampler_call(config: ConfigDict, model: ModelConfig) -> tuple[jax_sampler.Cut, jax_sampler.Cut, float]:
    """A call of the in-process sampler in training: as the config has it, the largest that fits, and that one's bytes.

    The bytes are per device. Raises RolloutError if there is no memory to sample even one response.
    """
    data, fsdp, tensor = _mesh(config)
    n, platform = max(policy_samples(config), teacher_samples(config)), jax.devices()[0].platform
    kernel = _kernel(config, model)
    whole = jax_sampler.Cut(prompts_per_call(config), n, config.rollout.slots, data * fsdp)

    def size(cut):
        return sum(
            jax_sampler.bytes_per_device(
                model,
                config.model.dtype,
                cut,
                config.rollout.prompt_buckets[-1],
                config.batch.max_response_tokens,
                {"fsdp": fsdp, "tensor": tensor},
                platform,
                kernel,
            ).values()
        )

    cut = jax_sampler.largest_cut(whole, size, sampler_memory(config, model, training=True))
    return whole, cut, size(cut)


def report(config: ConfigDict, model: ModelConfig) -> str:
    """One line: the memory that a training step takes on this machine. If it does not fit, the sentence of `check`."""
    if error := _refusal(config, model):
        return f"memory: the run does not fit on this machine: {error}"
    kinds, there = step(config, model), available()
    taken = total(kinds)
    parts = ", ".join(f"{kind} {_gb(size)}" for kind, size in kinds.items())
    where = "" if there is None else f" of the {there / GB:.1f} GB here"
    fits = "" if there is None or taken <= there else ": it may not fit here"
    return f"memory: a step takes about {_gb(taken)} GB{where} on each device ({parts}){fits}{_split(config, model)}"


def _split(config: ConfigDict, model: ModelConfig) -> str:
    """A clause about calls of the sampler that memory makes smaller than the config's; "" if it does not."""
    if config.rollout.sampler != "jax":
        return ""
    whole, cut, _ = sampler_call(config, model)
    if cut == whole:
        return ""

    def text(call):
        return f"{call.prompts} prompts x {call.samples} samples" + (f" in {call.slots} slots" if call.slots else "")

    return f"; the sampler's calls of {text(whole)} do not fit and become calls of {text(cut)}"


def _gb(size: float) -> str:
    """Gigabytes with one decimal, or with three below 0.1."""
    return f"{size / GB:.1f}" if size >= 0.1 * GB else f"{size / GB:.3f}"


def total(kinds: dict[str, float]) -> float:
    """The peak: sampler and update never use memory at the same time."""
    return sum(kinds.values()) - min(kinds.get("sampler", 0.0), kinds["update"])


def check(config: ConfigDict, model: ModelConfig, samples: bool = True) -> None:
    """Raises ConfigError if the update cannot fit, and RolloutError if sampling cannot. samples: see `step`."""
    if error := _refusal(config, model, samples):
        raise error


def _refusal(config: ConfigDict, model: ModelConfig, samples: bool = True) -> UserError | None:
    """The error of a run that does not fit; None if it fits. A teacher is blamed only if the run fits without it."""
    error = _excess(config, model, samples)
    if error is None or not stores_teacher(config):
        return error
    without = config.copy_and_resolve_references()
    if has_teacher(config):
        without.labels.source = "vote"
    else:
        without.guard.action = "stop"
    return error if _excess(without, model, samples) else _no_room_for_teacher(config, model)


def _excess(config: ConfigDict, model: ModelConfig, samples: bool) -> UserError | None:
    """The error of a run that does not fit, without a word about the teacher; None if it fits."""
    try:
        kinds, there = step(config, model, samples), available()
    except RolloutError as error:
        return error
    if there is None or total(kinds) <= TOLERANCE * there:
        return None
    parts = ", ".join(f"{kind} {_gb(size)}" for kind, size in kinds.items())
    return ConfigError(
        f"a step takes about {total(kinds) / GB:.1f} GB ({parts}), and each device has {there / GB:.1f} GB: lower "
        f"batch.microbatch_sequences ({config.batch.microbatch_sequences}) or model.head_chunk_tokens "
        f"({config.model.head_chunk_tokens}), set model.remat to 'full', or use more devices with mesh.fsdp."
    )


def _no_room_for_teacher(config: ConfigDict, model: ModelConfig) -> ConfigError:
    """The error of a run that does not fit because of its teacher."""
    kinds = resident(config, model, training=True)
    if has_teacher(config):
        cause, remedy = "labels.source is 'ema'", "labels.source to 'vote'"
    else:
        cause, remedy = "guard.action is 'teacher'", "guard.action to 'stop'"
    adapters_instead = (
        "" if config.model.lora.rank else "set model.lora.rank, whose teacher is a second set of adapters, "
    )
    return ConfigError(
        f"{cause}, whose teacher takes {_gb(kinds['teacher'])} GB of the {_gb(sum(kinds.values()))} GB that stay in "
        f"memory, and with sampling and update a step does not fit in the {_gb(available() or 0.0)} GB of each device: "
        f"{adapters_instead}use more devices with mesh.fsdp, or set {remedy}."
    )
