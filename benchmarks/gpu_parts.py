"""The parts of benchmarks/gpu_session.py. Each runs as its own process: python benchmarks/gpu_parts.py PART ...

Each part appends its results to its record at once. A part that is stopped later loses nothing.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import traceback
import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FLAGS = "--xla_gpu_deterministic_ops=true"
WORKERS = 4  # threads that compile


class Record:
    """Appends the results of a part to a file."""

    def __init__(self, path: pathlib.Path, seconds: float):
        self._path, self._deadline = path, time.monotonic() + seconds

    def figures(self, **values) -> None:
        """Adds fields to the part's JSON line."""
        with open(self._path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def row(self, what: str, found, wanted="", ok: bool | None = None, target: bool = False) -> None:
        """Adds a row to the table. ok: whether a check passed, None for a figure. A missed target fails nothing."""
        found = f"{found:.4g}" if isinstance(found, float) else str(found)
        self.figures(
            rows=[
                {
                    "what": what,
                    "found": found,
                    "wanted": str(wanted),
                    "ok": None if ok is None else bool(ok),
                    "target": target,
                }
            ]
        )

    def left(self) -> float:
        """Seconds until the session stops the part."""
        return self._deadline - time.monotonic()

    @contextlib.contextmanager
    def attempt(self, what: str):
        """Turns an exception inside into a failed check, so that later checks still run."""
        try:
            yield
        except Exception as e:
            traceback.print_exc()
            self.row(what, one_line(e), "no exception", ok=False)


def one_line(e: BaseException) -> str:
    """Class and message of an exception in one line, shortened."""
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Options of a part. A rehearsal on a CPU uses small shapes and the miniature that the part `base` made."""

    rehearse: bool
    scratch: pathlib.Path

    @property
    def miniature(self) -> pathlib.Path:
        """The miniature base model."""
        return self.scratch / "miniature" if self.rehearse else ROOT / "cache" / "miniature"

    def model(self, shape: str) -> str:
        """The name of a shape in srt_jax/model/hf; in a rehearsal the path of the miniature."""
        return str(self.miniature) if self.rehearse else shape


# ---- correctness


def device(setting: Setting, record: Record) -> None:
    """Reports the machine, and measures its matrix products and copies against the peaks."""
    import jax

    from srt_jax import runtime
    from srt_jax.runtime import hardware, xla_flags
    from srt_jax.runtime.measure import peaks
    from srt_jax.runtime.versions import installed, nvidia_smi

    record.figures(python=platform.python_version(), versions=installed())
    in_use = nvidia_smi("memory.used")

    runtime.start()
    found = jax.devices()[0]
    chip = hardware.chip_of(found.device_kind)
    record.figures(platform=found.platform, kind=found.device_kind, devices=jax.device_count())
    if found.platform == "cpu" and not setting.rehearse:
        return  # the session ends here
    record.row("devices", f"{jax.device_count()} x {found.device_kind}", "1", ok=jax.device_count() == 1)
    record.row("peaks in hardware.py", "known" if chip else "not known: no MFU, no MBU", "known")
    record.row("GPU memory in use before", in_use or "not known", "nearly none")
    unknown = set(xla_flags.GPU.values) - xla_flags.known(xla_flags.GPU, xla_flags.GPU.values)
    record.row("XLA flags that this compiler does not know", ", ".join(sorted(unknown)) or "none", "none", not unknown)
    with record.attempt("memory"):
        limit = (found.memory_stats() or {}).get("bytes_limit")
        if limit is not None:
            wanted = chip.memory * xla_flags.GPU_MEMORY_FRACTION if chip else 0
            record.row("memory that JAX has", gb(limit), f"{gb(wanted)}, as `plan` assumes", ok=limit > 0.98 * wanted)
    with record.attempt("peaks"):
        flops, bandwidth = peaks(256 if setting.rehearse else 8192, 2**20 if setting.rehearse else 2**31)
        record.figures(matmul_flops=flops, copy_bandwidth=bandwidth)
        record.row(
            "bfloat16 matrix product", f"{flops / 1e12:.1f} TFLOP/s", f"peak {chip.flops / 1e12:.0f}" if chip else ""
        )
        record.row(
            "copy, bytes read and written",
            f"{bandwidth / 1e9:.0f} GB/s",
            f"peak {chip.bandwidth / 1e9:.0f}" if chip else "",
        )


def gb(size: float) -> str:
    """A size as text, in GB, or in kB for the models of a rehearsal."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e3:.0f} kB"


def attention(setting: Setting, record: Record) -> None:
    """Compares the kernel of runs (cuDNN on GPUs) with plain XLA in float32, forward and backward."""
    import jax

    from srt_jax import runtime
    from srt_jax.model import attention
    from srt_jax.model.parity import attention_inputs, compile_errors

    runtime.start()
    lengths = (20,) if setting.rehearse else (4096, 128, 500, 1024)
    heads = ((4, 2, 16),) if setting.rehearse else ((14, 2, 64), (32, 8, 128))  # Qwen2.5-0.5B, Qwen3-4B
    cases = {}
    for N, K, H in heads:
        kernel = attention.choose("auto", jax.devices()[0].platform, "bfloat16", H)
        record.figures(kernel=kernel)
        for S in lengths:
            for packed in (False, True):
                what = f"{kernel}, {S} tokens, {N} heads ({K}) of {H}{', packed' * packed}"
                cases[what] = kernel, attention_inputs(1 if S == 4096 else 2, S, N, K, H, packed)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        compiled = {pool.submit(compile_errors, *case): what for what, case in cases.items()}
        for future in concurrent.futures.as_completed(compiled):
            what = compiled[future]
            with record.attempt(what):
                compare_attention(record, what, future.result(), cases[what][1])


def compare_attention(record: Record, what: str, program, inputs: tuple) -> None:
    """Checks the errors of the output (with and without gradients) and of the gradients against XLA's in bfloat16."""
    import jax

    from srt_jax.model.parity import PASSES, limits

    found, plain = jax.device_get(program(*inputs))
    shown = [" ".join(f"{x:.4f}" for x in values) for values in (found, limits(plain))]
    right = bool((found <= limits(plain)).all())
    record.row(f"{what}: error of {', '.join(PASSES)}", shown[0], f"<= {shown[1]}", ok=right)


def precision(setting: Setting, record: Record) -> None:
    """Compares one update of a 4-layer model in bfloat16 with the kernel of runs with float32 and plain XLA."""
    from srt_jax import runtime

    runtime.start()
    (state, low), (exact_state, exact) = (one_gradient(setting, dtype) for dtype in ("bfloat16", "float32"))
    cosine, ratio = compare_gradients(state, exact_state)
    record.row("gradient: cosine to that of float32", cosine, ">= 0.99", ok=cosine >= 0.99)
    record.row("gradient: its norm over that of float32", ratio, "0.97 to 1.03", ok=0.97 <= ratio <= 1.03)
    for name, limit in (("entropy", 0.01), ("kl", 0.02), ("grad_norm", 0.03)):
        error = abs(float(low[name]) - float(exact[name])) / max(abs(float(exact[name])), 1e-9)
        record.row(
            f"{name}: {float(low[name]):.5g}, in float32 {float(exact[name]):.5g}",
            error,
            f"<= {limit}",
            ok=error <= limit,
        )


def one_gradient(setting: Setting, dtype: str):
    """(the float32 gradient by parameter, metrics) of one update of Qwen2.5-0.5B's first 4 layers, random weights."""
    import jax
    import numpy as np
    import optax
    import update
    from common import choose_kernel

    from srt_jax.model import decoder, sharding
    from srt_jax.model.config import model_shape
    from srt_jax.rl.collate import Layout, TrainingSamples, collate
    from srt_jax.rl.optimizer import init_state
    from srt_jax.rl.update import UpdateConfig, make_update

    config = dataclasses.replace(model_shape(setting.model("Qwen2.5-0.5B")), num_layers=1 if setting.rehearse else 4)
    mesh, length = sharding.make_mesh(), 32 if setting.rehearse else 512
    case = update.Case("", batch=8, length=length, micro=4, samples=8)
    layout = Layout(1, case.samples, case.micro, (length,))
    rollouts = update.random_rollouts(case, config.vocab_size)
    batch = collate(TrainingSamples(rollouts, np.arange(8)[None] % 2, np.ones(1, bool)), layout, mesh)
    kernel = choose_kernel("auto", dtype, config)
    graphdef, params = decoder.create(config, 0, mesh, dtype, "none", kernel)
    reference = decoder.create(config, 1, mesh, dtype, "none", kernel)[1]
    optimizer = optax.sgd(100.0)  # large, so that rounding of the parameters does not hide the gradient
    state = init_state(jax.tree.map(lambda x: x.copy(), params), optimizer, mesh)
    step = make_update(graphdef, optimizer, UpdateConfig(layout, kl_coef=1e-3), mesh, state)
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        state, metrics = step(state, reference, batch)
    return jax.jit(lambda old, new: jax.tree.map(lambda a, b: (a - b) / 100, old, new))(params, state.params), metrics


def compare_gradients(found, exact) -> tuple[float, float]:
    """(cosine, ratio of the norms) over all parameters."""
    import jax
    import jax.numpy as jnp

    def dot(a, b):
        return sum(jnp.vdot(x, y, precision="highest") for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))

    across, own, other = map(float, jax.jit(lambda a, b: (dot(a, b), dot(a, a), dot(b, b)))(found, exact))
    return across / (own * other) ** 0.5, (own / other) ** 0.5


