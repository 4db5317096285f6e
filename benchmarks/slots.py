"""Compares decoding steps of continuous batching (slots) and static batching at equal cache memory.

    python benchmarks/slots.py [--prompts 64] [--samples 8] [--slots 64] [--mean_tokens 64] [--max_tokens 384]
                               [--devices 1] [--repeats 3]

The model is random, with two layers. Its stop tokens have probability 1 / mean_tokens, so lengths are exponential, with
a long tail like the responses of reasoning models. Both decode `slots` sequences at a time. Numbers of steps are the
same on every machine. Seconds are medians of the repeats. Prints one JSON line.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np

from srt_jax.model import sharding
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import create
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds

PROMPT_TOKENS = 16
STOPS = 8
MODEL = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
}


def main():
    args = parse()
    jax.config.update("jax_num_cpu_devices", args.devices)
    mesh = sharding.make_mesh()
    config = ModelConfig.from_hf(MODEL | {"vocab_size": STOPS * args.mean_tokens})
    graphdef, params = create(config, 0, mesh)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, config.vocab_size, (args.prompts, PROMPT_TOKENS)).tolist()
    batch = {"prompts_per_call": args.slots // args.samples, "num_slots": 0}
    refill = {"prompts_per_call": args.prompts, "num_slots": args.slots}
    found = {}
    for name, how in (("batch", batch), ("slots", refill)):
        sampler = JaxSampler(graphdef, mesh, range(STOPS), [PROMPT_TOKENS], **how)
        sampler.load(params, 0)
        seeds = problem_seeds(0, "train", 1, [str(i) for i in range(args.prompts)])
        seconds = []
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            rollouts = sampler.generate(prompts, args.samples, Sampling(args.max_tokens), seeds)
            seconds.append(time.perf_counter() - start)
        found[name] = (rollouts, sampler.decode_steps, statistics.median(seconds[1:]))  # the first one compiles
    lengths = found["slots"][0].lengths
    print(
        json.dumps(
            {
                "benchmark": "slots",
                "jax": jax.__version__,
                "devices": args.devices,
                "sequences": lengths.size,
                "at_a_time": args.slots,
                "tokens_mean": round(float(lengths.mean()), 1),
                "tokens_median": float(np.median(lengths)),
                "tokens_max": int(lengths.max()),
                "equal_samples": float((found["batch"][0].tokens == found["slots"][0].tokens).all(-1).mean()),
                "steps_least": int(-(-lengths.sum() // args.slots)),
                **{
                    f"{what}_{name}": value
                    for name, (_, steps, seconds) in found.items()
                    for what, value in (("steps", steps), ("seconds", round(seconds, 3)))
                },
            }
        )
    )


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = dict(prompts=64, samples=8, slots=64, mean_tokens=64, max_tokens=384, devices=1, repeats=3)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
