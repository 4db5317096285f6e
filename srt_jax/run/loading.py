"""From a checked model to weights on the mesh and a sampler, for training, evaluation and labelling."""

import pathlib

from jax.sharding import Mesh
from ml_collections import ConfigDict

from srt_jax.model import attention, lora, peft, sharding, weights
from srt_jax.model.lora import LoRA
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampler
from srt_jax.run import budget
from srt_jax.run.prepare import Model


def open_mesh(config: ConfigDict) -> Mesh:
    """The mesh of config.mesh over all devices."""
    return sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


def load_weights(config: ConfigDict, model: Model, mesh: Mesh):
    """(graphdef, parameters of the policy on the mesh).

    They are float32. With model.lora only the adapters are; the base is stored in model.dtype.
    """
    kernel = attention.choose(
        config.model.attention, mesh.devices.flat[0].platform, config.model.dtype, model.config.head_dim
    )
    settings = LoRA.of(config.model.lora)
    graphdef, params, _ = weights.load(
        model.directory, config.model.dtype, config.model.remat, kernel, mesh, frozen=settings is not None
    )
    if settings is None:
        return graphdef, params
    graphdef, shapes = lora.attach(graphdef, params, settings)
    if model.adapter is None:
        adapters = lora.init_adapters(shapes, config.seed, mesh)
    else:
        adapters = peft.place(model.adapter, shapes, mesh)
    return graphdef, lora.join(adapters, params)


def sampler_patience(config: ConfigDict) -> float:
    """Seconds in which a sampler may report no progress: until a hung vLLM server is found and has started again."""
    if config.rollout.sampler == "jax":
        return 0.0
    from srt_jax.rollout.vllm.client import BASE_SECONDS

    v = config.rollout.vllm
    return BASE_SECONDS + v.seconds_per_token * config.batch.max_response_tokens + v.start_seconds


def open_sampler(
    config: ConfigDict, model: Model, graphdef, mesh: Mesh, directory: pathlib.Path, training: bool = False
) -> Sampler:
    """The sampler that rollout.sampler names, still without weights; its logs and exports go to `directory`.

    training: the optimizer and the reference model share the devices with it. Raises ConfigError if the config rules
    out that it can sample.
    """
    if config.rollout.sampler == "vllm":
        from srt_jax.rollout.vllm.sampler import VLLMSampler  # only here: its HTTP client takes long to import

        return VLLMSampler(config, model, graphdef, mesh, directory)
    r = config.rollout
    return JaxSampler(
        graphdef,
        mesh,
        model.stop_ids,
        r.prompt_buckets,
        r.prompts_per_call,
        r.slots,
        budget.sampler_memory(config, model.config, training),
    )