def quickstart(setting: Setting, record: Record) -> None:
    """Trains the miniature: two steps with a guard against implicit transfers to the host, then ten ordinary steps."""
    from srt_jax import runtime
    from srt_jax.run.metrics_log import read_metrics
    from srt_jax.train import train

    runtime.start(dtype="float32")
    with record.attempt("two steps without an implicit transfer from device to host"):
        guarded_steps(setting, record)
    config = experiment(setting, "ten_steps", steps=2 if setting.rehearse else 10)
    summary = train(config)
    base, last = (summary[at]["eval/heldout/avg@32"] for at in ("base", "last"))
    # Two CPU cores gave 0.391 before and 0.498 after ten steps (seed 0). Different rounding draws other samples.
    record.row("avg@32 of the base model", base, "0.34 to 0.43", ok=setting.rehearse or 0.34 <= base <= 0.43)
    record.row(f"avg@32 after {config.steps} steps", last, "0.05 more", ok=setting.rehearse or last >= base + 0.05)
    steps = [values for values in read_metrics(pathlib.Path(config.out) / config.name) if values["step"]]
    counts = [values["time/compilations"] for values in steps[:-1]]  # the last step evaluates and saves
    record.row("compilations after the first step", f"{counts[-1] - counts[0]:.0f}", "0", ok=counts[-1] == counts[0])
    record.row("seconds of a step", statistics.median(values["time/step"] for values in steps[:-1]))


