"""The weights that a run exports, and the fields of a config that name such weights as the initial ones.

A run that trains the model exports Hugging Face directories. A run that trains adapters exports PEFT directories, which
need the base model, and with model.lora.merged also merged models.
"""

import pathlib

from flax import nnx
from ml_collections import ConfigDict

from srt_jax.errors import ModelError
from srt_jax.model import lora, peft, weights
from srt_jax.model.lora import LoRA
from srt_jax.run.prepare import Model

MERGED = "_merged"  # the end of the name of a merged model's folder


def export(config: ConfigDict, model: Model, params: nnx.State, directory: pathlib.Path) -> None:
    """Writes the policy's weights for other programs. model: the initial model. All processes must call this.

    A merged model is stored in float32, because bfloat16 would round most of a small update away.
    """
    settings, dtype, scale = LoRA.of(config.model.lora), config.model.dtype, None
    if settings:
        peft.write_adapter(
            directory, lora.split(params)[0], settings, model.base_id, weights.fingerprint(model.directory)
        )
        if not config.model.lora.merged:
            return
        directory, dtype, scale = directory.with_name(directory.name + MERGED), "float32", settings.scale
    weights.save(
        directory,
        params,
        model.hf_config,
        dtype,
        tokenizer_from=model.directory,
        extra=model.exported_files,
        adapter_scale=scale,
    )


def use(config: ConfigDict, weights_path: str) -> None:
    """Makes these weights the initial ones of the config: a Hugging Face directory, a hub id or a PEFT directory.

    Raises ModelError for a PEFT directory that cannot be read, or if the directory of its base does not exist.
    """
    section = config.model.lora
    if not peft.is_adapter(weights_path):
        config.model.path, section.rank, section.path, section.merged = weights_path, 0, "", False
        return
    settings, base = peft.read_settings(weights_path)
    if pathlib.Path(base).is_absolute() and not pathlib.Path(base).is_dir():
        raise ModelError(
            f"the adapter {weights_path} belongs to the base {base!r}, which does not exist here: copy the base, or "
            f"correct base_model_name_or_path in the adapter's {peft.CONFIG}."
        )
    config.model.path = base
    section.path, section.rank, section.alpha = weights_path, settings.rank, settings.alpha
    section.rslora, section.targets = settings.rslora, settings.targets
