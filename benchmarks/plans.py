"""The plans in docs/results.md: python -m srt_jax plan for the papers' batch (512 x 4096) on several machines.

    python benchmarks/plans.py [--only NAME] [--out runs/plans.jsonl]

Needs .venv-plan (docs/planning.md) and no accelerator. A plan takes minutes to compile. Prints one line of Markdown per
plan as soon as the plan is ready. The file --out stores the whole reports. Plans that are already in it are not
compiled again.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FSDP_7B = 32  # on TPUs: with 64 a chip has 56 rows of a weight, no multiple of a tile (srt plan prints a note)
VLLM = "--config.rollout.sampler=vllm"  # rollouts come from servers, so the plan has no sampler
HEADER = """\
| plan | | remat | micro-batch | fits | memory | state | temporaries | collectives | calls | FLOPs, s | decoding, s |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def paper(model: str, topology: str, *fields: str) -> list[str]:
    """The arguments of a plan of srt.py."""
    return [f"--config=configs/srt.py:{model},dapo", f"--topology={topology}", *fields]


def lightest(model: str, topology: str, chips: int, fsdp: int) -> list[str]:
    """The update without remat and with one sequence per chip, where the search begins."""
    return paper(
        model,
        topology,
        VLLM,
        f"--config.mesh.fsdp={fsdp}",
        "--config.model.remat=none",
        f"--config.batch.microbatch_sequences={chips}",
    )


def scaled(topology: str, chips: int) -> list[str]:
    """32 sequences per chip for any number of chips; parameters over 16 chips, full remat, micro-batches of one per
    chip.
    """
    return paper(
        "qwen25_math_7b",
        topology,
        VLLM,
        "--config.mesh.fsdp=16",
        f"--config.batch.prompts_per_step={chips}",
        f"--microbatch={chips}",
    )


def adapters(model: str, topology: str, chips: int) -> list[str]:
    """LoRA of rank 32 on all linear layers; the search begins without remat and with one sequence per chip."""
    return lightest(f"{model}_lora", topology, chips, chips)


def least(model: str, topology: str, chips: int) -> list[str]:
    """Full fine-tuning with the least memory: full remat, one sequence per chip. Without a search."""
    return paper(model, topology, VLLM, f"--config.mesh.fsdp={chips}", f"--microbatch={chips}")


def two_nodes(model: str, microbatch: int, *fields: str) -> list[str]:
    """The update on two nodes, with this micro-batch. Without a search."""
    return paper(model, "h200:16", VLLM, f"--microbatch={microbatch}", *fields)


NO_REMAT = "--config.model.remat=none"
ONE_NODE = {"h100:1": 1, "h200:1": 1, "h200:8": 8, "v5e:2x4": 8, "v6e:2x2": 4}  # chips
CASES = {
    "7B h200:8": paper("qwen25_math_7b", "h200:8", VLLM),
    "14B h200:8": paper("qwen3_14b", "h200:8", VLLM),
    "7B h200:16": two_nodes("qwen25_math_7b", 64),
    "7B h200:16, no remat": two_nodes("qwen25_math_7b", 64, NO_REMAT),
    "14B h200:16": two_nodes("qwen3_14b", 32),
    "14B h200:16, no remat": two_nodes("qwen3_14b", 32, NO_REMAT),
    "7B h200:4": lightest("qwen25_math_7b", "h200:4", 4, 4),
    "14B h200:4": lightest("qwen3_14b", "h200:4", 4, 4),
    "4B h200:1": lightest("qwen3_4b", "h200:1", 1, 1),
    "7B v5p:2x2x4, 16 chips": scaled("v5p:2x2x4", 16),
    "7B v5p:4x4x4, 64 chips": scaled("v5p:4x4x4", 64),
    "7B v5p:4x8x8, 256 chips": scaled("v5p:4x8x8", 256),
    "7B v5p:4x4x4": lightest("qwen25_math_7b", "v5p:4x4x4", 64, FSDP_7B),
    "14B v5p:4x4x4": lightest("qwen3_14b", "v5p:4x4x4", 64, 64),
    "7B v6e:8x8": lightest("qwen25_math_7b", "v6e:8x8", 64, FSDP_7B),
    "14B v6e:8x8": lightest("qwen3_14b", "v6e:8x8", 64, 64),
    "7B v5p:4x4x4, own sampler": paper(
        "qwen25_math_7b",
        "v5p:4x4x4",
        "--config.mesh.fsdp=16",
        "--config.mesh.tensor=4",
        "--config.rollout.prompts_per_call=32",
        "--config.rollout.slots=256",
        "--microbatch=32",
    ),
    **{
        f"{size} {what} {topology}": case(model, topology, chips)
        for topology, chips in ONE_NODE.items()
        for size, model in (("7B", "qwen25_math_7b"), ("14B", "qwen3_14b"))
        for what, case in (("LoRA", adapters), ("full", least))
    },
}


def row(name: str, what: str, entry: dict) -> str:
    """One line of the table. A sampler has no remat and no micro-batch, an update does not decode.

    Memory and collectives are per device, in GB; `state` is parameters, frozen base, optimizer and reference. The
    seconds are analytic lower bounds: FLOPs (with recomputation) over the peak, weights and KV cache over the
    bandwidth.
    """
    memory, gb = entry["bytes_per_device"], 1e9
    bounds = entry["lower_bound_seconds"] or {}
    state = sum(memory.get(kind, 0) for kind in ("parameters", "base", "optimizer", "reference"))
    compiled = memory["temporaries"] is not None  # a program beyond the memory has no collectives either
    cells = [
        name,
        what,
        entry.get("remat", "-"),
        entry.get("microbatch_sequences", "-"),
        "yes" if entry["fits"] else "no",
        f"{memory['total'] / gb:.1f}" if memory["total"] else "-",
        f"{state / gb:.1f}",
        f"{memory['temporaries'] / gb:.1f}" if compiled else "-",
        f"{sum(entry['collective_bytes_per_device'].values()) / gb:.0f}" if compiled else "-",
        f"{sum(entry['collective_calls_per_device'].values()):.0f}" if compiled else "-",
        *(
            f"{seconds:.1f}" if seconds is not None else "-"
            for seconds in (bounds.get("flops_with_remat", bounds.get("flops")), bounds.get("decoding_bytes"))
        ),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs" / "plans.jsonl")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(HEADER)
    done = dict(map(json.loads, args.out.read_text().splitlines())) if args.out.exists() else {}
    for name in (name for name in CASES if args.only in name):
        if name not in done:
            command = [sys.executable, "-m", "srt_jax", "plan", "--json", *CASES[name]]
            found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
            if found.returncode > 1 or not found.stdout:
                sys.exit(f"error: {' '.join(command)} failed.")
            done[name] = json.loads(found.stdout)
            with open(args.out, "a") as f:
                f.write(json.dumps([name, done[name]]) + "\n")
        print(row(name, "config", done[name]), flush=True)
        for what in ("largest", "sampler"):
            if done[name].get(what):
                print(row(name, what, done[name][what]), flush=True)


if __name__ == "__main__":
    main()
