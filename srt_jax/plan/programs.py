"""Compiles a run's programs for hardware that is not there, and reports their memory, FLOPs and collectives.

Lowers and compiles the real update, and the in-process sampler if rollout.sampler is 'jax'. The arrays are abstract, so
a plan needs no weights, no accelerator and a few GB of memory. docs/planning.md lists the assumptions.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import has_teacher, may_fall_back, mesh_shape, policy_samples, teacher_samples
from srt_jax.config.resolve import resolve
from srt_jax.config.validation import validate_devices
from srt_jax.model import flops
from srt_jax.model.config import ModelConfig, model_shape
from srt_jax.plan import hlo, topology
from srt_jax.runtime import hardware, xla_flags

# The lightest comes first: "none" recomputes nothing in the backward pass, "full" recomputes all layers.
REMATS = ("none", "attention", "dots", "full")
TILE = 16  # rows of a TPU's tile of bfloat16


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program on one device.

    bytes: memory by kind and in "total", or None where the compiler gave no number. collective_bytes: size of the
    collectives' results by kind. collective_calls: number of collectives by kind. seconds: compile time.
    """

    fits: bool
    bytes: dict[str, float | None]
    collective_bytes: Mapping[str, float]
    collective_calls: Mapping[str, float]
    seconds: float


def plan(config: ConfigDict, where: topology.Topology, search: bool = True, progress=print) -> dict:
    """The report of a config on a topology, as --json prints it. Raises ConfigError or ModelError."""
    import jax

    from srt_jax import runtime
    from srt_jax.run.prepare import check_length

    model = model_shape(config.model.path)
    check_length(config, model)
    config, notes = adapt(config, where)
    runtime.keep_precision(config.model.dtype)
    notes += tile_notes(model.hidden_size, config.mesh.fsdp, where)
    devices = topology.devices(where)
    compile_update = functools.lru_cache(functools.partial(_compile_update, config, model, where, devices, progress))
    chosen = (config.model.remat, config.batch.microbatch_sequences)
    update = report(config, model, where, chosen, compile_update(*chosen))
    result = {
        "topology": where.name,
        "devices": where.num_devices,
        "model": config.model.path,
        "mesh": {axis: config.mesh[axis] for axis in ("data", "fsdp", "tensor")},
        "notes": notes,
        "versions": {"jax": jax.__version__},
        **update,
    }
    if config.rollout.sampler == "jax":
        result["sampler"] = sampler_report(config, model, where, devices, update["bytes_per_device"], progress)
        result["fits"] = update["fits"] and result["sampler"]["fits"]
    if search:
        # Only the XLA kernel stores attention scores. With the others remat "attention" equals "none".
        remats = [remat for remat in REMATS if remat != "attention" or kernel_of(config, model, where) == "xla"]
        found = largest(config, remats, compile_update)
        result["largest"] = found and report(config, model, where, found, compile_update(*found))
    return result


def adapt(config: ConfigDict, where: topology.Topology) -> tuple[ConfigDict, list[str]]:
    """(the config as a run on the topology would resolve it, notes for the user).

    A mesh or a micro-batch that does not suit the topology is replaced. All rows use the longest bucket.
    """
    config, notes = resolve(config, where.platform, where.num_devices)
    if not mesh_shape(config.mesh, where.num_devices):
        notes.append(
            f"mesh.fsdp={config.mesh.fsdp} x mesh.tensor={config.mesh.tensor} does not divide "
            f"{where.num_devices} devices: planned with --config.mesh.fsdp={where.num_devices} "
            "--config.mesh.tensor=1."
        )
        config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, where.num_devices, 1
        config, more = resolve(config, where.platform, where.num_devices)
        notes += more
    rows = config.mesh.data * config.mesh.fsdp
    per_update = config.batch.prompts_per_step * config.batch.samples_per_prompt // config.batch.minibatches_per_step
    if per_update % rows == 0 and (
        config.batch.microbatch_sequences % rows or per_update % config.batch.microbatch_sequences
    ):
        notes.append(
            f"batch.microbatch_sequences={config.batch.microbatch_sequences} is no multiple of the {rows} data x fsdp "
            f"shards, or does not divide {per_update} sequences: planned with {rows}."
        )
        config.batch.microbatch_sequences = rows
    config.batch.length_buckets = (max(config.batch.length_buckets),)
    validate_devices(config, where.num_devices)
    return config, notes


