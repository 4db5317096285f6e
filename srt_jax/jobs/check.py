"""Checks a machine before anything else runs on it: is it complete, are its numbers right, what is slow, what to set?

    python -m srt_jax check                            this machine, with the defaults of a config
    python -m srt_jax check --config=configs/srt.py    with the folder, mesh, dtype and vLLM settings of a config

Each line is one fact: `ok`, `slow` with a remedy, `wrong` with a remedy, or `note`. The last line is the verdict. The
exit status is 0 if nothing is wrong. It takes about a minute on one busy CPU core, two thirds of it for a vLLM server.
Started in several processes like a run (docs/operations.md), it also compares their versions, and times collectives
over all of their devices. It writes only temporary files, and keeps only the log of a vLLM server that does not start.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli
from srt_jax.config import base
from srt_jax.config.paths import expand_paths
from srt_jax.config.validation import validate
from srt_jax.errors import ServerSetupError, UserError
from srt_jax.files import FULL
from srt_jax.log import write
from srt_jax.model import attention, decoder, parity, sharding, weights
from srt_jax.model.config import ModelConfig, model_shape
from srt_jax.run import interrupt, parent
from srt_jax.runtime import hardware, is_first_process, measure, processes, versions, xla_flags

LEVELS = OK, SLOW, WRONG, NOTE = "ok", "slow", "wrong", "note"
GB = 1e9
SLOW_LINK = 20 * GB  # bytes/s of a collective between accelerators, less than PCIe 5 has
SLOW_SHARE = 0.5  # of the peaks of a chip's data sheet
SCARCE = 2 * GB  # bytes of memory
DRIVERS = {"jax-cuda13-plugin": 580, "jax-cuda12-plugin": 525}  # the oldest driver of each plug-in, by JAX's guide
SERVER_SECONDS = 300.0  # a vLLM server that does not answer by then is wrong
SERVED_GAP = 0.05  # mean |log-prob difference| of server and trainer, above that of bfloat16 rounding
REQUIREMENTS = {"gpu": "requirements-cuda.txt", "tpu": "requirements-tpu.txt"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report. advice: what to set or to do, "" if there is nothing to do."""

    level: str  # one of LEVELS
    what: str
    found: str
    advice: str = ""

    def line(self, process: int = 0) -> str:
        """The line; process: the number of the process that found it."""
        what = f"{self.what} of process {process}" if process else self.what
        return f"{self.level:<5}  {what}: {self.found}" + (f": {self.advice}" if self.advice else "")


# ---- judgements: pure functions of facts


def judge_versions(by_process: Sequence[Mapping[str, str]]) -> list[Finding]:
    """Versions that do not fit together. by_process: versions.installed() of each process."""
    here = by_process[0]
    found = []
    for name, there in here.items():
        if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)", name) and there != here["jaxlib"]:
            extra = name.split("-")[1]
            found.append(
                Finding(
                    WRONG,
                    "versions",
                    f"{name} {there} does not match jaxlib {here['jaxlib']}, so that JAX does not use it",
                    f'pip install "jax[{extra}]=={here["jax"]}"',
                )
            )
    for name, least in DRIVERS.items():
        driver = here.get("driver", "")
        major = driver.partition(".")[0]
        if name in here and major.isdigit() and int(major) < least:
            found.append(
                Finding(
                    WRONG,
                    "driver",
                    f"the NVIDIA driver is {driver}, and {name} needs {least} or newer",
                    "update the driver, or install the plug-in of an older CUDA version",
                )
            )
    for name in dict.fromkeys(name for packages in by_process for name in packages):
        values = [packages.get(name, "missing") for packages in by_process]
        if len(set(values)) > 1:
            other = next(i for i, value in enumerate(values) if value != values[0])
            found.append(
                Finding(
                    WRONG,
                    "versions",
                    f"{name} is {values[0]} in process 0 and {values[other]} in process {other}",
                    "install the same requirements on every host",
                )
            )
    text = ", ".join(f"{name} {value}" for name, value in here.items())
    return found or [Finding(OK, "versions", text)]


