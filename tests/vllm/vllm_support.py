"""Servers for tests, and samplers that attach to them."""

import contextlib
import sys

import jax
import numpy as np

from srt_jax.model import weights
from srt_jax.rollout.vllm import server as vllm_server
from srt_jax.rollout.vllm.command import Settings
from srt_jax.rollout.vllm.sampler import VLLMSampler
from srt_jax.run.loading import load_weights, open_mesh
from srt_jax.run.prepare import read_model
from tests.helpers import REPOSITORY, small_config
from tests.several_processes import start

PYTHON = REPOSITORY / ".venv-vllm" / "bin" / "python"
MAX_MODEL_LEN = 28  # of small_config
START_SECONDS = 300.0


@contextlib.contextmanager
def started(log_folder, models: dict, **settings):
    """{name: Server} that all started at once, each on its model directory."""
    fields = dict(dtype="float32", max_model_len=MAX_MODEL_LEN, memory_fraction=1, threads=1) | settings
    servers = {
        name: vllm_server.Server(
            name,
            Settings(str(PYTHON), **fields),
            log_folder / f"{name}.log",
            start_seconds=START_SECONDS,
            max_restarts=0,
        )
        for name in models
    }
    try:
        for name, server in servers.items():
            server.start(models[name])
        for server in servers.values():
            server.wait()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def vllm_config(model, out, name, servers=(), steps=3):
    """The small experiment with rollouts from these servers."""
    config = small_config(model, out, name, steps)
    config.rollout.sampler, config.rollout.servers = "vllm", tuple(servers)
    config.rollout.max_logprob_gap = 1e-4
    return config


CONFIG_OF_RUN = """
import pathlib
import sys

sys.path.append("tests/vllm")
from vllm_support import vllm_config


def get_config():
    config = vllm_config(pathlib.Path({model!r}), pathlib.Path({out!r}), "run", [{url!r}], steps=2)
    config.mesh.fsdp, config.mesh.tensor = 4, 2  # fsdp reaches over both processes
    config.checkpoint.every, config.rollout.vllm.keep, config.rollout.vllm.max_restarts = 1, 10, 0
    return config
"""


def config_of_run(model, out, url):
    """The config file of a run of two steps with rollouts from the server."""
    config = out / "config.py"
    config.write_text(CONFIG_OF_RUN.format(model=str(model), out=str(out), url=url))
    return config


def begin(model, out, url, processes, *arguments):
    """Starts such a run in so many processes, with further arguments."""
    config, devices = config_of_run(model, out, url), f"--config.mesh.cpu_devices={8 // processes}"
    return start(processes, [sys.executable, "-m", "srt_jax.main", f"--config={config}", devices, *arguments])


def open_vllm_sampler(config):
    """(sampler, graphdef, parameters, mesh) of a config; nothing is loaded yet."""
    model, mesh = read_model(config), open_mesh(config)
    graphdef, params = load_weights(config, model, mesh)
    directory = config.out + "/" + config.name
    return VLLMSampler(config, model, graphdef, mesh, directory), graphdef, params, mesh


def changed(params, seed, scale=0.1):
    """Other weights: every tensor moves by about a tenth."""
    rng = np.random.default_rng(seed)

    def move(path, x):
        noise = scale * np.std(np.asarray(x)) * rng.standard_normal(x.shape) + scale / 10
        return jax.device_put(np.asarray(x) + noise.astype(np.float32), x.sharding)

    return weights.map_with_path(move, params)
