"""Measures one update: seconds, FLOP/s, MFU, memory and padding, for a model, a batch and a length.

    python benchmarks/update.py --model=DIR|NAME --batch=512 --length=34 [--micro 64] [--old trainer|sampler]
        [--shortest L] [--buckets 1024,2048,4096] [--packing] [--samples 16] [--dtype float32] [--remat none]
        [--attention auto] [--fsdp 1] [--tensor 1] [--devices 0] [--reference_dtype D] [--moments D] [--repeats 5]
        [--no_reference] [--lora_rank 0]

--model is a Hugging Face directory, or the name of a shape in srt_jax/model/hf (random weights). One update scores the
rollouts with the policy (--old trainer) and with a reference, computes the gradient and makes an AdamW step, for RLOO
with the KL in the reward as in the paper. With --lora_rank it trains adapters of all linear layers; the frozen model in
--dtype is the reference. Rows are random tokens. Each has --length tokens, or lengths are spread
evenly from --shortest to --length. --devices is the number of simulated devices of a CPU. Prints one JSON line with
medians over --repeats. FLOPs are those of srt_jax/model/flops.py, for real tokens only. MFU is null on a CPU.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
from common import choose_kernel, load_model, peak_bytes, seconds_of

from srt_jax import runtime
from srt_jax.model import flops, lora, sharding, weights
from srt_jax.model.config import model_shape
from srt_jax.model.lora import LoRA
from srt_jax.rl.collate import Layout, TrainingSamples, abstract_batch, collate
from srt_jax.rl.optimizer import init_state, learning_rate_schedule, make_optimizer
from srt_jax.rl.update import UpdateConfig, make_update
from srt_jax.rollout.sampler import Rollouts


@dataclasses.dataclass(frozen=True)
class Case:
    """The options of the command, by name."""

    model: str
    batch: int = 512
    length: int = 34
    micro: int = 64
    samples: int = 16
    shortest: int = 0  # 0: length
    buckets: tuple[int, ...] = ()  # (): length
    packing: bool = False
    old: str = "trainer"
    attention: str = "auto"
    remat: str = "none"
    dtype: str = "float32"
    reference_dtype: str = "float32"
    moments: str = "float32"
    no_reference: bool = False
    lora_rank: int = 0  # 0: full fine-tuning

    @property
    def layout(self) -> Layout:
        """The layout of the batch in micro-batches."""
        return Layout(
            self.batch // self.samples, self.samples, self.micro, self.buckets or (self.length,), packing=self.packing
        )


class Update:
    """A compiled update, its state and one batch, on a mesh."""

    def __init__(self, case: Case, mesh):
        self.case, self.mesh, self.config, self.reference = case, mesh, model_shape(case.model), None
        self.kernel = choose_kernel(case.attention, case.dtype, self.config)
        self._optimizer = make_optimizer(
            learning_rate_schedule(1e-6),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=0.01,
            grad_clip=1.0,
            moments_dtype=case.moments,
        )
        graphdef = self.restart()
        if not case.lora_rank and not case.no_reference:
            self.reference = jax.tree.map(lambda x: x.astype(case.reference_dtype), self._weights(1)[1])
        knobs = UpdateConfig(case.layout, kl_coef=0.0 if case.no_reference else 1e-3, old_logprobs=case.old)
        start = time.perf_counter()
        self.program = (
            make_update(graphdef, self._optimizer, knobs, mesh, self.state)
            .lower(self.state, self.reference, abstract_batch(case.layout, mesh))
            .compile()
        )
        self.compile_s = time.perf_counter() - start
        rollouts = random_rollouts(case, self.config.vocab_size)
        rewards = (rollouts.tokens.sum(-1) % 2).astype(np.float32)
        self.batch = collate(TrainingSamples(rollouts, rewards, np.ones(len(rewards), bool)), case.layout, mesh)
        self.lengths = (np.array([len(prompt) for prompt in rollouts.prompts])[:, None] + rollouts.lengths).reshape(-1)
        adapters = lora.num_params(LoRA(case.lora_rank, 1.0), self.config) if case.lora_rank else 0
        self.passes = flops.update(
            self.config, self.lengths, knobs.scores_policy, knobs.scores_reference, adapters=adapters
        )

    def restart(self):
        """Resets weights and optimizer to those of the first step. Returns the graph definition."""
        self.state = None  # frees its memory first, because two states of the largest models do not fit
        graphdef, params = self._weights(0)
        if self.case.lora_rank:
            graphdef, params, self.reference = with_adapters(graphdef, params, self.case, self.mesh)
        self.state = init_state(params, self._optimizer, self.mesh)
        return graphdef

    def step(self):
        """Makes one update and waits for it."""
        self.state, self.metrics = self.program(self.state, self.reference, self.batch)
        jax.block_until_ready(self.state)

    def _weights(self, seed: int):
        return load_model(self.case.model, self.mesh, self.case.dtype, self.case.remat, self.kernel, seed)

    def report(self, seconds: list[float]) -> dict:
        """The figures of the JSON line; seconds: sorted, one per step."""
        case, median, total = self.case, statistics.median(seconds), sum(self.passes.values())
        mfu, memory = flops.mfu(total, median, self.mesh.devices.flat), self.program.memory_analysis()
        return {
            "model": case.model,
            "parameters": self.config.num_params,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "mesh": dict(self.mesh.shape),
            "dtype": case.dtype,
            "remat": case.remat,
            "attention": self.kernel,
            "batch": case.batch,
            "length": case.length,
            "micro": case.micro,
            "buckets": case.layout.length_buckets,
            "packing": case.packing,
            "old": case.old,
            "lora_rank": case.lora_rank,
            "seconds": round(median, 4),
            "seconds_min": round(seconds[0], 4),
            "seconds_max": round(seconds[-1], 4),
            "tokens_per_s": round(self.lengths.sum() / median),
            "tflop": {name: round(value / 1e12, 4) for name, value in self.passes.items()},
            "tflop_per_s": round(total / median / 1e12, 4),
            "mfu": mfu and round(mfu, 4),
            "peak_bytes": peak_bytes(),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "padding": round(float(self.metrics["padding"]), 4),
            "compile_s": round(self.compile_s, 1),
            "finite": bool(self.metrics["finite"]),
        }


def with_adapters(graphdef, params, case: Case, mesh):
    """(graph definition with adapters, the adapters, the frozen model), as a run stores them."""
    graphdef, shapes = lora.attach(graphdef, params, LoRA(case.lora_rank, 2.0 * case.lora_rank))
    frozen = weights.map_with_path(lambda path, x: x.astype(weights.frozen_dtype(path, case.dtype)), params)
    return graphdef, lora.init_adapters(shapes, 0, mesh), frozen


def main():
    args = parse()
    runtime.start(args.devices, args.dtype)
    case = Case(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Case)})
    update = Update(case, sharding.make_mesh(-1, args.fsdp, args.tensor))
    print(json.dumps({"benchmark": "update", **update.report(seconds_of(update.step, args.repeats, warmup=2))}))


def random_rollouts(case: Case, vocabulary: int) -> Rollouts:
    """Random prompts and responses. A prompt has a quarter of the tokens of the shortest row."""
    rng = np.random.default_rng(0)
    shortest = case.shortest or case.length
    prompts, prompt_tokens = case.batch // case.samples, max(1, shortest // 4)
    lengths = np.linspace(shortest, case.length, case.batch).round().astype(np.int32) - prompt_tokens
    lengths = rng.permutation(lengths).reshape(prompts, case.samples)
    tokens = rng.integers(3, vocabulary, (*lengths.shape, case.length - prompt_tokens), dtype=np.int32)
    logprobs = np.full(tokens.shape, -np.log(vocabulary), np.float32)
    return Rollouts(
        rng.integers(3, vocabulary, (prompts, prompt_tokens)).tolist(),
        tokens,
        lengths,
        logprobs,
        np.ones(lengths.shape, bool),
        0,
    )


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    defaults = {field.name: field.default for field in dataclasses.fields(Case)}
    numbers = dict(fsdp=1, tensor=1, devices=0, repeats=5)
    numbers |= {name: value for name, value in defaults.items() if type(value) is int}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--buckets", type=lambda text: tuple(map(int, text.split(","))), default=())
    parser.add_argument("--old", choices=("sampler", "trainer"), default="trainer")
    parser.add_argument("--attention", choices=("auto", "xla", "cudnn", "splash"), default="auto")
    parser.add_argument("--remat", choices=("none", "dots", "attention", "full"), default="none")
    for name in ("dtype", "reference_dtype", "moments"):
        parser.add_argument(f"--{name}", choices=("float32", "bfloat16"), default="float32")
    for name in ("no_reference", "packing"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