def judge_devices(
    platform: str, kind: str, counts: Sequence[int], others: Mapping[str, str], wanted: str = ""
) -> Finding:
    """The devices that JAX uses. counts: local devices by process. wanted: $JAX_PLATFORMS.

    others: accelerators that the operating system shows, by platform, e.g. {"gpu": "8 GPUs"}.
    """
    text = f"{sum(counts)} x {kind}" + (f" in {len(counts)} processes" if len(counts) > 1 else "")
    if others and platform == "cpu":
        text = f"{text}, but this machine has {', '.join(others.values())}"
        if wanted:
            return Finding(SLOW, "devices", f"{text}, and JAX_PLATFORMS is {wanted!r}", "unset JAX_PLATFORMS")
        files = " ".join(f"-r {REQUIREMENTS[kind]}" for kind in others)
        return Finding(WRONG, "devices", f"{text}, which JAX cannot use", f"pip install {files}")
    if len(set(counts)) > 1:
        return Finding(WRONG, "devices", f"{text}, in unequal numbers {list(counts)}", "give each process as many")
    return Finding(OK, "devices", text)


def judge_flags(unknown: Iterable[str]) -> Finding:
    """unknown: those of our XLA flags that the installed compiler does not have."""
    if unknown := sorted(unknown):
        return Finding(SLOW, "XLA flags", f"this compiler has no {', '.join(unknown)}", "install a JAX that we test")
    return Finding(OK, "XLA flags", "the compiler has all that a run sets")


def judge_device_memory(limit: float | None, in_use: float, sold: float | None) -> Finding:
    """limit: bytes that JAX may use on a device, None if unknown. in_use: bytes that others use before JAX starts.

    sold: bytes of the data sheet, None for an unknown chip.
    """
    if limit is None:
        return Finding(NOTE, "device memory", "unknown")
    text = f"{limit / GB:.1f} GB for JAX on each device"
    if in_use > SCARCE:
        return Finding(WRONG, "device memory", f"{text}, but other programs use {in_use / GB:.1f} GB", "end them")
    if sold and limit < 0.9 * sold * xla_flags.GPU_MEMORY_FRACTION:
        return Finding(SLOW, "device memory", f"{text} of {sold / GB:.1f} GB", "unset XLA_PYTHON_CLIENT_MEM_FRACTION")
    return Finding(OK, "device memory", text)


def judge_host_memory(total: float, available: float) -> Finding:
    """Bytes of main memory, in all and available."""
    text = f"{available / GB:.1f} GB of {total / GB:.1f} GB are available"
    if available < SCARCE:
        return Finding(WRONG, "host memory", text, "end other programs, or use a machine with more memory")
    return Finding(OK, "host memory", text)


def judge_peaks(flops: float, bandwidth: float, chip: hardware.Chip | None, platform: str) -> Finding:
    """The measured FLOP/s of a bfloat16 product and bytes/s of a copy, beside the peaks of the chip."""
    text = f"matrix product {flops / 1e12:.3g} TFLOP/s, copy {bandwidth / GB:.3g} GB/s"
    if not chip:
        return Finding(NOTE, "arithmetic", f"{text}; the peaks of this device are not known")
    text += f", of {chip.flops / 1e12:.0f} and {chip.bandwidth / GB:.0f} in the data sheet"
    if min(flops / chip.flops, bandwidth / chip.bandwidth) < SLOW_SHARE:
        advice = {"gpu": "look for other programs, a power limit or heat with nvidia-smi -q"}
        return Finding(SLOW, "arithmetic", text, advice.get(platform, "end other programs that use the chip"))
    return Finding(OK, "arithmetic", text)


def judge_attention(name: str, shape: str, errors: np.ndarray, plain: np.ndarray) -> Finding:
    """errors, plain [5]: relative errors of a kernel and of plain XLA in bfloat16 (parity.attention_errors)."""
    limits = parity.limits(plain)
    if not (errors <= limits).all():
        worst = (errors / limits).argmax()
        text = f"relative error of {parity.PASSES[worst]} {errors[worst]:.4f}, above {limits[worst]:.4f}, {shape}"
        return Finding(WRONG, f"attention {name}", text, "set model.attention='xla', and report this device")
    text = f"relative error of {', '.join(parity.PASSES)} at most {errors.max():.4f}, {shape}"
    return Finding(OK, f"attention {name}", text)


