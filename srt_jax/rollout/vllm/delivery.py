"""How the weights of a step reach the servers.

`WholeModel` exports the model, and every server reads it into the running engine. `AdapterOnly`, for runs with
model.lora, exports a PEFT directory, and every server loads it beside the frozen base that it started with.
"""

import pathlib
import re
import threading
from typing import Protocol

import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from srt_jax.errors import ConfigError, RolloutError
from srt_jax.files import replaced_folder, write_json
from srt_jax.log import logger
from srt_jax.model import lora, peft
from srt_jax.model.config import ModelConfig
from srt_jax.model.lora import LoRA
from srt_jax.rollout.vllm import client as vllm_client
from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.rollout.vllm.client import ServerFailedError
from srt_jax.rollout.vllm.command import adapter_ranks
from srt_jax.rollout.vllm.export import Published
from srt_jax.runtime import is_first_process, processes

WITHDRAW_SECONDS = 5.0  # a run that ends does not wait longer for a server


class InitialModel(Protocol):
    """The model that a run starts from: its directory, and the files that exports copy from it."""

    @property
    def directory(self) -> pathlib.Path: ...
    @property
    def base_id(self) -> str: ...
    @property
    def hf_config(self) -> dict: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def exported_files(self) -> dict[str, str]: ...


class Delivery(Protocol):
    """Exports weights and brings them to servers.

    dtype: of the servers. max_lora_rank: the flag for servers of this run, 0 if they need no adapters.
    """

    dtype: str
    max_lora_rank: int

    def publish(self, params: nnx.State, step: int) -> Published:
        """Exports the weights of a step. Raises ExportError."""

    def check(self, url: str) -> None:
        """Raises ConfigError, with the remedy, if a server of rollout.servers cannot take such weights."""

    def deliver(self, url: str, published: Published) -> None:
        """Makes a server sample from an export. Raises ServerFailedError or RolloutError."""

    def withdraw(self, url: str) -> None:
        """Removes this run's adapters from a server that continues to run. Raises ServerFailedError or RolloutError."""


def choose(config: ConfigDict, model: InitialModel, exports: pathlib.Path, config_hash: str) -> Delivery:
    """The delivery of a run. exports: the folder for its exports. Reports it if adapters have to be merged.

    Raises ConfigError if adapters must be merged, but rollout.vllm.dtype is bfloat16.
    """
    settings = LoRA.of(config.model.lora)
    if settings is None:
        return WholeModel(config, model, exports, config_hash)
    if config.rollout.servers:
        return AdapterOnly(config, model, exports, config_hash, settings.rank)
    served = processes.from_first(lambda: servable_rank(config))
    if served:
        return AdapterOnly(config, model, exports, config_hash, served)
    return WholeModel(config, model, exports, config_hash, settings)


def servable_rank(config: ConfigDict) -> int | None:
    """The smallest --max-lora-rank of the installed vLLM that suffices for the run; None if none does."""
    ranks = adapter_ranks(config.rollout.vllm.python)
    return next((rank for rank in ranks if rank >= config.model.lora.rank), None)


class WholeModel:
    """Servers reload the whole model. `merged`: adapters that are merged into it, because vLLM cannot serve them.

    Merged models are float32 on disk and in the servers: bfloat16 would round most of a small update away.
    """

    max_lora_rank = 0

    def __init__(
        self,
        config: ConfigDict,
        model: InitialModel,
        exports: pathlib.Path,
        config_hash: str,
        merged: LoRA | None = None,
    ) -> None:
        """Raises ConfigError if adapters are merged, but rollout.vllm.dtype is bfloat16."""
        self._model, self._exports, self._config_hash, self._merged = model, exports, config_hash, merged
        self.dtype = config.rollout.vllm.dtype or config.model.dtype
        if merged:
            reason = f"the vLLM of {config.rollout.vllm.python} cannot serve adapters of rank {merged.rank}"
            if config.rollout.vllm.dtype == "bfloat16":
                raise ConfigError(
                    f"{reason}, and merged models need float32, but rollout.vllm.dtype is 'bfloat16': set it to "
                    "'float32', or choose a smaller model.lora.rank."
                )
            self.dtype = "float32"
            if is_first_process():
                logger.warning(f"{reason}: its servers get whole models in float32 with the adapters merged")

    def publish(self, params: nnx.State, step: int) -> Published:
        model = self._model
        return vllm_export.publish(
            params,
            step,
            self._exports,
            model.hf_config,
            self.dtype,
            model.directory,
            self._config_hash,
            model.exported_files,
            self._merged.scale if self._merged else None,
        )

    def check(self, url: str) -> None:
        """Every vLLM server that passes the checks of its endpoints can reload a model."""

    def deliver(self, url: str, published: Published) -> None:
        vllm_client.update_weights(url, published.path, published.version.label, published.bytes)

    def withdraw(self, url: str) -> None:
        """The next run gives the server its own weights."""


