"""Adapters as PEFT directories: adapter_config.json and adapter_model.safetensors.

`peft`, transformers, vLLM and `model.lora.path` read such a directory. The config names the base model. The header of
the tensors also has a fingerprint of the base's weights, so that a renamed base is recognised.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from srt_jax.errors import ModelError
from srt_jax.files import read_json_object, shown
from srt_jax.model import lora, sharding, weights
from srt_jax.model.lora import TARGETS, LoRA
from srt_jax.model.paths import flat_paths, map_with_path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {lora.A: "lora_A", lora.B: "lora_B"}
FINGERPRINT = "base_fingerprint"
# Settings of PEFT that change the computation, with the values that mean "as here".
PLAIN = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None, []),
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter on the host. tensors: path of a parameter -> array [L, in, r] or [L, r, out], float32."""

    settings: LoRA
    base_id: str
    base_fingerprint: str  # "" if another program wrote the adapter
    tensors: dict[str, np.ndarray]


def write_adapter(
    directory: str | os.PathLike[str],
    adapters: nnx.State,
    settings: LoRA,
    base_id: str,
    base_fingerprint: str = "",
    before_naming: Callable[[pathlib.Path, dict], object] | None = None,
    dtype: DTypeLike = np.float32,
) -> int:
    """Writes a PEFT directory, under a temporary name until it is complete. Returns its bytes.

    base_id: the base model's hub id or directory. before_naming: as in `weights.save`. All processes must call this;
    the first one writes. Raises OSError if the disk is full.
    """
    flat = dict(flat_paths(adapters))
    where = {tensor_name(path, layer): (layer, path) for path, x in flat.items() for layer in range(x.shape[0])}

    def read(name: str) -> jax.Array:
        layer, path = where[name]
        with jax.transfer_guard_host_to_device("allow"):
            value = weights.stored(flat[path], layer, jnp.dtype(dtype), True)
        return weights.gathered(value)

    def complete(folder: pathlib.Path, tensors: dict) -> None:
        (folder / CONFIG).write_text(json.dumps(peft_config(settings, base_id), indent=2) + "\n")
        if before_naming:
            before_naming(folder, tensors)

    shapes = {name: flat[path].shape[:0:-1] for name, (_, path) in sorted(where.items())}
    return weights.write_folder(
        directory,
        {WEIGHTS: shapes},
        read,
        jnp.dtype(dtype),
        complete,
        {FINGERPRINT: base_fingerprint} if base_fingerprint else None,
    )