@dataclasses.dataclass(frozen=True)
class Disk:
    """A kind of disk. The check writes `size` bytes, and calls a disk of less than `slow` bytes/s slow.

    field: the config field that names another folder. load: the bytes that a run of a 7B model writes there at a time.
    takes: the words before the seconds that this needs. advice: the advice for a slow disk.
    """

    what: str
    size: int
    slow: float
    load: float
    takes: str
    advice: str
    field: str


DISK = Disk(
    "disk",
    256 * 2**20,
    0.2 * GB,
    91 * GB,
    "a checkpoint of a 7B model (91 GB) takes",
    "set config.out to a faster disk, or checkpoint.every to more steps",
    "config.out",
)
RAM_DISK = Disk(
    "RAM disk",
    512 * 2**20,
    1 * GB,
    15 * GB,
    "the weights of a 7B model for vLLM (15 GB) take",
    "end other programs, or set rollout.vllm.weights_directory to a faster disk",
    "rollout.vllm.weights_directory",
)


def judge_disk(disk: Disk, folder: pathlib.Path, written: float, read: float, free: float) -> Finding:
    """Bytes/s of the disk of this folder, and its free bytes."""
    text = f"{folder}: {written / GB:.2f} GB/s written, {read / GB:.2f} GB/s read, {free / GB:.0f} GB free"
    if written < disk.slow:
        return Finding(SLOW, disk.what, f"{text}; {disk.takes} {disk.load / written:.0f} s", disk.advice)
    return Finding(OK, disk.what, text)


def judge_unwritable(disk: Disk, folder: pathlib.Path, error: OSError) -> Finding:
    """A folder that cannot be written."""
    advice = "free some space there" if error.errno in FULL else f"set {disk.field} to a folder that you may write"
    return Finding(WRONG, disk.what, f"{folder} cannot be written ({error.strerror})", advice)


def judge_collective(name: str, bandwidth: float, right: bool, platform: str, devices: int) -> Finding:
    """The bytes/s of a collective over all devices, and whether its result was right."""
    text = f"{bandwidth / GB:.3g} GB/s over {devices} devices"
    if not right:
        return Finding(WRONG, name, f"{text}, with a wrong result", "exclude this machine, and report it")
    if platform != "cpu" and bandwidth < SLOW_LINK:
        advice = {
            "gpu": "look for a missing NVLink or InfiniBand with NCCL_DEBUG=INFO",
            "tpu": "end other programs on the slice, or create it again",
        }
        return Finding(SLOW, name, text, advice.get(platform, "report this device"))
    return Finding(OK, name, text)


def judge_update(shape: str, seconds: float, compiled: float, finite: bool) -> Finding:
    """The seconds of a small update and of its compilation."""
    text = f"{seconds:.3f} s for {shape}, compiled in {compiled:.0f} s"
    if not finite:
        return Finding(WRONG, "update", f"{text}, not finite", "report this device with the versions above")
    return Finding(OK, "update", text)