def experiment(setting: Setting, name: str, steps: int, seed: int = 0):
    """configs/quickstart.py on the base model of this setting, evaluated before the first and after the last step."""
    from srt_jax.experiments import load

    config = load("quickstart").get_config()
    config.name, config.out, config.seed, config.steps = name, str(setting.scratch / "runs"), seed, steps
    config.model.path = str(setting.miniature)
    config.data.path = str(setting.miniature / "train.jsonl")
    config.eval.sets.heldout.path = str(setting.miniature / "heldout.jsonl")
    if setting.rehearse:
        config.batch.prompts_per_step, config.rollout.prompts_per_call = 4, 4
        config.eval.sets.heldout.limit = 4
    config.eval.every, config.checkpoint.every, config.log.rollouts_every = 10**6, 10**6, 10**6
    return config


def guarded_steps(setting: Setting, record: Record) -> None:
    """Makes two steps. An implicit transfer from the device to the host raises."""
    import jax

    from srt_jax import train
    from srt_jax.config import run_directory
    from srt_jax.run.prepare import prepare

    config = experiment(setting, "guarded", steps=2)
    run, now = train.begin(config, prepare(config), run_directory(config))
    with run.learner.grader, contextlib.closing(run.log), contextlib.closing(run.sampler):
        train.prepare_sampler(run, now)
        with jax.transfer_guard_device_to_host("disallow"):
            for _ in range(2):
                one_step(run, now)
    seen = "none raised" if jax.default_backend() == "gpu" else "none raised; a CPU has no such transfers"
    record.row("implicit transfers from device to host in two steps", seen, "none", ok=True)