def tile_notes(hidden_size: int, fsdp: int, where: topology.Topology) -> list[str]:
    """A note if a TPU's part of a weight is not a whole number of tiles."""
    rows = hidden_size // fsdp
    if where.platform != "tpu" or rows % TILE == 0:
        return []
    return [
        f"mesh.fsdp={fsdp} cuts the hidden size of {hidden_size} into {rows} rows, no multiple of {TILE}: the "
        "compiler gathers such weights with all-reduces of whole arrays; a smaller mesh.fsdp avoids it."
    ]


def largest(config: ConfigDict, remats: list[str], compile_update) -> tuple[str, int] | None:
    """The lightest remat that fits at all, and the largest micro-batch that fits with it; None if no remat fits.

    Tries the remats with one row per device, then halves the range of micro-batches. Compiles at most len(remats) +
    log2(micro-batches) programs.
    """
    rows = config.mesh.data * config.mesh.fsdp
    per_update = config.batch.prompts_per_step * config.batch.samples_per_prompt // config.batch.minibatches_per_step
    sizes = [size for size in range(rows, per_update + 1, rows) if per_update % size == 0]
    lightest = next((remat for remat in remats if compile_update(remat, sizes[0]).fits), None)
    if lightest is None:
        return None
    low, high = 0, len(sizes)  # sizes[low] fits, sizes[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if compile_update(lightest, sizes[middle]).fits else (low, middle)
    return lightest, sizes[low]


# ---- programs


def _compile_update(config, model, where, devices, progress, remat: str, microbatch: int) -> Compiled:
    """The update at this remat and micro-batch."""
    config = config.copy_and_resolve_references()
    config.model.remat, config.batch.microbatch_sequences = remat, microbatch
    lowered, argument_bytes = lower_update(config, model, devices)
    # The teacher of guard.action = teacher is no argument of the update, but stays in memory beside it.
    beside = {"teacher": argument_bytes["parameters"]} if may_fall_back(config) else {}
    b = config.batch
    # With packing the number of micro-batches depends on data. It is largest if every sequence fills a row.
    most = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step // microbatch
    trips = (lambda program, loop: most) if b.packing else None
    what = f"update, remat={remat}, micro-batches of {microbatch}"
    return _compile(lowered, argument_bytes, beside, where, progress, what, trips)


def lower_update(config: ConfigDict, model: ModelConfig, devices):
    """(the lowered update, bytes per device of its arguments by kind)."""
    import jax

    from srt_jax.model import lora
    from srt_jax.rl.collate import abstract_batch
    from srt_jax.rl.optimizer import abstract_state, experiment_optimizer, teacher_of
    from srt_jax.rl.update import UpdateConfig, make_update

    mesh, graphdef, policy = abstract_model(config, model, devices)
    params, base = lora.split(policy)
    optimizer, settings = experiment_optimizer(config), UpdateConfig.of(config)
    state = abstract_state(params, optimizer, mesh)
    reference = None
    if base is None and settings.scores_reference:
        reference = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, config.model.reference_dtype, sharding=x.sharding), params
        )
    batch = abstract_batch(settings.layout, mesh, settings.mask_answer)
    arguments = {"parameters": params, "optimizer": state.opt_state, "reference": reference, "batch": batch}
    if base is not None:
        arguments["base"] = base  # the reference, too
    if has_teacher(config):
        arguments |= {"optimizer": state.opt_state.inner, "teacher": teacher_of(state)}
    return (
        make_update(graphdef, optimizer, settings, mesh, state).lower(state, base or reference, batch),
        {kind: bytes_per_device(tree) for kind, tree in arguments.items()},
    )


def abstract_model(config: ConfigDict, model: ModelConfig, devices):
    """(mesh, graph definition, the policy's parameters as abstract arrays on the mesh)."""
    import jax

    from srt_jax.model import attention, decoder, lora, sharding, weights

    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    sharding.check_mesh(model, config.mesh.tensor)
    kernel = attention.choose(config.model.attention, devices[0].platform, config.model.dtype, model.head_dim)
    graphdef, shapes = decoder.abstract(model, config.model.dtype, config.model.remat, kernel, mesh)
    adapters = lora.LoRA.of(config.model.lora)
    if adapters:
        graphdef, added = lora.attach(graphdef, shapes, adapters)
        dtype = config.model.dtype
        base = weights.map_with_path(
            lambda path, x: jax.ShapeDtypeStruct(x.shape, weights.frozen_dtype(path, dtype)), shapes
        )
        shapes = lora.join(added, base)

    def on_mesh(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.parameter_sharding(mesh, path, x.shape))

    return mesh, graphdef, weights.map_with_path(on_mesh, shapes)


