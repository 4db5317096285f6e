"""New tokens per second of the in-process sampler.

    python benchmarks/sampler.py [MODEL_DIR] [--sequences 512] [--prompt_tokens 10] [--new_tokens 24] [--samples 1]
                                 [--devices 2] [--repeats 5]

Every response has exactly new_tokens at temperature 1, float32; `samples` of them share a prompt. Prints one JSON line.
"""
import argparse
import functools
import json
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from rl_step import random_model

from srt_jax.model import sharding, weights
from srt_jax.rollout.jax_sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds


def main():
    args = parse()
    jax.config.update("jax_num_cpu_devices", args.devices)
    directory = args.model or random_model(pathlib.Path(tempfile.mkdtemp()) / "model")
    mesh = sharding.make_mesh()
    graphdef, params, config = weights.load(
        directory, jnp.float32, sharding_of=functools.partial(sharding.parameter_sharding, mesh))
    prompts_per_call = args.sequences // args.samples
    sampler = JaxSampler(graphdef, mesh, [-1], [args.prompt_tokens], prompts_per_call)  # no stop token
    sampler.load(params, 0)
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, config.vocab_size, (prompts_per_call, args.prompt_tokens)).tolist()
    seconds = []
    for step in range(args.repeats + 1):
        seeds = problem_seeds(0, "train", step, [str(i) for i in range(prompts_per_call)])
        start = time.perf_counter()
        rollouts = sampler.generate(prompts, args.samples, Sampling(args.new_tokens), seeds)
        seconds.append(time.perf_counter() - start)
    assert (rollouts.lengths == args.new_tokens).all()
    median = statistics.median(seconds[1:])  # the first one compiles
    print(json.dumps({
        "benchmark": "sampler", "engine": "jax", "jax": jax.__version__, "devices": args.devices,
        "sequences": args.sequences, "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens,
        "samples": args.samples, "seconds": round(median, 4),
        "seconds_min_max": [round(min(seconds[1:]), 4), round(max(seconds[1:]), 4)],
        "new_tokens_per_s": round(args.sequences * args.new_tokens / median)}))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    numbers = dict(sequences=512, prompt_tokens=10, new_tokens=24, samples=1, devices=2, repeats=5)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
