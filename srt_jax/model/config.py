"""The shape of a decoder, read from a Hugging Face `config.json`."""

import dataclasses
import difflib
import json
import math
import pathlib
from typing import Any

import numpy as np

from srt_jax.errors import ModelError, ModelNotHereError
from srt_jax.files import read_json_object, shown

GENERATION_CONFIG = "generation_config.json"
FAMILIES = ("qwen2", "qwen3", "llama")


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Frequency-dependent rotary scaling of Llama 3.1 and later (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder of the Qwen2/2.5, Qwen3 or Llama 3 family. Letters: D, F, L, N, K, H, V of docs/architecture.md."""

    family: str
    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int  # F
    num_layers: int  # L
    num_heads: int  # N
    num_kv_heads: int  # K
    head_dim: int  # H
    rope_theta: float
    rope_scaling: Llama3Rope | None
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    max_position_embeddings: int
    initializer_range: float

    @property
    def num_params(self) -> int:
        """Number of parameters; a tied head counts once."""
        heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * heads + 2 * kv)
        attention += (heads + 2 * kv) * self.qkv_bias + self.hidden_size * self.output_bias
        attention += 2 * self.head_dim * self.qk_norm
        mlp = 3 * self.hidden_size * self.intermediate_size
        mlp += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        layer = attention + mlp + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    @classmethod
    def from_hf(cls, hf: dict) -> "ModelConfig":
        """Reads both spellings: `rope_theta`/`rope_scaling` of the hub and `rope_parameters` of transformers 5.

        Raises ModelError for a family, a rotary scaling or a feature the decoder does not have.
        """
        family = hf.get("model_type")
        if family not in FAMILIES:
            raise ModelError(f"model_type is {family!r}: this decoder is one of {', '.join(FAMILIES)}.")
        _refuse_unsupported(hf)
        theta, scaling = _rope(hf)
        attention_bias = _flag(hf, "attention_bias")
        heads, hidden = _positive(hf, "num_attention_heads"), _positive(hf, "hidden_size")
        config = cls(
            family=family,
            vocab_size=_positive(hf, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(hf, "intermediate_size"),
            num_layers=_positive(hf, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=_positive(hf, "num_key_value_heads", heads),
            head_dim=_positive(hf, "head_dim", 128 if family == "qwen3" else hidden // heads),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=_positive(hf, "rms_norm_eps", 1e-6, float),
            tie_word_embeddings=_flag(hf, "tie_word_embeddings"),
            qkv_bias=family == "qwen2" or attention_bias,
            output_bias=family != "qwen2" and attention_bias,
            mlp_bias=family == "llama" and _flag(hf, "mlp_bias"),
            qk_norm=family == "qwen3",
            max_position_embeddings=_positive(hf, "max_position_embeddings", 2048 if family == "llama" else 32768),
            initializer_range=_positive(hf, "initializer_range", 0.02, float),
        )
        if config.head_dim % 2:
            raise ModelError(f"head_dim={config.head_dim} is odd: rotary embeddings turn pairs of dimensions.")
        if config.num_heads % config.num_kv_heads:
            raise ModelError(
                f"num_attention_heads={config.num_heads} is not a multiple of "
                f"num_key_value_heads={config.num_kv_heads}."
            )
        return config


def model_shape(path: str) -> ModelConfig:
    """The shape of a local Hugging Face directory (its config.json is enough), else of a shipped hub model.

    path: a directory, a hub id of hf/index.json, or the last part of such an id. Raises ModelNotHereError if it is none
    of these, and ModelError for a config.json that the decoder cannot use.
    """
    if pathlib.Path(path).is_dir():
        return ModelConfig.from_hf(read_hf_config(path))
    if (hf := shipped_hf_config(path)) is None:
        raise ModelNotHereError(
            f"model.path is {path!r}, whose shape is not known: give a Hugging Face directory (its config.json is "
            "enough) or a model of srt_jax/model/hf."
        )
    return ModelConfig.from_hf(hf)


def similar_folder(path: str) -> str | None:
    """A local folder whose name is similar to the last part of `path`, which may be misspelled; None if none is."""
    parent = pathlib.Path(path).parent
    if not parent.is_dir():
        return None
    near = difflib.get_close_matches(pathlib.Path(path).name, [p.name for p in parent.iterdir() if p.is_dir()], 1, 0.8)
    return str(parent / near[0]) if near else None


def shipped_hf_config(hub_id: str) -> dict | None:
    """The config.json of a known hub model, which is part of the package; None for an unknown model.

    hub_id: a hub id of hf/index.json, or its last part.
    """
    folder = pathlib.Path(__file__).parent / "hf"
    name = hub_id.rsplit("/", 1)[-1]
    if hub_id not in (name, json.loads((folder / "index.json").read_text()).get(name)):
        return None
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() and name != "index" else None


def read_hf_config(directory: str | pathlib.Path) -> dict:
    """The `config.json` of a Hugging Face directory, as a dict. Raises ModelError if it is missing or damaged."""
    path = pathlib.Path(directory) / "config.json"
    try:
        return read_json_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path} does not exist: model.path must be a Hugging Face model directory.") from None
    except (ValueError, OSError) as e:
        raise ModelError(f"{path} is not valid JSON ({e}): copy the model directory again.") from None


def read_generation_config(directory: str | pathlib.Path) -> dict:
    """The `generation_config.json` of a Hugging Face directory; {} if the file is missing.

    Raises ModelError if it is not a JSON object.
    """
    path = pathlib.Path(directory) / GENERATION_CONFIG
    try:
        return read_json_object(path)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as e:
        raise ModelError(f"{path} is not valid JSON ({e}): copy it again, or remove it.") from None


def _positive(fields: dict, name: str, default: int | float | None = None, kind: Any = int) -> Any:
    """A positive number of type `kind`. A field that is null counts as missing."""
    value = fields.get(name)
    if value is None:
        value = default
    if value is None:
        raise ModelError(f"config.json has no field {name!r}, which this model needs.")
    largest = 1e38 if kind is float else 2**31 - 1  # 32-bit limits
    if isinstance(value, bool) or not isinstance(value, int | kind) or not 0 < value <= largest:
        raise ModelError(f"config.json has {name}={shown(value)}: it must be a positive {kind.__name__}.")
    return kind(value)


def _flag(fields: dict, name: str) -> bool:
    """A boolean. A field that is null or missing is false."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ModelError(f"config.json has {name}={shown(value)}: it must be true or false.")
    return bool(value)


def _list(fields: dict, name: str) -> list:
    value = fields.get(name) or []
    if not isinstance(value, list):
        raise ModelError(f"config.json has {name}={shown(value)}: it must be a list.")
    return value


def _refuse_unsupported(hf: dict) -> None:
    for field in ("quantization_config", "compression_config"):
        if settings := hf.get(field):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise ModelError(
                f"config.json has {field} ({method or settings}): quantised weights cannot be trained, "
                "give the model in float32, bfloat16 or float16."
            )
    for field, value, supported in (
        ("use_sliding_window", _flag(hf, "use_sliding_window"), False),
        ("layer_types", [kind for kind in _list(hf, "layer_types") if kind != "full_attention"], []),
        ("hidden_act", hf.get("hidden_act") or "silu", "silu"),
        ("num_experts", hf.get("num_experts") or 0, 0),
        ("attention_dropout", hf.get("attention_dropout") or 0.0, 0.0),
        ("pretraining_tp", hf.get("pretraining_tp") or 1, 1),
    ):
        if value != supported:
            raise ModelError(f"config.json has {field}={value!r}, which this decoder does not support.")


def _rope(hf: dict) -> tuple[float, Llama3Rope | None]:
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}  # transformers also prefers the first
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise ModelError(f"config.json has rope_parameters={rope!r}: this decoder supports one setting for all layers.")
    rotated = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
    if rotated != 1.0:
        raise ModelError(f"config.json has partial_rotary_factor={rotated!r}: this decoder rotates whole heads.")
    theta = _positive(rope, "rope_theta", _positive(hf, "rope_theta", 10000.0, float), float)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ModelError(f"config.json has rope_type={kind!r}: this decoder supports 'default' and 'llama3'.")
    return theta, Llama3Rope(**{f.name: _positive(rope, f.name, kind=f.type) for f in dataclasses.fields(Llama3Rope)})


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Rotary angle per position of each pair of dimensions: H/2 float32 numbers (Llama 3 scaling included).

    Rounded to float32 where transformers and vLLM round: a last-bit difference here is multiplied by the position, and
    at 4,096 tokens it is 10 times the rounding of everything else.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = 1 / (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    # Short wavelengths are kept, long ones slowed by `factor`, those between interpolated.
    turns = scaling.original_max_position_embeddings / (2 * math.pi / frequencies)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - keep) * frequencies / scaling.factor + keep * frequencies
