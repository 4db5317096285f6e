"""Compares two exports of a model that several processes share: one process writes, or each one writes its own files.

    python benchmarks/export.py [--model SmolLM2-135M] [--processes 2 4] [--folder runs/export] [--repeats 3]

Starts so many processes on this machine, with one CPU device each and `mesh.fsdp` over all of them. In both ways the
processes gather a tensor at a time. `first`: process 0 writes all tensors (srt_jax/model/weights.py, as a run does).
`own`: process K writes every N-th tensor from the K-th on into a file of its own. `gather`: only the gathers, without
files. The three alternate. Both ways compute the checksums of all tensors and flush the files. Prints one JSON line per
number of processes: medians of wall-clock seconds and of CPU seconds, summed over the processes. The folder must have
room for two exports.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp

from srt_jax import runtime
from srt_jax.files import flush
from srt_jax.model import decoder, sharding, weights
from srt_jax.model.config import ModelConfig, shipped_hf_config
from srt_jax.rollout.vllm.command import free_port
from srt_jax.runtime import processes


def gather(params, dtype) -> None:
    """Gathers all tensors and writes none."""
    for name in weights.tensor_names(params):
        weights.read_tensor(params, name, dtype)


def write_own_files(directory: pathlib.Path, params, dtype) -> None:
    """Each process writes every N-th tensor into a file of its own."""
    me, count = jax.process_index(), jax.process_count()
    shapes, left = weights.tensor_shapes(params), list(weights.tensor_names(params))
    own = {name: shapes[name] for name in left[me::count]}
    file = f"model-{me + 1:05d}-of-{count:05d}.safetensors"

    def read(name: str) -> jax.Array:
        while (other := left.pop(0)) != name:  # all processes gather all tensors in the same order
            weights.read_tensor(params, other, dtype)
        return weights.read_tensor(params, name, dtype)

    processes.from_first(lambda: directory.mkdir(parents=True))
    weights._write_files(directory, {file: own}, read, dtype, {})
    for name in left:
        weights.read_tensor(params, name, dtype)
    flush(directory / file)
    processes.any_of(False)  # all files are complete


def measured(work, *arguments) -> tuple[float, float]:
    """(wall-clock seconds until work(*arguments) has ended in all processes, CPU seconds of all)."""
    processes.any_of(False)
    start, before = time.perf_counter(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    work(*arguments)
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before
    cpu = sum(processes.gather(spent))
    return time.perf_counter() - start, cpu


def measure(args) -> None:
    """The part of one process."""
    runtime.start(1)
    hf_config = shipped_hf_config(args.model)
    mesh = sharding.make_mesh(fsdp=jax.process_count())
    params = decoder.create(ModelConfig.from_hf(hf_config), 0, mesh, "float32")[1]
    dtype = jnp.dtype(args.dtype)
    found = {"first": [], "own": [], "gather": []}
    for turn in range(args.repeats + 1):
        folder = {name: args.folder / f"{name}-{turn}" for name in found}
        seconds = {
            "first": measured(weights.save, folder["first"], params, hf_config, dtype),  # as a run exports
            "own": measured(write_own_files, folder["own"], params, dtype),
            "gather": measured(gather, params, dtype),
        }
        if runtime.is_first_process():
            size = sum(file.stat().st_size for file in folder["first"].glob("*.safetensors"))
            for name in ("first", "own"):
                shutil.rmtree(folder[name])
        for name in found if turn else ():  # the first turn compiles
            found[name].append(seconds[name])
    if runtime.is_first_process():
        medians = {name: [round(statistics.median(part), 2) for part in zip(*rows)] for name, rows in found.items()}
        line = {"benchmark": "export", "model": args.model, "processes": jax.process_count(), "bytes": size}
        print(json.dumps(line | {f"{name}_wall_cpu_s": pair for name, pair in medians.items()}), flush=True)


def main():
    args = parse()
    if "JAX_PROCESS_ID" in os.environ:
        measure(args)
        return
    for count in args.processes:
        variables = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
        started = [
            subprocess.Popen(
                [sys.executable, *sys.argv],
                env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables | {"JAX_PROCESS_ID": str(index)},
            )
            for index in range(count)
        ]
        statuses = [process.wait() for process in started]
        if any(statuses):
            sys.exit("error: a process failed.")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SmolLM2-135M", help="a shape of srt_jax/model/hf")
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/export"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
