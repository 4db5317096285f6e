"""Formats the report of srt plan as a table."""

GB = 1e9
BOUNDS = {
    "flops": "FLOPs over the peak",
    "flops_with_remat": "the same with recomputation",
    "decoding_bytes": "weights and KV cache over the memory bandwidth",
}


def table(result: dict) -> str:
    """The report as text."""
    lines = [
        f"{result['model']} on {result['topology']}: {result['devices']} devices, mesh "
        + ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    columns = {f"update, {settings(result)}": result}
    if result.get("largest"):
        columns[f"lightest remat and largest micro-batch that fit: {settings(result['largest'])}"] = result["largest"]
    if "sampler" in result:
        columns["sampler"] = result["sampler"]
    for title, entry in columns.items():
        lines += ["", title, *(f"  {label:<34}{value}" for label, value in rows(entry))]
    if "largest" in result and not result["largest"]:
        lines += ["", "no micro-batch fits, not even with model.remat=full: use more devices, or a larger mesh.fsdp."]
    return "\n".join(lines)


def settings(entry: dict) -> str:
    """The remat and the micro-batch of a program."""
    return f"remat {entry['remat']}, micro-batches of {entry['microbatch_sequences']} sequences"


def rows(entry: dict):
    """(label, value) of one program's figures."""
    memory = ", ".join(f"{kind} {size / GB:.3g}" for kind, size in entry["bytes_per_device"].items() if size)
    yield "memory per device, GB", memory
    yield "fits", f"{'yes' if entry['fits'] else 'NO'}, of {entry['bytes_available_per_device'] / GB:.1f} GB"
    calls = entry["collective_calls_per_device"]
    collectives = ", ".join(
        f"{kind} {size / GB:.3g} in {calls[kind]} calls"
        for kind, size in sorted(entry["collective_bytes_per_device"].items())
    )
    yield "collective results per device, GB", collectives or "none"
    needed = f"{entry['flops_per_device']:.3e}"
    if "executed_flops_per_device" in entry:
        needed += f", with recomputation {entry['executed_flops_per_device']:.3e}"
    yield "FLOPs per device (analytic)", needed
    if "decoding_bytes_per_device" in entry:
        yield "GB read by decoding (analytic)", f"{entry['decoding_bytes_per_device'] / GB:.4g}"
    for name, seconds in (entry["lower_bound_seconds"] or {}).items():
        yield "seconds, analytic lower bound", f"{seconds:.3g}: {BOUNDS[name]}"
