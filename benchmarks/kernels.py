"""Finds the slowest kernels of a program in a trace of JAX's profiler. Needs no TensorBoard plug-in."""

import collections
import gzip
import json
import pathlib
import tempfile

import jax

NO_KERNELS = ("ThreadpoolListener", "end: ", "while", "$", "Thunk")  # events of a CPU's trace that are not operations


def profile(call, top: int = 10) -> dict:
    """Traces one call. Returns {"kernels": the slowest by total time, "kernel_ms": time of all kernels}.

    A kernel is {"name", "ms", "calls", "share" of all kernels' time}. Raises ValueError if the trace has no kernels.
    """
    with tempfile.TemporaryDirectory() as directory:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = (
            0  # a trace stores a million events, and Python's would leave no place for kernels
        )
        options.host_tracer_level = 2 if jax.default_backend() == "cpu" else 1
        with jax.profiler.trace(directory, profiler_options=options):
            call()
        return slowest(read(directory), top)


def read(directory) -> dict:
    """The newest trace under a profiler's directory. Raises ValueError if there is none."""
    files = sorted(pathlib.Path(directory).rglob("*.trace.json.gz"))
    if not files:
        raise ValueError(f"the profiler wrote no *.trace.json.gz to {directory}.")
    with gzip.open(files[-1]) as file:
        return json.load(file)


def slowest(trace: dict, top: int) -> dict:
    """See `profile`. Counts the streams of a GPU only, since other lines of a device repeat the same time."""
    events = trace["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    of_device = {key: name for key, name in threads.items() if processes.get(key[0], "").startswith("/device:")}
    lines = (
        {key for key, name in of_device.items() if name.startswith("Stream")}
        or set(of_device)
        or {key for key, name in threads.items() if name.startswith("tf_XLA")}
    )
    total, calls = collections.Counter(), collections.Counter()
    for e in events:
        if e.get("ph") == "X" and (e["pid"], e.get("tid")) in lines and not e["name"].startswith(NO_KERNELS):
            total[e["name"]] += e["dur"] / 1e3
            calls[e["name"]] += 1
    if not total:
        raise ValueError(f"the trace has no kernels; its lines are {sorted(set(threads.values()))[:8]}.")
    whole = total.total()
    return {
        "kernel_ms": round(whole, 3),
        "kernels": [
            {"name": name[:120], "ms": round(ms, 3), "calls": calls[name], "share": round(ms / whole, 4)}
            for name, ms in total.most_common(top)
        ],
    }