def bytes_per_device(tree) -> int:
    """Bytes on one device of abstract arrays with shardings."""
    import jax

    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _compile(lowered, argument_bytes: dict, resident: dict, where, progress, what: str, trips=None) -> Compiled:
    """Compiles one program and reports it to `progress`.

    argument_bytes: bytes of the arguments by kind. resident: bytes by kind of arrays that stay in memory beside them.
    trips(program, loop): the trip count of a loop that depends on data.
    """
    import jax

    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        needed = re.search(r"([\d.]+)G\) exceeds available", str(e))
        total = float(needed.group(1)) * 2**30 if needed else None
        result = Compiled(False, argument_bytes | resident | {"temporaries": None, "total": total}, {}, {}, 0.0)
    else:
        memory = compiled.memory_analysis()
        # Arguments are counted by the compiler, because tiles on TPUs pad some of them.
        total = (
            memory.argument_size_in_bytes
            + sum(resident.values())
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
        )
        program = hlo.Program(compiled.as_text(), trips)
        result = Compiled(
            total <= available(where),
            argument_bytes | resident | {"temporaries": memory.temp_size_in_bytes, "total": total},
            program.collective_bytes(),
            program.collective_calls(),
            0.0,
        )
    result = dataclasses.replace(result, seconds=time.perf_counter() - start)
    size = "more than the device has" if result.bytes["total"] is None else f"{result.bytes['total'] / 1e9:.2f} GB"
    progress(
        f"compiled in {result.seconds:.0f} s: {what}: {size} per device, {'fits' if result.fits else 'does not fit'}"
    )
    return result


def available(where: topology.Topology) -> float:
    """Bytes of memory that JAX can use on one device. A CPU device has an equal part of the machine's memory."""
    if where.chip is None:
        return hardware.machine_memory() / where.num_devices
    return where.chip.memory * (xla_flags.GPU_MEMORY_FRACTION if where.platform == "cuda" else 1.0)


# ---- reports


def report(config: ConfigDict, model: ModelConfig, where, candidate: tuple[str, int], compiled: Compiled) -> dict:
    """Figures of the update at one remat and micro-batch; every sequence has the longest length."""
    from srt_jax.model import lora
    from srt_jax.model.lora import LoRA
    from srt_jax.rl.update import UpdateConfig

    remat, microbatch = candidate
    settings = UpdateConfig.of(config)
    lengths = [max(config.batch.length_buckets)] * settings.layout.sequences
    adapters = LoRA.of(config.model.lora)
    passes = flops.update(
        model,
        lengths,
        settings.scores_policy,
        settings.scores_reference,
        settings.epochs_per_step,
        lora.num_params(adapters, model) if adapters else 0,
    )
    rows_per_device = microbatch // (config.mesh.data * config.mesh.fsdp)
    keeps_logits = rows_per_device * (lengths[0] - 1) <= settings.head_chunk_tokens
    again = flops.recomputed(model, lengths, remat, kernel_of(config, model, where), keeps_logits)
    again *= settings.epochs_per_step
    required = sum(passes.values()) / where.num_devices
    executed = required + again / where.num_devices
    return {
        "remat": remat,
        "microbatch_sequences": microbatch,
        **program_report(compiled, where),
        "flops_per_device": required,
        "executed_flops_per_device": executed,
        "lower_bound_seconds": lower_bounds(where, {"flops": required, "flops_with_remat": executed}),
    }


def kernel_of(config: ConfigDict, model: ModelConfig, where: topology.Topology) -> str:
    """The attention kernel that a run would choose on the topology: xla | cudnn | splash."""
    from srt_jax.model import attention

    return attention.choose(config.model.attention, where.platform, config.model.dtype, model.head_dim)


def program_report(compiled: Compiled, where: topology.Topology) -> dict:
    """Memory and collectives of a program, from the compiler."""
    return {
        "fits": compiled.fits,
        "bytes_per_device": compiled.bytes,
        "bytes_available_per_device": available(where),
        "collective_bytes_per_device": compiled.collective_bytes,
        "collective_calls_per_device": compiled.collective_calls,
        "compile_seconds": round(compiled.seconds, 1),
    }


def lower_bounds(where: topology.Topology, flops_per_device: dict, bytes_per_device: dict | None = None) -> dict | None:
    """Seconds at the data-sheet peak of arithmetic and of memory bandwidth, by name; None for a CPU.

    FLOPs and bytes are counted from the model's shape, so these are analytic lower bounds. No step with the
    lengths that the plan assumes can be faster.
    """
    if where.chip is None:
        return None
    seconds = {name: count / where.chip.flops for name, count in flops_per_device.items()}
    return seconds | {name: moved / where.chip.bandwidth for name, moved in (bytes_per_device or {}).items()}


