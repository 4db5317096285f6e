"""New tokens per second of the in-process sampler, a vLLM server and transformers' generate: same model, same shapes.

    python benchmarks/sampler.py [MODEL_DIR] [--engines jax vllm hf] [--sequences 512] [--prompt_tokens 10]
                                 [--new_tokens 24] [--samples 1] [--devices 2] [--repeats 5]

Every response has exactly new_tokens at temperature 1, float32; `samples` of them share a prompt. `devices` is the
number of simulated devices of jax, and of threads of the others. vllm needs .venv-vllm, hf the test requirements. HTTP
counts in vllm's time, starting it does not. Prints one JSON line per engine; medians, the first call left out.
"""
import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
from rl_step import random_model

from srt_jax import miniature
from srt_jax.model import sharding, weights
from srt_jax.model.config import read_hf_config
from srt_jax.rollout import vllm_client
from srt_jax.rollout.jax_sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds
from srt_jax.rollout.vllm_command import Settings
from srt_jax.rollout.vllm_server import Server

# An engine is a context that gives (its name and version, generate(prompts, seeds) -> number of new tokens).


@contextlib.contextmanager
def in_process(directory, args):
    """The sampler of rollout.sampler = 'jax'."""
    mesh = sharding.make_mesh()
    graphdef, params, _ = weights.load(directory, mesh=mesh)
    sampler = JaxSampler(graphdef, mesh, [-1], [args.prompt_tokens], args.sequences // args.samples)  # no stop token
    sampler.load(params, 0)
    yield f"jax {jax.__version__}", lambda prompts, seeds: sampler.generate(
        prompts, args.samples, Sampling(args.new_tokens), seeds).lengths.sum()


@contextlib.contextmanager
def vllm(directory, args):
    """A server of .venv-vllm, asked over HTTP as in a run."""
    python = pathlib.Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    settings = Settings(str(python), "float32", args.prompt_tokens + args.new_tokens, args.sequences, 2.0, args.devices)
    with tempfile.TemporaryDirectory() as logs:
        server = Server("server", settings, pathlib.Path(logs) / "log", start_seconds=600, max_restarts=0)

        def fail(server, reason):
            raise RuntimeError(f"{server.name} failed: {reason}")

        def generate(prompts, seeds):
            requests = [vllm_client.completion(prompt, args.samples, Sampling(args.new_tokens), seed, ())
                        for prompt, seed in zip(prompts, seeds)]
            answers = vllm_client.sample(
                [server], requests, args.samples, label=vllm_client.version(server.url), seconds=600,
                concurrency=len(requests), recover=fail, closed=threading.Event())
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
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def generate(prompts, seeds):
        torch.manual_seed(int(seeds[0]))
        ids = torch.tensor(prompts)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                             top_p=1.0, min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens,
                             num_return_sequences=args.samples, pad_token_id=0)
        return out[:, ids.shape[1]:].numel()

    yield f"transformers {importlib.metadata.version('transformers')}", generate


ENGINES = {"jax": in_process, "vllm": vllm, "hf": hf}


def main():
    args = parse()
    jax.config.update("jax_num_cpu_devices", args.devices)
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.model or random_model(pathlib.Path(scratch) / "model")
        if not args.model:
            miniature.tokenizer().save_pretrained(directory)  # vLLM does not start without one
        vocabulary = read_hf_config(directory)["vocab_size"]
        for name in args.engines:
            with ENGINES[name](directory, args) as (version, generate):
                print(json.dumps(measure(name, version, generate, vocabulary, args)), flush=True)


def measure(name: str, version: str, generate, vocabulary: int, args) -> dict:
    """Median seconds of `repeats` calls on equal prompts."""
    count = args.sequences // args.samples
    prompts = np.random.default_rng(0).integers(3, vocabulary, (count, args.prompt_tokens)).tolist()
    seconds = []
    for step in range(args.repeats + 1):
        seeds = problem_seeds(0, "train", step, [str(i) for i in range(count)])
        start = time.perf_counter()
        assert generate(prompts, seeds) == args.sequences * args.new_tokens
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])  # the first one compiles
    return {
        "benchmark": "sampler", "engine": name, "version": version, "devices": args.devices,
        "sequences": args.sequences, "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens,
        "samples": args.samples, "seconds": round(median, 4),
        "seconds_min_max": [round(min(seconds[1:]), 4), round(max(seconds[1:]), 4)],
        "new_tokens_per_s": round(args.sequences * args.new_tokens / median)}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["jax"])
    numbers = dict(sequences=512, prompt_tokens=10, new_tokens=24, samples=1, devices=2, repeats=5)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()