def one_step(run, now) -> dict:
    """A step of training without log, evaluation and checkpoint; returns its metrics."""
    from srt_jax import train

    step = now.step + 1
    collected = train.take_rollouts(run, now, step, None)
    now.train_state, values = train.learn(run.learner, now.train_state, collected, step)
    now.step = step
    train.publish_weights(run, now, None)
    return values


# ---- speed and memory


@dataclasses.dataclass(frozen=True)
class Planned:
    """Remat and micro-batch of an update, and its memory by `python -m srt_jax plan`."""

    remat: str
    micro: int
    planned_bytes: float

    def __str__(self) -> str:
        return f"{gb(self.planned_bytes)}, as planned"


@dataclasses.dataclass(frozen=True)
class Shape:
    """Training of a model of srt_jax/model/hf: `batch` sequences of 4,096 tokens, and the target for the MFU.

    lora_rank: 0 for full fine-tuning, else adapters of all linear layers are trained.
    plans: the lightest remat that fits with its largest micro-batch, and a second choice in case that does not fit.
    docs/gpu.md has the commands that computed them, for h100:1, and h200:1 for the 4B model.
    """

    model: str
    batch: int
    target: float | None
    plans: tuple[Planned, ...]
    lora_rank: int = 0


SHAPES = {
    "update-0.5b": Shape("Qwen2.5-0.5B", 32, None, (Planned("none", 4, 46.88e9), Planned("none", 2, 30.66e9))),
    "lora-0.5b": Shape("Qwen2.5-0.5B", 32, None, (Planned("none", 8, 64.59e9), Planned("none", 4, 34.80e9)), 32),
    "update-1.5b": Shape("Qwen2.5-1.5B", 16, 0.4, (Planned("none", 2, 71.62e9), Planned("none", 1, 54.72e9))),
    "lora-1.5b": Shape("Qwen2.5-1.5B", 16, None, (Planned("none", 4, 70.29e9), Planned("none", 2, 38.85e9)), 32),
    "update-4b": Shape("Qwen3-4B", 16, 0.5, (Planned("none", 1, 131.81e9), Planned("dots", 1, 104.58e9))),
}


def update_case(setting: Setting, shape: Shape, planned: Planned):
    """The case for benchmarks/update.py; in a rehearsal it uses the miniature."""
    import update

    if setting.rehearse:
        rank = min(4, shape.lora_rank)
        return update.Case(
            setting.model(shape.model), batch=8, length=28, micro=4, samples=4, dtype="bfloat16", lora_rank=rank
        )
    return update.Case(
        shape.model,
        batch=shape.batch,
        length=4096,
        micro=planned.micro,
        samples=16,
        dtype="bfloat16",
        remat=planned.remat,
        lora_rank=shape.lora_rank,
    )


def measure_update(part: str, setting: Setting, record: Record) -> None:
    """Measures MFU, tokens/s, memory beside the plan's, and the ten slowest kernels."""
    import jax

    from srt_jax import runtime

    shape = SHAPES[part]
    runtime.start(dtype="bfloat16")
    there = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", float("inf"))  # a CPU has no limit
    plans = [planned for planned in shape.plans if planned.planned_bytes <= there]
    if not plans:
        least = min(planned.planned_bytes for planned in shape.plans)
        record.figures(status="skipped", reason=f"{shape.model} needs {gb(least)}, and JAX has {gb(there)} here")
        return
    for planned in plans:
        # A function, so that no array of an update that did not fit stays in memory.
        if run_update(setting, record, shape, planned):
            return
        gc.collect()
    record.row("an update that fits", "none", str(plans[-1]), ok=False)


