"""Measures the seconds of one RL step by phase, beside the time that its matrix products need on this machine.

    python benchmarks/rl_step.py [MODEL_DIR] [--prompts 16] [--samples 32] [--prompt_tokens 10] [--new_tokens 24]
                                 [--micro 64] [--devices 2] [--steps 10] [--old sampler|trainer]

One step samples prompts x samples responses of exactly new_tokens, collates them, and makes one RLOO update with the KL
in the reward, in float32. MODEL_DIR is a Hugging Face directory; the default is a random Qwen3 of 0.8M parameters.
Prints one JSON line: medians in seconds, new tokens/s, the FLOPs of the matrix products, and `floor_s`, the time of
these FLOPs at the rate of a large matrix product on this machine.
"""

import argparse
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
from flax import nnx

from srt_jax.miniature import task
from srt_jax.model import sharding, weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.decoder import Decoder
from srt_jax.rl.collate import Layout, TrainingSamples, collate
from srt_jax.rl.optimizer import init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds


def main():
    args = parse()
    jax.config.update("jax_num_cpu_devices", args.devices)
    mesh = sharding.make_mesh()
    directory = args.model or random_model(pathlib.Path(tempfile.mkdtemp()) / "model")

    def load():
        return weights.load(directory, mesh=mesh)

    graphdef, params, config = load()
    reference = load()[1]
    schedule = learning_rate_schedule(1e-6)
    optimizer = make_optimizer(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0)
    state = init_state(params, optimizer, mesh)
    layout = Layout(args.prompts, args.samples, args.micro, (args.prompt_tokens + args.new_tokens,))
    knobs = UpdateConfig(layout, kl_coef=1e-3, old_logprobs=args.old)
    update = make_update(graphdef, optimizer, knobs, mesh, state)
    # There is no stop token, so every response has exactly new_tokens, as in the scripts for other systems.
    sampler = JaxSampler(graphdef, mesh, [-1], [args.prompt_tokens], args.prompts)
    rng = np.random.default_rng(0)
    seconds = {"sample": [], "collate": [], "update": [], "step": []}
    for step in range(args.steps + 2):
        prompts = rng.integers(3, config.vocab_size, (args.prompts, args.prompt_tokens)).tolist()
        times = [time.perf_counter()]
        sampler.load(state.params, step)
        seeds = problem_seeds(0, "train", step, [str(i) for i in range(args.prompts)])
        rollouts = sampler.generate(prompts, args.samples, Sampling(args.new_tokens), seeds)
        times.append(time.perf_counter())
        rewards = (rollouts.tokens.sum(-1) % 2).astype(np.float32)
        batch = collate(TrainingSamples(rollouts, rewards, np.ones(args.prompts, bool)), layout, mesh)
        times.append(time.perf_counter())
        state, _ = update(state, reference, batch)
        jax.block_until_ready(state)
        times.append(time.perf_counter())
        if step >= 2:  # the first steps compile
            for name, value in zip(seconds, [*np.diff(times), times[-1] - times[0]]):
                seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    flops = step_flops(config, args)
    rate = matmul_rate()
    print(
        json.dumps(
            {
                "benchmark": "rl_step",
                "jax": jax.__version__,
                "devices": args.devices,
                "micro": args.micro,
                "old": args.old,
                "sequences": args.prompts * args.samples,
                **{f"{k}_s": round(v, 4) for k, v in median.items()},
                "step_min_s": round(min(seconds["step"]), 4),
                "step_max_s": round(max(seconds["step"]), 4),
                "new_tokens_per_s": round(args.prompts * args.samples * args.new_tokens / median["sample"]),
                "gflop": {k: round(v / 1e9, 1) for k, v in flops.items()},
                "machine_gflop_per_s": round(rate / 1e9),
                "floor_s": round(sum(flops.values()) / rate, 4),
            }
        )
    )


def step_flops(config: ModelConfig, args) -> dict[str, float]:
    """FLOPs of the matrix products with weights. The samples of a prompt share its prefill."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = config.hidden_size * (2 * heads + 2 * kv + 3 * config.intermediate_size)
    per_token = 2 * (config.num_layers * layer + config.vocab_size * config.hidden_size)
    sequences = args.prompts * args.samples
    trained = sequences * (args.prompt_tokens + args.new_tokens)
    return {
        "sample": per_token * (args.prompts * args.prompt_tokens + sequences * (args.new_tokens - 1)),
        "old": per_token * trained * (args.old == "trainer"),
        "reference": per_token * trained,
        "gradient": 3 * per_token * trained,
    }


def matmul_rate() -> float:
    """FLOP/s of a 2048 x 2048 x 2048 float32 matrix product."""
    x = jnp.ones((2048, 2048))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def random_model(directory: pathlib.Path) -> pathlib.Path:
    """A 0.8M-parameter Qwen3 with random weights."""
    config = task.HF_CONFIG | {"hidden_size": 128, "intermediate_size": 384}
    _, params = nnx.split(Decoder(ModelConfig.from_hf(config), nnx.Rngs(0)))
    weights.save(directory, params, config, jnp.float32)
    return directory


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    numbers = dict(prompts=16, samples=32, prompt_tokens=10, new_tokens=24, micro=64, devices=2, steps=10)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--old", choices=("sampler", "trainer"), default="sampler")
    return parser.parse_args()


if __name__ == "__main__":
    main()
