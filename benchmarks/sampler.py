"""Measures new tokens per second of the in-process sampler, a vLLM server and transformers' generate.

    python benchmarks/sampler.py [MODEL] [--engines jax vllm hf] [--sequences 512] [--prompt_tokens 10]
                                 [--new_tokens 24] [--samples 1] [--slots 0] [--dtype float32] [--devices 2]
                                 [--repeats 5]

All engines get the same model and shapes. MODEL is a Hugging Face directory; for jax it can also be the name of a shape
in srt_jax/model/hf (random weights). Every response has exactly new_tokens at temperature 1, and `samples`
responses share a prompt. `slots` is rollout.slots of jax (0: static batching). `devices` is the number of simulated
devices of jax and of threads of the others. vllm needs .venv-vllm, hf needs the test requirements. The time of vllm
includes HTTP but not its start. Prints one JSON line per engine with medians, without the first call. `mbu` is the
memory bandwidth utilisation by the bytes of model/flops.py, null on a CPU.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
from common import choose_kernel, load_model, peak_bytes, seconds_of
from rl_step import random_model

from srt_jax import runtime
from srt_jax.miniature import task
from srt_jax.model import flops, sharding
from srt_jax.model.config import model_shape
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds

# An engine is a context manager that yields (name and version, generate(prompts, seeds) -> number of new tokens).


@contextlib.contextmanager
def in_process(model, args):
    """The sampler of rollout.sampler = 'jax'."""
    mesh = sharding.make_mesh()
    kernel = choose_kernel("auto", args.dtype, model_shape(model))
    yield f"jax {jax.__version__}", jax_engine(*load_model(model, mesh, args.dtype, kernel=kernel), mesh, args)


def jax_engine(graphdef, params, mesh, args):
    """Compiles the in-process sampler and returns its generate(prompts, seeds)."""
    count, sampling = args.sequences // args.samples, Sampling(args.new_tokens)
    sampler = JaxSampler(graphdef, mesh, [-1], [args.prompt_tokens], count, args.slots)  # no stop token
    sampler.load(params, 0)
    sampler.compile([[0] * args.prompt_tokens] * count, args.samples, sampling)
    return lambda prompts, seeds: sampler.generate(prompts, args.samples, sampling, seeds).lengths.sum()


@contextlib.contextmanager
def vllm(directory, args):
    """A server of .venv-vllm that gets HTTP requests as in a run."""
    from srt_jax.rollout.vllm import client as vllm_client
    from srt_jax.rollout.vllm.command import Settings
    from srt_jax.rollout.vllm.server import Server

    python = pathlib.Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    length = args.prompt_tokens + args.new_tokens
    settings = Settings(str(python), args.dtype, length, args.sequences, 2.0, args.devices)
    with tempfile.TemporaryDirectory() as logs:
        server = Server("server", settings, pathlib.Path(logs) / "log", start_seconds=600, max_restarts=0)

        def fail(server, reason):
            raise RuntimeError(f"{server.name} failed: {reason}")

        def generate(prompts, seeds):
            requests = [
                vllm_client.completion(prompt, args.samples, Sampling(args.new_tokens), seed, ())
                for prompt, seed in zip(prompts, seeds)
            ]
            answers = vllm_client.sample(
                [server],
                requests,
                args.samples,
                version=vllm_client.Version("policy", vllm_client.version(server.url)),
                seconds=600,
                concurrency=len(requests),
                recover=fail,
                waits=lambda: None,
            )
            return sum(len(tokens) for answer in answers for tokens in answer.tokens)

        try:
            server.start(directory)
            server.wait()
            yield f"vllm {vllm_client.call(server.url, 'GET', '/version')['version']}", generate
        finally:
            server.stop()


@contextlib.contextmanager
def hf(directory, args):
    """transformers' generate, all sequences in one batch."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(args.devices)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, args.dtype)).eval()

    def generate(prompts, seeds):
        torch.manual_seed(int(seeds[0]))
        ids = torch.tensor(prompts)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=args.new_tokens,
            max_new_tokens=args.new_tokens,
            num_return_sequences=args.samples,
            pad_token_id=0,
        )
        return out[:, ids.shape[1] :].numel()

    yield f"transformers {importlib.metadata.version('transformers')}", generate


ENGINES = {"jax": in_process, "vllm": vllm, "hf": hf}


def main():
    args = parse()
    runtime.start(args.devices, args.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or random_model(pathlib.Path(scratch) / "model")
        if not args.model:
            task.tokenizer().save_pretrained(model)  # vLLM does not start without one
        for name in args.engines:
            with ENGINES[name](model, args) as (version, generate):
                print(json.dumps(measure(name, version, generate, model, args)), flush=True)


def measure(name: str, version: str, generate, model: str, args, warmup: int = 1) -> dict:
    """Times `repeats` calls on equal prompts after `warmup` calls. Returns the figures of the JSON line."""
    config, count = model_shape(model), args.sequences // args.samples
    prompts = np.random.default_rng(0).integers(3, config.vocab_size, (count, args.prompt_tokens)).tolist()
    steps = itertools.count()

    def call():
        seeds = problem_seeds(0, "train", next(steps), [str(i) for i in range(count)])
        assert generate(prompts, seeds) == args.sequences * args.new_tokens

    seconds = seconds_of(call, args.repeats, warmup)
    median = statistics.median(seconds)
    result = {
        "benchmark": "sampler",
        "engine": name,
        "version": version,
        "devices": args.devices,
        "model": str(args.model or "random"),
        "dtype": args.dtype,
        "sequences": args.sequences,
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "samples": args.samples,
        "seconds": round(median, 4),
        "seconds_min_max": [round(seconds[0], 4), round(seconds[-1], 4)],
        "new_tokens_per_s": round(args.sequences * args.new_tokens / median),
    }
    return result | (bandwidth(config, median, args) if name == "jax" else {})


def bandwidth(config, seconds: float, args) -> dict:
    """Bytes that decoding must read, the share of the memory bandwidth that this is, and the peak memory."""
    count = args.sequences // args.samples
    turns = -(-args.sequences // args.slots) if args.slots else 1
    # Continuous batching draws the first token in a decoding step, static batching in the prefill.
    steps = turns * (args.new_tokens - (not args.slots))
    moved = flops.decoding_bytes(
        config,
        [args.prompt_tokens] * count,
        [[args.new_tokens] * args.samples] * count,
        steps,
        shared=not args.slots,
        itemsize=jax.numpy.dtype(args.dtype).itemsize,
    )
    mbu = flops.mbu(moved, seconds, jax.devices())
    return {
        "slots": args.slots,
        "decoding_gb": round(moved / 1e9, 3),
        "mbu": mbu and round(mbu, 4),
        "peak_bytes": peak_bytes(),
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["jax"])
    numbers = dict(sequences=512, prompt_tokens=10, new_tokens=24, samples=1, slots=0, devices=2, repeats=5)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