def run_update(setting: Setting, record: Record, shape: Shape, planned: Planned) -> bool:
    """Measures the update. Returns False if it does not fit."""
    import jax
    import update
    from common import seconds_of

    from srt_jax.model import sharding

    what = f"remat {planned.remat}, micro-batch {planned.micro}"
    try:
        found = update.Update(update_case(setting, shape, planned), sharding.make_mesh())
        seconds = seconds_of(found.step, repeats=3)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        record.row(f"{what} fits, as planned", one_line(e)[:160], str(planned), ok=False, target=True)
        return False
    figures = found.report(seconds)
    record.figures(update=figures, planned=dataclasses.asdict(planned))
    record.row(f"{what}: compiled in", f"{figures['compile_s']} s")
    record.row("update is finite", figures["finite"], "True", ok=figures["finite"])
    record.row(f"seconds of an update of {figures['batch']} x {figures['length']}", figures["seconds"])
    record.row("tokens/s", figures["tokens_per_s"])
    record.row("TFLOP/s", figures["tflop_per_s"])
    if figures["mfu"] is not None:
        record.row(
            "MFU",
            figures["mfu"],
            shape.target and f">= {shape.target}",
            ok=shape.target and figures["mfu"] >= shape.target,
            target=True,
        )
    record.row("peak memory", gb(figures["peak_bytes"]), str(planned))
    with record.attempt("kernels of an update"):
        slowest_kernels(record, found.step)
    return True


def slowest_kernels(record: Record, call) -> None:
    """Adds rows for the ten slowest kernels and the time of all kernels."""
    import kernels

    found = kernels.profile(call)
    record.figures(**found)
    record.row("all kernels", f"{found['kernel_ms']:.1f} ms")
    for kernel in found["kernels"]:
        record.row(kernel["name"], f"{kernel['ms']:.1f} ms in {kernel['calls']} calls, {kernel['share']:.1%}")


def measure_sampler(model: str, setting: Setting, record: Record) -> None:
    """Measures new tokens/s and MBU of continuous and static batching, for 512 x (256 + 1,024) tokens."""
    import sampler
    from common import choose_kernel, load_model

    from srt_jax import runtime
    from srt_jax.model import sharding
    from srt_jax.model.config import model_shape

    runtime.start(dtype="bfloat16")
    args = types.SimpleNamespace(
        model=setting.model(model),
        dtype="bfloat16",
        sequences=512,
        prompt_tokens=256,
        new_tokens=1024,
        samples=32,
        slots=0,
        devices=1,
        repeats=1,
    )
    if setting.rehearse:
        args.sequences, args.prompt_tokens, args.new_tokens, args.samples = 8, 8, 8, 4
    mesh = sharding.make_mesh()
    graphdef, params = load_model(
        args.model, mesh, args.dtype, kernel=choose_kernel("auto", args.dtype, model_shape(args.model))
    )
    for name, slots in (("continuous", args.sequences), ("static", 0)):
        with record.attempt(f"{name} batching"):
            args.slots = slots
            start = time.perf_counter()
            generate = sampler.jax_engine(graphdef, params, mesh, args)
            compile_s = time.perf_counter() - start
            found = sampler.measure("jax", name, generate, args.model, args, warmup=0)
            # The first call loads the program and its libraries. A second one, if there is time, does not.
            if record.left() > 1.5 * found["seconds"] + (40 if slots else 5):
                found = sampler.measure("jax", name, generate, args.model, args, warmup=0)
            found |= {"compile_s": round(compile_s, 1)}
            record.figures(**{name: found})
            record.row(f"{name} batching: compiled in", f"{compile_s:.1f} s")
            record.row(f"{name} batching: new tokens/s", found["new_tokens_per_s"])
            if found["mbu"] is not None:
                record.row(
                    f"{name} batching: memory bandwidth utilisation",
                    found["mbu"],
                    ">= 0.5",
                    ok=found["mbu"] >= 0.5,
                    target=True,
                )
            record.row(f"{name} batching: peak memory so far", gb(found["peak_bytes"]))
            del generate