def judge_server(seconds: float, gap: float) -> Finding:
    """The seconds until a vLLM server had answered, and the mean |log-prob difference| to the trainer."""
    text = f"a server answered after {seconds:.0f} s; its log-probs differ from the trainer's by {gap:.1e}"
    if not gap < SERVED_GAP:
        return Finding(WRONG, "vLLM", text, "install the versions of requirements-vllm.txt")
    return Finding(OK, "vLLM", text)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line of the report."""

    def names(level: str) -> str:
        return ", ".join(dict.fromkeys(f.what for f in findings if f.level == level))

    slow = f"; slow: {names(SLOW)}" if names(SLOW) else ""
    if wrong := names(WRONG):
        return f"verdict: not ready; wrong: {wrong}{slow}"
    return f"verdict: ready{slow}"


# ---- facts


def check_versions() -> list[Finding]:
    """All processes call this and the other check functions."""
    return judge_versions(processes.gather(versions.installed()))


def accelerators() -> dict[str, str]:
    """The accelerators that the operating system shows, by platform."""
    counts = {"gpu": len((versions.nvidia_smi("name") or "").splitlines()), "tpu": hardware.tpu_chips()}
    names = {"gpu": "NVIDIA GPU", "tpu": "TPU chip"}
    return {kind: f"{count} {names[kind]}{'s' if count > 1 else ''}" for kind, count in counts.items() if count}


def gpu_memory_in_use() -> float:
    """Bytes in use on the fullest of the GPUs that JAX may see, in the moment before JAX takes its share.

    GPUs that share the memory of the host answer "[N/A]" and count as 0.
    """
    used = versions.nvidia_smi("memory.used", os.environ.get("CUDA_VISIBLE_DEVICES", "")) or ""
    return max((float(row) * 2**20 for row in re.findall(r"^(\d+) MiB", used, re.MULTILINE)), default=0.0)


def check_devices(in_use: float) -> Iterator[Finding]:
    """Devices, memory and arithmetic. in_use: `gpu_memory_in_use` before JAX started."""
    device, counts = jax.local_devices()[0], processes.gather(jax.local_device_count())
    wanted = os.environ.get("JAX_PLATFORMS", "")
    yield judge_devices(device.platform, device.device_kind, counts, accelerators(), wanted)
    if device.platform == "gpu":
        yield judge_flags(set(xla_flags.GPU.values) - xla_flags.known(xla_flags.GPU, xla_flags.GPU.values))
    chip = hardware.chip_of(device.device_kind)
    limit = hardware.device_memory(device, jax.local_device_count())
    yield judge_device_memory(limit, in_use, chip.memory if chip and device.platform == "gpu" else None)
    yield judge_host_memory(hardware.machine_memory(), hardware.available_memory())
    small = device.platform == "cpu"
    yield judge_peaks(*measure.peaks(*((512, 2**26) if small else (8192, 2**31))), chip, device.platform)


def check_attention() -> Iterator[Finding]:
    """The kernels that this backend offers."""
    platform = jax.local_devices()[0].platform
    N, K, H, S = (4, 2, 64, 128) if platform == "cpu" else (14, 2, 64, 1024)
    for name in parity.kernels(platform):
        for packed in (False, True):
            inputs = parity.attention_inputs(2, S, N, K, H, packed)
            errors, plain = map(np.asarray, jax.device_get(parity.compile_errors(name, inputs)(*inputs)))
            yield judge_attention(name, f"{S} tokens{', packed' * packed}", errors, plain)


def check_disks(out: pathlib.Path, ram: pathlib.Path = pathlib.Path("/dev/shm")) -> Iterator[Finding]:
    """The disk of the run folder, and the RAM disk if there is one."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    written: dict[str, float] = {}
    for disk, place in ((DISK, folder), (RAM_DISK, ram)):
        if not place.is_dir():
            yield Finding(NOTE, disk.what, f"there is no {place}")
            continue
        space = os.statvfs(place)
        free = space.f_bavail * space.f_frsize
        try:
            speeds = measure.disk(place, max(1, min(disk.size, free // 4)))
        except OSError as e:
            yield judge_unwritable(disk, place, e)
            continue
        yield judge_disk(disk, place, *speeds, free)
        written[disk.what] = speeds[0]
    if written.get(RAM_DISK.what, 0.0) > 2 * written.get(DISK.what, 0.0):
        yield Finding(NOTE, "vLLM weights", f"set rollout.vllm.weights_directory={ram}/srt_jax, the faster disk")


def check_collectives(mesh) -> Iterator[Finding]:
    """An all-gather and a reduce-scatter over all devices."""
    if mesh.size == 1:
        yield Finding(NOTE, "collectives", "one device has none")
        return
    platform = jax.local_devices()[0].platform
    found = measure.collectives(mesh, 2**24 if platform == "cpu" else 2**28)
    for name, (bandwidth, right) in found.items():
        yield judge_collective(name, bandwidth, right, platform, mesh.size)


def check_update(mesh, dtype: str) -> Iterator[Finding]:
    """Three updates of a small model with random weights; the last one is timed."""
    from srt_jax.miniature import task
    from srt_jax.rl.collate import Layout, TrainingSamples, collate
    from srt_jax.rl.optimizer import init_state, learning_rate_schedule, make_optimizer
    from srt_jax.rl.update import UpdateConfig, make_update
    from srt_jax.rollout.sampler import Rollouts

    platform = jax.local_devices()[0].platform
    length, rows = (64, 8 * sharding.num_row_shards(mesh)) if platform == "cpu" else (1024, 8 * mesh.size)
    config = (
        ModelConfig.from_hf(task.HF_CONFIG)
        if platform == "cpu"
        else dataclasses.replace(model_shape("Qwen2.5-0.5B"), num_layers=2)
    )
    kernel = attention.choose("auto", platform, dtype, config.head_dim)
    graphdef, params = decoder.create(config, 0, mesh, dtype, "none", kernel)
    optimizer = make_optimizer(
        learning_rate_schedule(1e-6), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0
    )
    state = init_state(params, optimizer, mesh)
    layout = Layout(1, rows, rows, (length,))
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (1, rows, length - 8), dtype=np.int32)
    lengths = np.full((1, rows), length - 8, np.int32)
    logprobs = np.full(tokens.shape, -np.log(config.vocab_size), np.float32)
    rollouts = Rollouts([[3] * 8], tokens, lengths, logprobs, lengths > 0, 0)
    batch = collate(TrainingSamples(rollouts, np.arange(rows)[None] % 2.0, np.ones(1, bool)), layout, mesh)
    update = make_update(graphdef, optimizer, UpdateConfig(layout, kl_coef=0.0), mesh, state)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        state, metrics = update(state, None, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    shape = f"{rows} x {length} tokens of a model with {config.num_params / 1e6:.3g}M parameters in {dtype}, {kernel}"
    yield judge_update(shape, seconds[2], seconds[0] - seconds[2], bool(metrics["finite"]))


def check_vllm(config: ConfigDict, dtype: str) -> Iterator[Finding]:
    """The servers of rollout.servers, or one that this check starts. Only the first process does it."""
    from srt_jax.rollout.vllm.client import ServerFailedError
    from srt_jax.rollout.vllm.command import package
    from srt_jax.rollout.vllm.server import Attached

    if not is_first_process():
        return
    settings = config.rollout.vllm
    for url in config.rollout.servers:
        answers = Attached(url, start_seconds=0, max_restarts=0).answers()
        yield (
            Finding(OK, "vLLM", f"{url} answers")
            if answers
            else Finding(WRONG, "vLLM", f"no server answers at {url}", "start it with launch/vllm_server.sh")
        )
    if config.rollout.servers:
        return
    try:
        kind = package(settings.python)
    except ServerSetupError as e:
        needed = config.rollout.sampler == "vllm"
        yield Finding(WRONG if needed else NOTE, "vLLM", str(e).removesuffix("."))
        return
    folder, failed = pathlib.Path(tempfile.mkdtemp(prefix="srt-check-")), False
    try:
        yield judge_server(*_served(settings, kind, dtype, folder))
    except ServerFailedError as e:
        failed = True
        yield Finding(WRONG, "vLLM", str(e).removesuffix("."))
    finally:
        if not failed:  # the finding names the log
            shutil.rmtree(folder, ignore_errors=True)


def _served(settings: ConfigDict, kind: str, dtype: str, folder: pathlib.Path) -> tuple[float, float]:
    """(seconds until a server answered, mean |log-prob difference|). Its model is the miniature, with random weights.

    Raises ServerFailedError.
    """
    from srt_jax.miniature import task
    from srt_jax.rollout.sampler import Rollouts, Sampling
    from srt_jax.rollout.vllm import client
    from srt_jax.rollout.vllm.command import Settings
    from srt_jax.rollout.vllm.server import Server
    from srt_jax.run.probe import score

    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    shape = ModelConfig.from_hf(task.HF_CONFIG)
    kernel = attention.choose("auto", mesh.devices.flat[0].platform, dtype, shape.head_dim)
    graphdef, params = decoder.create(shape, 0, mesh, dtype, "none", kernel)
    task.tokenizer().save_pretrained(folder / "tokenizer")
    with processes.alone():  # the other processes do not call this function
        weights.save(folder / "model", params, task.HF_CONFIG, dtype, tokenizer_from=folder / "tokenizer")
    # JAX has taken most of the memory of each GPU by now. This server needs very little.
    fraction = 0.05 if kind == "vllm" else 1
    server = Server(
        "the vLLM server",
        Settings(settings.python, dtype, 64, 8, fraction),
        folder / "server.log",
        start_seconds=SERVER_SECONDS,
        max_restarts=0,
        gpus=settings.gpus[:1],
    )
    write("a vLLM server starts, which takes about half a minute ...", sys.stderr)
    start = time.monotonic()
    try:
        server.start(folder / "model")
        server.wait()
        prompt = [4, 5, 6]
        request = client.completion(prompt, 4, Sampling(max_tokens=16), 0, [1])
        answer = client.read_completion(client.complete(server.url, request), request, 4)
        seconds = time.monotonic() - start
    finally:
        server.stop()
    tokens, logprobs = np.zeros((1, 4, 16), np.int32), np.zeros((1, 4, 16), np.float32)
    lengths = np.array([[len(ids) for ids in answer.tokens]], np.int32)
    for i, (ids, values) in enumerate(zip(answer.tokens, answer.logprobs)):
        tokens[0, i, : len(ids)], logprobs[0, i, : len(ids)] = ids, values
    rollouts = Rollouts([prompt], tokens, lengths, logprobs, np.array([answer.stopped]), 0)
    gaps = np.abs(score(graphdef, params, mesh, rollouts, 1.0) - logprobs)
    return seconds, float(gaps.sum() / lengths.sum())


# ---- the command


def check(config: ConfigDict, in_use: float) -> list[Finding]:
    """Makes all checks and prints their lines in the first process. Returns the findings of all processes.

    in_use: `gpu_memory_in_use` before JAX started.
    """
    device = jax.local_devices()[0]
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "float32" if device.platform == "cpu" else "bfloat16"
    mesh = sharding.make_mesh(data=1, fsdp=jax.device_count())
    parts = {
        "versions": check_versions,
        "devices": lambda: check_devices(in_use),
        "disks": lambda: check_disks(pathlib.Path(config.out)),
        "attention": check_attention,
        "collectives": lambda: check_collectives(mesh),
        "update": lambda: check_update(mesh, dtype),
        "vLLM": lambda: check_vllm(config, dtype),
    }
    found = []
    for name, part in parts.items():
        of_all = processes.gather(list(_attempted(name, part)))
        for process, findings in enumerate(of_all):
            # Other processes have the same lines, except for what is wrong or slow on their own hosts.
            shown = [f for f in findings if not process or f not in of_all[0]]
            shown = [f for f in shown if f.level in (SLOW, WRONG)] if process else findings
            found += shown
            if is_first_process():
                for finding in shown:
                    print(finding.line(process), flush=True)
    return found


def _attempted(name: str, part) -> Iterator[Finding]:
    """The findings of a part. An exception becomes one that is wrong, so that later parts still run."""
    try:
        yield from part()
    except UserError as e:
        yield Finding(WRONG, name, " ".join(str(e).split()).removesuffix("."))
    except Exception as e:
        yield Finding(WRONG, name, f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")


def main(argv) -> int:
    """Prints the report. Returns 0 if nothing is wrong, 1 if something is, 2 for a mistake in the input."""
    if len(argv) > 1:
        return cli.complain(f"unexpected argument {argv[1]!r}: fields are set with --config.FIELD=VALUE.")
    config = flags.FLAGS.config
    if config is None:
        config = base()
        config.mesh.cpu_devices = 2  # so that a CPU, too, has collectives to test
    else:
        validate(config)
    config = expand_paths(config)

    def work() -> int:
        start, in_use = time.monotonic(), gpu_memory_in_use()
        parent.join(config)
        found = check(config, in_use)
        if is_first_process():
            print(f"{verdict(found)} ({time.monotonic() - start:.0f} s)", flush=True)
        return int(any(f.level == WRONG for f in found))

    return interrupt.run(work, "interrupted: nothing was changed.")


if __name__ == "__main__":
    cli.define_config("The config whose folder, mesh, dtype and vLLM settings are checked: a file or a shipped name.")
    cli.run(main)