def peft_config(settings: LoRA, base_id: str) -> dict[str, Any]:
    """The content of adapter_config.json."""
    alpha = settings.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_id,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # vLLM expects an integer
        "use_rslora": settings.rslora,
        "target_modules": list(settings.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def is_adapter(directory: str | os.PathLike[str]) -> bool:
    """Tells whether a path is a PEFT directory."""
    return (pathlib.Path(directory) / CONFIG).is_file()


def read_settings(directory: str | os.PathLike[str]) -> tuple[LoRA, str]:
    """(settings, base model's id) of a PEFT directory, without its tensors.

    Raises ModelError if the directory is incomplete, or the adapter is of a kind that the decoder does not have.
    """
    path = pathlib.Path(directory) / CONFIG
    try:
        config = read_json_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path} does not exist: model.lora.path must be a PEFT adapter's directory.") from None
    except (ValueError, OSError) as e:
        raise ModelError(f"{path} is not valid JSON ({e}): copy the adapter again.") from None
    for name, values in PLAIN.items():
        if (value := config.get(name)) not in values and (name in config or name == "peft_type"):
            raise ModelError(
                f"{path} has {name}={shown(value)}: only plain LoRA adapters of linear layers can be read."
            )
    rank, alpha, base = config.get("r"), config.get("lora_alpha"), config.get("base_model_name_or_path") or ""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ModelError(f"{path} has r={shown(rank)}: it must be a whole number from 1.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not alpha > 0:
        raise ModelError(f"{path} has lora_alpha={shown(alpha)}: it must be a positive number.")
    names = config.get("target_modules")
    if not isinstance(names, list) or not names or not {str(name) for name in names} <= TARGETS.keys():
        raise ModelError(
            f"{path} has target_modules={shown(names)}: this decoder can adapt {', '.join(TARGETS)}, given as a list."
        )
    targets = tuple(name for name in TARGETS if name in names)
    return LoRA(rank, float(alpha), bool(config.get("use_rslora")), targets), str(base)


def read_adapter(directory: str | os.PathLike[str]) -> Adapter:
    """Reads a PEFT directory. Raises ModelError if it is damaged or of another kind; the message names the file."""
    directory = pathlib.Path(directory)
    settings, base_id = read_settings(directory)
    try:
        with safe_open(directory / WEIGHTS, framework="numpy") as file:
            found = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
            fingerprint = (file.metadata() or {}).get(FINGERPRINT, "")
    except FileNotFoundError:
        raise ModelError(f"{directory / WEIGHTS} does not exist: copy the adapter again.") from None
    except (SafetensorError, OSError, TypeError) as e:
        raise ModelError(f"{directory / WEIGHTS} is damaged ({e}): copy the adapter again.") from None
    if bad := [name for name, value in found.items() if not np.isfinite(value).all()]:
        raise ModelError(f"{directory / WEIGHTS}: tensor {bad[0]!r} has numbers that are not finite: copy it again.")
    tensors = {}
    for target in settings.targets:
        for part in PARTS:
            path = f"layers.{TARGETS[target]}.{part}"
            layers = []
            while (name := tensor_name(path, len(layers))) in found:
                layers.append(found.pop(name).T)
            if not layers or len({x.shape for x in layers}) > 1 or settings.rank not in layers[0].shape:
                raise ModelError(
                    f"{directory / WEIGHTS} has no tensor {name!r} of rank {settings.rank} for each layer, as its "
                    f"{CONFIG} says: copy the adapter again."
                )
            tensors[path] = np.stack(layers)
    if found:
        raise ModelError(
            f"{directory / WEIGHTS} has a tensor {min(found)!r} that a linear layer's adapter does not use."
        )
    return Adapter(settings, base_id, fingerprint, tensors)


def check_base(adapter: Adapter, directory: str, shapes: nnx.State, base_id: str, base_fingerprint: str) -> None:
    """Raises ModelError if the adapter belongs to another base. directory: of the adapter, for messages.

    shapes: those of the adapters that this base has. An adapter that another program wrote has no fingerprint. Then the
    last parts of the two names must be equal.
    """
    message = f"the adapter {directory} belongs to the base {adapter.base_id!r}, but model.path is {base_id!r}"
    for path, x in flat_paths(shapes):
        if adapter.tensors[path].shape != x.shape:
            raise ModelError(
                f"{message}, whose {path} has the shape {x.shape} and not {adapter.tensors[path].shape}: "
                "set model.path to the adapter's base."
            )
    if adapter.base_fingerprint:
        same = not base_fingerprint or adapter.base_fingerprint == base_fingerprint
    else:
        names = [os.path.basename(os.path.normpath(name)).lower() for name in (adapter.base_id, base_id) if name]
        same = len(set(names)) <= 1
    if not same:
        raise ModelError(
            f"{message}, which has other weights: set model.path to the adapter's base"
            + ("." if adapter.base_fingerprint else f", or correct base_model_name_or_path in its {CONFIG}.")
        )


def fingerprint(adapter: Adapter) -> str:
    """sha256 over the tensors."""
    digest = hashlib.sha256()
    for path, value in sorted(adapter.tensors.items()):
        digest.update(path.encode() + value.tobytes())
    return digest.hexdigest()


def place(adapter: Adapter, shapes: nnx.State, mesh: Mesh) -> nnx.State:
    """The adapters on the mesh. shapes: the second result of `lora.attach`, already compared by `check_base`."""
    return map_with_path(
        lambda path, x: sharding.place(adapter.tensors[path], sharding.parameter_sharding(mesh, path, x.shape)), shapes
    )


def tensor_name(path: str, layer: int) -> str:
    """PEFT's name of one layer's matrix: `layers.q.lora_a`, 0 -> `...model.layers.0.self_attn.q_proj.lora_A.weight`."""
    linear, _, part = path.rpartition(".")
    name = next(name for name, ours, _ in weights.TABLE if ours == f"{linear}.kernel")
    return PREFIX + name.format(layer).removesuffix("weight") + f"{PARTS[part]}.weight"