class AdapterOnly:
    """Servers keep the base, and load the adapter of each step under a name and from a directory of its own."""

    def __init__(
        self, config: ConfigDict, model: InitialModel, exports: pathlib.Path, config_hash: str, max_lora_rank: int
    ) -> None:
        self._settings, self._model, self._exports = LoRA.of(config.model.lora), model, exports
        self._config_hash, self.max_lora_rank = config_hash, max_lora_rank
        self._one_writer = threading.Lock()
        self.dtype = config.rollout.vllm.dtype or config.model.dtype

    def publish(self, params: nnx.State, step: int) -> Published:
        return vllm_export.publish_adapter(
            lora.split(params)[0],
            step,
            self._exports,
            self._settings,
            self._model.base_id,
            self._model.directory,
            self.dtype,  # vLLM would cast float32 to it
            self._config_hash,
        )

    def check(self, url: str) -> None:
        """Makes the server load a small adapter of this rank. Samples nothing."""
        path = self._exports / f"check_rank_{self._settings.rank}"
        with self._one_writer:  # servers are checked at the same time
            if not path.exists():
                write_zeros(path, self._settings, self._model)
        rank = self._settings.rank
        remedy = f"start it by launch/vllm_server.sh with --max_lora_rank={rank}"
        try:
            vllm_client.unload_adapters(url, self._exports)
            vllm_client.load_adapter(url, f"check-rank-{rank}", path, 0)
            vllm_client.unload_adapters(url, self._exports)
            label = vllm_client.version(url)
        except (ServerFailedError, RolloutError) as e:
            if largest := re.search(r"greater than max_lora_rank (\d+)", str(e)):
                reason = f"serves adapters up to rank {largest[1]}, but model.lora.rank is {rank}"
            elif "No adapter found" in str(e):
                reason = f"does not see {path}"
                remedy = "name a folder that it sees under the same path by rollout.vllm.weights_directory"
            elif "HTTP 404" in str(e):
                reason = f"has no endpoint to load adapters, but model.lora.rank is {rank}"
            else:
                reason = f"does not load adapters of rank {rank} ({str(e).rstrip('.')})"
            raise ConfigError(f"rollout.servers: {url} {reason}: {remedy}.") from None
        if label != vllm_client.INITIAL_LABEL:
            raise ConfigError(
                f"rollout.servers: {url} has the weights {label!r} of another run, but adapters need the model of "
                "model.path: start it again."
            )

    def deliver(self, url: str, published: Published) -> None:
        """Loads the new adapter, then unloads older ones of this run, so that the server always has one."""
        vllm_client.load_adapter(url, published.version.name, published.path, published.bytes)
        vllm_client.unload_adapters(url, self._exports, keep=published.version.name)
        vllm_client.call(url, "POST", "/resume")  # a trainer that was killed may have left it paused

    def withdraw(self, url: str) -> None:
        """Unloads the adapters of this run, unless the server hangs."""
        vllm_client.unload_adapters(url, self._exports, seconds=WITHDRAW_SECONDS)


def write_zeros(path: pathlib.Path, settings: LoRA, model: InitialModel) -> None:
    """Writes an adapter that changes nothing: zeros for one matrix of the first layer."""
    target = settings.targets[0]
    inputs, outputs = lora.matrix_shapes(model.config)[target]
    shapes = {"lora_a": (settings.rank, inputs), "lora_b": (outputs, settings.rank)}
    zeros = {
        peft.tensor_name(f"layers.{lora.TARGETS[target]}.{part}", 0): np.zeros(shape, np.float32)
        for part, shape in shapes.items()
    }
    with replaced_folder(path) as folder:
        save_file(zeros, folder / peft.WEIGHTS, {"format": "pt"})
        write_json(folder / peft.CONFIG, peft.peft_config(settings, model.base_id) | {"target_modules": [target]})