def determinism(setting: Setting, record: Record) -> None:
    """Compares updates with and without the flag for determinism: equal bits, and the cost in time."""
    found = {}
    for name, flags in (("without", ""), ("with", FLAGS)):
        with record.attempt(f"an update {name} {FLAGS}"):
            found[name] = repeated_updates(setting, record, name, flags)
            same = found[name]["digests"][0] == found[name]["digests"][1]
            record.row(
                f"an update twice from the same weights, {name} the flag",
                "equal bits" if same else "differ",
                "equal bits" if flags else "",
                ok=same if flags else None,
            )
            record.row(f"seconds of an update {name} the flag", found[name]["seconds"])
    record.figures(determinism=found, flags=FLAGS)
    if len(found) == 2:
        cost = found["with"]["seconds"] / found["without"]["seconds"] - 1
        record.figures(cost=round(cost, 4))
        record.row(f"cost of {FLAGS}", f"{cost:+.1%} of an update")


def repeated_updates(setting: Setting, record: Record, name: str, flags: str) -> dict:
    """The record of `repeat` in a new process, since XLA reads its flags once. Raises RuntimeError if it fails."""
    path = setting.scratch / f"repeat-{name}.jsonl"
    command = [
        sys.executable,
        __file__,
        "repeat",
        f"--record={path}",
        f"--seconds={record.left():.1f}",
        f"--scratch={setting.scratch}",
        *["--rehearse"] * setting.rehearse,
    ]
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    status = subprocess.run(command, env=environment, check=False).returncode
    found = json.loads(path.read_text().splitlines()[-1]) if path.exists() else {}
    if status or "digests" not in found:
        raise RuntimeError(found.get("error", f"the updates ended with exit status {status}"))
    return found


def repeat(setting: Setting, record: Record) -> None:
    """Makes one update twice from the same weights, then times two more."""
    import update
    from common import seconds_of

    from srt_jax import runtime
    from srt_jax.model import sharding

    runtime.start(dtype="bfloat16")
    shape = SHAPES["update-0.5b"]
    found, digests = update.Update(update_case(setting, shape, shape.plans[0]), sharding.make_mesh()), []
    for _ in range(2):
        found.restart()
        found.step()
        digests.append(digest(found.state))
    record.figures(digests=digests, seconds=statistics.median(seconds_of(found.step, repeats=2, warmup=0)))


