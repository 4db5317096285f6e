"""The report of srt plan as text."""

GB = 1e9


def table(result: dict) -> str:
    """The report as text."""
    lines = [
        f"{result['model']} on {result['topology']}: {result['devices']} devices, mesh "
        + ", ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    columns = {f"update, {shown(result)}": result}
    if result.get("largest"):
        columns[f"lightest remat and largest micro-batch that fit: {shown(result['largest'])}"] = result["largest"]
    if "sampler" in result:
        columns["sampler"] = result["sampler"]
    for title, entry in columns.items():
        lines += ["", title, *(f"  {label:<34}{value}" for label, value in rows(entry))]
    if "largest" in result and not result["largest"]:
        lines += ["", "no micro-batch fits, not even with model.remat=full: use more devices, or more of mesh.fsdp."]
    return "\n".join(lines)


def shown(entry: dict) -> str:
    """What tells one column of figures from another."""
    return f"remat {entry['remat']}, micro-batches of {entry['microbatch_sequences']} sequences"


def rows(entry: dict):
    """(label, value) of one program's figures."""
    memory = ", ".join(f"{kind} {size / GB:.3g}" for kind, size in entry["bytes_per_device"].items() if size)
    yield "memory per device, GB", memory
    yield "fits", f"{'yes' if entry['fits'] else 'NO'}, of {entry['bytes_available_per_device'] / GB:.1f} GB"
    yield (
        "FLOPs per device",
        (f"{entry['flops_per_device']:.3e}, with what remat computes again {entry['executed_flops_per_device']:.3e}"),
    )
    collectives = ", ".join(f"{kind} {n / GB:.3g}" for kind, n in sorted(entry["collective_bytes_per_device"].items()))
    yield "collective results per device, GB", collectives or "none"
    if entry["step_seconds"] is not None:
        roofs = ", ".join(f"{roof} {seconds:.3g}" for roof, seconds in entry["roofs_seconds"].items())
        yield "seconds per step at each roof", roofs
        yield (
            "seconds per step, at least",
            (f"{entry['step_seconds']:.2f}, bound by {entry['bound_by']}; MFU at most {entry['mfu_at_roof']:.0%}"),
        )