def sampler_report(config: ConfigDict, model: ModelConfig, where, devices, resident: dict, progress) -> dict:
    """Figures of sampling a step's rollouts in this process; every response has the longest length.

    Optimizer, reference and teacher stay in memory meanwhile (`resident`: bytes of the update). One compiled call
    serves `prompts_per_call` prompts, or as many samples as fit. A step makes as many calls as its prompts need,
    and with a teacher as many more as the teacher's samples need.
    """
    from srt_jax.run.rollouts import sampling_at

    b, drawn, sampling = config.batch, [policy_samples(config), teacher_samples(config)], sampling_at(config, 1)
    n = max(drawn)
    resident = {kind: resident[kind] for kind in ("optimizer", "reference", "teacher") if kind in resident}
    cut, (begin, advance), parameters = lower_sampler(
        config, model, devices, n, sampling, available(where) - sum(resident.values())
    )
    calls = -(-b.prompts_per_step // cut.prompts) * sum(-(-samples // cut.samples) for samples in drawn)
    turns = -(-min(b.prompts_per_step, cut.prompts) * cut.samples // cut.slots) if cut.slots else 1

    def trips(program, loop):
        """With slots the decoding loop contains an inner loop, which gives free slots their next requests. A plan
        assumes that the inner loop runs once per decoding step.
        """
        decodes = not cut.slots or program.has_loop(loop)
        return turns * b.max_response_tokens if decodes else 1

    argument_bytes = {"parameters": parameters}
    programs = [
        _compile(begin, argument_bytes, resident, where, progress, "sampler, prefill", trips),
        _compile(advance, {}, argument_bytes | resident, where, progress, "sampler, decoding", trips),
    ]
    work = [
        ([b.max_prompt_tokens] * b.prompts_per_step, [[b.max_response_tokens] * samples] * b.prompts_per_step)
        for samples in drawn
        if samples
    ]
    required = sum(flops.sampling(model, *lengths) for lengths in work) / where.num_devices
    itemsize = np.dtype(config.model.dtype).itemsize
    steps = calls * turns * (b.max_response_tokens - 1)  # a call draws the first token in its prefill
    moved = steps * flops.weight_bytes(model, itemsize) / config.mesh.tensor
    cached = sum(flops.cache_read_bytes(model, *lengths, not cut.slots, itemsize) for lengths in work)
    moved += cached / where.num_devices
    return program_report(_joined(programs, argument_bytes | resident, calls), where) | {
        "flops_per_device": required,
        "decoding_bytes_per_device": moved,
        "lower_bound_seconds": lower_bounds(where, {"flops": required}, {"decoding_bytes": moved}),
        "calls": calls,
        "prompts_per_call": cut.prompts,
        "samples_per_call": cut.samples,
        "slots": cut.slots,
    }


def _joined(programs: list[Compiled], lasting_bytes: dict, calls: int) -> Compiled:
    """One report for programs that run one after the other, all of them `calls` times.

    Memory is that of the largest program. Collectives are summed over all programs and calls, compile times over the
    programs. lasting_bytes: bytes by kind that stay in memory throughout. All other memory counts as temporary.
    """
    totals = [program.bytes["total"] for program in programs]
    largest = None if None in totals else max(totals)
    left = None if largest is None else largest - sum(lasting_bytes.values())
    kinds = sorted({kind for program in programs for kind in program.collective_bytes})

    def summed(field):
        return {kind: calls * sum(getattr(program, field).get(kind, 0) for program in programs) for kind in kinds}

    return Compiled(
        all(program.fits for program in programs),
        lasting_bytes | {"temporaries": left, "total": largest},
        summed("collective_bytes"),
        summed("collective_calls"),
        sum(program.seconds for program in programs),
    )


def lower_sampler(config: ConfigDict, model: ModelConfig, devices, n: int, sampling, memory_bytes: float):
    """(the shape of a call for n samples of each prompt, its two lowered programs, bytes of parameters per device).

    memory_bytes: limit per device for the call and the parameters.
    """
    from srt_jax.rollout.jax.sampler import JaxSampler

    mesh, graphdef, params = abstract_model(config, model, devices)
    parameters = bytes_per_device(params)
    rollout = config.rollout
    sampler = JaxSampler(
        graphdef,
        mesh,
        [0],
        rollout.prompt_buckets,
        rollout.prompts_per_call,
        rollout.slots,
        memory_bytes - parameters,
    )
    cut, programs = sampler.lower(params, n, sampling)
    return cut, programs, parameters
