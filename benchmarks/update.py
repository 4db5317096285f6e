"""Seconds of one update, its FLOP/s, MFU, memory and padding, for a model, a batch and a length.

    python benchmarks/update.py --model=DIR|NAME --batch=512 --length=34 [--micro 64] [--old trainer|sampler]
        [--shortest L] [--buckets 1024,2048,4096] [--packing] [--samples 16] [--dtype float32] [--remat none]
        [--attention auto] [--fsdp 1] [--tensor 1] [--devices 0] [--reference_dtype D] [--moments D] [--repeats 5]
        [--no_reference]

--model is a Hugging Face directory, or the name of a shape in srt_jax/model/hf (random weights). One update scores the
rollouts with the policy (--old trainer) and with a reference, takes the gradient and makes an AdamW step: RLOO with
the KL in the reward, as in the paper. Rows are random tokens, each of `length`, or of lengths spread evenly from
--shortest to it. --devices splits a CPU into so many simulated devices. Prints one JSON line: medians over --repeats;
FLOPs are those of docs/architecture.md, of real tokens only; MFU is null on a CPU.
"""
import argparse
import json
import pathlib
import resource
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from srt_jax import runtime
from srt_jax.model import attention, decoder, flops, sharding, weights
from srt_jax.model.config import ModelConfig, read_hf_config
from srt_jax.rl.collate import Layout, abstract_batch, collate
from srt_jax.rl.optimizer import init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from srt_jax.rollout.sampler import Rollouts


def main():
    args = parse()
    runtime.start(args.devices, args.dtype)
    mesh = sharding.make_mesh(-1, args.fsdp, args.tensor)
    model, graphdef, params, reference = load(args, mesh)
    optimizer = make_optimizer(learning_rate_schedule(1e-6), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01,
                               grad_clip=1.0, moments_dtype=args.moments)
    state = init_state(params, optimizer, mesh)
    layout = Layout(args.batch // args.samples, args.samples, args.micro, args.buckets, packing=args.packing)
    knobs = UpdateConfig(layout, kl_coef=0.0 if args.no_reference else 1e-3, old_logprobs=args.old)
    start = time.perf_counter()
    update = make_update(graphdef, optimizer, knobs, mesh, state).lower(
        state, reference, abstract_batch(layout, mesh)).compile()
    compile_s = time.perf_counter() - start
    rollouts = random_rollouts(args, model.vocab_size)
    rewards = (rollouts.tokens.sum(-1) % 2).astype(np.float32)
    batch = collate(rollouts, rewards, np.ones(len(rewards), bool), layout, mesh)
    seconds = []
    for _ in range(args.repeats + 2):
        start = time.perf_counter()
        state, metrics = update(state, reference, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[2:])  # the first ones warm caches
    median = statistics.median(seconds)
    lengths = (np.array([len(prompt) for prompt in rollouts.prompts])[:, None] + rollouts.lengths).reshape(-1)
    passes = flops.update(model, lengths, knobs.scores_policy, knobs.scores_reference)
    mfu = flops.mfu(sum(passes.values()), median, mesh.devices.flat)
    memory = update.memory_analysis()
    print(json.dumps({
        "benchmark": "update", "model": args.model, "parameters": model.num_params, "jax": jax.__version__,
        "device": jax.devices()[0].device_kind, "mesh": dict(mesh.shape), "dtype": args.dtype, "remat": args.remat,
        "attention": args.attention, "batch": args.batch, "length": args.length, "micro": args.micro,
        "buckets": args.buckets, "packing": args.packing, "old": args.old,
        "seconds": round(median, 4), "seconds_min": round(seconds[0], 4),
        "seconds_max": round(seconds[-1], 4), "tokens_per_s": round(lengths.sum() / median),
        "tflop": {name: round(value / 1e12, 4) for name, value in passes.items()},
        "tflop_per_s": round(sum(passes.values()) / median / 1e12, 4), "mfu": mfu and round(mfu, 4),
        "peak_bytes": peak_bytes(), "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes, "padding": round(float(metrics["padding"]), 4),
        "compile_s": round(compile_s, 1), "finite": bool(metrics["finite"])}))


def load(args, mesh):
    """(model config, graph definition, parameters, reference parameters or None)."""
    shape = pathlib.Path(decoder.__file__).parent / "hf" / f"{args.model}.json"
    config = ModelConfig.from_hf(json.loads(shape.read_text()) if shape.exists() else read_hf_config(args.model))
    kernel = attention.choose(args.attention, jax.devices()[0].platform, args.dtype, config.head_dim)

    def weights_of(seed):
        if shape.exists():
            return *decoder.create(config, seed, mesh, args.dtype, args.remat, kernel), config
        return weights.load(args.model, args.dtype, args.remat, kernel, mesh)

    graphdef, params, model = weights_of(0)
    reference = None
    if not args.no_reference:
        reference = jax.tree.map(lambda x: x.astype(args.reference_dtype), weights_of(1)[1])
    args.attention = kernel
    return model, graphdef, params, reference


def random_rollouts(args, vocabulary: int) -> Rollouts:
    """A quarter of the shortest row is its prompt."""
    rng = np.random.default_rng(0)
    prompts, prompt_tokens = args.batch // args.samples, max(1, args.shortest // 4)
    lengths = np.linspace(args.shortest, args.length, args.batch).round().astype(np.int32) - prompt_tokens
    lengths = rng.permutation(lengths).reshape(prompts, args.samples)
    tokens = rng.integers(3, vocabulary, (*lengths.shape, args.length - prompt_tokens), dtype=np.int32)
    logprobs = np.full(tokens.shape, -np.log(vocabulary), np.float32)
    return Rollouts(rng.integers(3, vocabulary, (prompts, prompt_tokens)).tolist(), tokens, lengths, logprobs,
                    np.ones(lengths.shape, bool), 0)


def peak_bytes() -> int:
    """The largest of all devices, or of the process where devices do not tell (CPUs)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    numbers = dict(batch=512, length=34, micro=64, samples=16, shortest=0, fsdp=1, tensor=1, devices=0, repeats=5)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--buckets", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--old", choices=("sampler", "trainer"), default="trainer")
    parser.add_argument("--attention", choices=("auto", "xla", "cudnn", "splash"), default="auto")
    parser.add_argument("--remat", choices=("none", "dots", "attention", "full"), default="none")
    for name in ("dtype", "reference_dtype", "moments"):
        parser.add_argument(f"--{name}", choices=("float32", "bfloat16"), default="float32")
    for name in ("no_reference", "packing"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    args.shortest = args.shortest or args.length
    args.buckets = args.buckets or (args.length,)
    return args


if __name__ == "__main__":
    main()
