"""Measures the seconds that new weights need from the trainer to a vLLM server, beside a plain copy of the same bytes.

    python benchmarks/weight_sync.py [--models SmolLM2-135M ...] [--folders runs/weight_sync /dev/shm/weight_sync]
                                     [--dtype bfloat16] [--ranks 0 32] [--repeats 3]

Models have random weights of these shapes (srt_jax/model/hf). Rank 0 updates the whole model. Other ranks update
adapters of all linear layers, so an export is a PEFT directory, and a server loads it beside its base. An export
gathers, casts, checksums, writes, flushes and renames. A reload verifies all checksums, pauses the server of .venv-vllm
(not for adapters), makes it read the files, and resumes it. A probe scores fixed sequences on both sides and compares.
The copy writes the exported files again to the same folder and flushes them. Prints one JSON line with medians per
model, folder and rank.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax

from srt_jax.config import base
from srt_jax.miniature import task
from srt_jax.model import decoder, lora, weights
from srt_jax.model.config import ModelConfig, shipped_hf_config
from srt_jax.rollout.vllm.sampler import VLLMSampler
from srt_jax.run.loading import load_weights, open_mesh
from srt_jax.run.prepare import read_model

UPDATE_SECONDS = 3  # idle time in place of an update, because vLLM's workers spin for a second after a request


def main():
    args = parse()
    for name in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            hf_config = {**shipped_hf_config(name), "eos_token_id": 1, "bos_token_id": 1}
            for folder in args.folders:
                for rank in args.ranks:
                    print(json.dumps(measure(name, hf_config, pathlib.Path(scratch), folder, rank, args)), flush=True)


def measure(name: str, hf_config: dict, scratch: pathlib.Path, folder: str, rank: int, args) -> dict:
    """Starts a server, updates its weights `repeats` times, and copies the last export as often."""
    config = base()
    config.name, config.out = name, str(scratch)
    config.model.path, config.model.dtype = str(scratch / "model"), args.dtype
    config.model.lora.rank = rank
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 64, 64
    config.rollout.vllm.update({"weights_directory": folder, "memory_fraction": 1.0, "max_sequences": 16})
    mesh = open_mesh(config)
    if not (scratch / "model").exists():
        params = decoder.create(ModelConfig.from_hf(hf_config), 0, mesh, args.dtype)[1]
        task.tokenizer().save_pretrained(scratch / "tokenizer")
        weights.save(scratch / "model", params, hf_config, args.dtype, tokenizer_from=scratch / "tokenizer")
        del params
    model = read_model(config)
    graphdef, params = load_weights(config, model, mesh)
    sampler = VLLMSampler(config, model, graphdef, mesh, scratch / "run")
    reports, copies = [], []
    try:
        sampler.load(params, 0)  # starts the server
        for step in range(1, args.repeats + 1):
            params = jax.block_until_ready(changed(params))  # not part of the export
            time.sleep(UPDATE_SECONDS)
            sampler.load(params, step)
            reports.append(sampler.report)
        exported = sampler.exports / f"step_{args.repeats:06d}"
        time.sleep(UPDATE_SECONDS)
        copies = [copy_seconds(exported, i) for i in range(args.repeats)]
        size = sum(file.stat().st_size for file in exported.iterdir())
    finally:
        sampler.close()  # deletes the exports
    seconds = {
        key: statistics.median(report[f"publish/{key}"] for report in reports)
        for key in ("seconds", "reload_seconds", "probe_seconds", "probe_gap_mean", "probe_gap_max")
    }
    copy = statistics.median(copies)
    return {
        "benchmark": "weight_sync",
        "model": name,
        "dtype": args.dtype,
        "lora_rank": rank,
        "folder": folder,
        "bytes": size,
        "export_s": round(seconds["seconds"], 3),
        "reload_s": round(seconds["reload_seconds"], 3),
        "probe_s": round(seconds["probe_seconds"], 3),
        "copy_s": round(copy, 3),
        "export_bytes_per_s": round(size / seconds["seconds"]),
        "reload_bytes_per_s": round(size / seconds["reload_seconds"]),
        "copy_bytes_per_s": round(size / copy),
        "export_and_reload_by_copy": round((seconds["seconds"] + seconds["reload_seconds"]) / copy, 2),
        "probe_gap_mean": seconds["probe_gap_mean"],
        "probe_gap_max": seconds["probe_gap_max"],
    }


def changed(params):
    """Other weights: with adapters only these change."""
    trained, frozen = lora.split(params)
    return lora.join(jax.tree.map(lambda x: x * 1.01 + 1e-4 * lora.has_adapters(params), trained), frozen)


def copy_seconds(directory: pathlib.Path, number: int) -> float:
    """A plain copy of the files into a new folder beside it, each flushed. The ones before stay: no page is at hand."""
    target = directory.with_name(f"copy-{number}")
    start = time.perf_counter()
    target.mkdir()
    for file in directory.iterdir():
        shutil.copyfile(file, target / file.name)
        with open(target / file.name, "rb") as f:
            os.fsync(f.fileno())
    return time.perf_counter() - start


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-1.5B"])
    parser.add_argument("--folders", nargs="+", default=["runs/weight_sync", "/dev/shm/weight_sync"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ranks", nargs="+", type=int, default=[0, 32], help="ranks of adapters; 0: the whole model")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