def digest(tree) -> list[int]:
    """A checksum of each array. Equal bits give equal checksums, others almost never do."""
    import jax
    import jax.numpy as jnp

    def one(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
        return (bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)  # integers: exact

    return [int(x) for x in jax.device_get(jax.jit(lambda tree: [one(x) for x in jax.tree.leaves(tree)])(tree))]


# ---- a run


def runs(setting: Setting, record: Record) -> None:
    """Trains the quickstart with up to 32 seeds, one after another, as many as the time allows."""
    from srt_jax import runtime, train
    from srt_jax.config import run_directory
    from srt_jax.run.prepare import prepare

    runtime.start(dtype="float32")
    seeds, steps = (2, 2) if setting.rehearse else (32, 50)
    config = experiment(setting, "seeds", steps)
    run, now = train.begin(config, prepare(config), run_directory(config))
    found, longest = [], 0.0
    with run.learner.grader, contextlib.closing(run.log), contextlib.closing(run.sampler):
        train.prepare_sampler(run, now)
        for seed in range(seeds):
            if record.left() < 1.5 * longest + 3:
                break
            start = time.monotonic()
            found.append(one_seed(setting, run, now, steps, seed))
            record.figures(**{f"seed_{seed}": found[-1]})
            longest = max(longest, time.monotonic() - start)
    record.row("seeds", len(found), f"{seeds}, if there is time", ok=len(found) == seeds, target=True)
    gains = [f["last"] - f["base"] for f in found]
    for what in ("base", "last"):
        record.row(
            f"avg@32 {'before' if what == 'base' else f'after {steps} steps'}, mean and range over seeds",
            spread([f[what] for f in found]),
        )
    if setting.rehearse:  # a few steps of an untrained model gain nothing
        record.row("least gain of a seed", min(gains))
    else:
        record.row("least gain of a seed", min(gains), "> 0.3", ok=min(gains) > 0.3)
    curve = [statistics.mean(values) for values in zip(*(f["true_reward"] for f in found))]
    record.figures(curve=[round(value, 4) for value in curve])
    record.row("true reward at every tenth step, mean over seeds", " ".join(f"{value:.3f}" for value in curve[::10]))
    record.row("seconds of a step, median", statistics.median(s for f in found for s in f["seconds"]))


def one_seed(setting: Setting, run, now, steps: int, seed: int) -> dict:
    """One run from the base weights with compiled programs: accuracies, and rewards and seconds by step."""
    from srt_jax import train
    from srt_jax.rl.optimizer import experiment_optimizer, init_state
    from srt_jax.run import timing
    from srt_jax.run.loading import load_weights
    from srt_jax.run.prepare import prepare

    config = experiment(setting, "seeds", steps, seed)
    prepared = prepare(config)
    learner = dataclasses.replace(run.learner, config=config, prepared=prepared)
    run = dataclasses.replace(run, config=config, prepared=prepared, learner=learner)
    params = load_weights(config, prepared.model, learner.mesh)[1]
    state = init_state(params, experiment_optimizer(config), learner.mesh)
    now = dataclasses.replace(now, step=0, train_state=state, phases=timing.Phases(), evals={})
    run.sampler.load(state.params, 0)
    base = train.evaluate_sets(run, now)["eval/heldout/avg@32"]
    rewards, seconds = [], []
    for _ in range(steps):
        start = time.perf_counter()
        values = one_step(run, now)
        rewards.append(round(float(values["label/true_reward"]), 4))
        seconds.append(round(time.perf_counter() - start, 4))
    last = train.evaluate_sets(run, now)["eval/heldout/avg@32"]
    return {"base": round(base, 4), "last": round(last, 4), "true_reward": rewards, "seconds": seconds}


def spread(values: list[float]) -> str:
    """Mean and range as text, e.g. `0.801 (0.795 to 0.812)`."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def base(setting: Setting, record: Record) -> None:
    """Makes the miniature of a rehearsal: one layer, and a few steps of the recipe."""
    from srt_jax import runtime
    from srt_jax.miniature import task
    from srt_jax.miniature.pretrain import Recipe, pretrain

    runtime.start()
    task.HF_CONFIG["num_hidden_layers"] = 1  # it compiles faster
    recipe = Recipe(steps=4, warmup_steps=1)
    pretrain(setting.miniature, recipe)
    record.row("steps of pre-training", recipe.steps)


PARTS = {
    "device": device,
    "base": base,
    "attention": attention,
    "precision": precision,
    "quickstart": quickstart,
    **{part: functools.partial(measure_update, part) for part in SHAPES},
    "sampler-0.5b": functools.partial(measure_sampler, "Qwen2.5-0.5B"),
    "sampler-1.5b": functools.partial(measure_sampler, "Qwen2.5-1.5B"),
    "determinism": determinism,
    "repeat": repeat,
    "run": runs,
}


def main() -> int:
    """Returns 0 if the part reached its end, even if checks failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--record", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scratch", type=pathlib.Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    record = Record(args.record, args.seconds)
    try:
        PARTS[args.part](Setting(args.rehearse, args.scratch), record)
    except ModuleNotFoundError as e:
        record.figures(
            error=f"{e.name} is not installed: benchmarks/gpu_session.py says which wheels to put into wheels/."
        )
        return 1
    except Exception as e:
        traceback.print_exc()
        record.figures(error=one_line(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
