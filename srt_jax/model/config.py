"""The shape of a decoder, read from a Hugging Face `config.json`."""
import dataclasses
import json
import math
import pathlib

FAMILIES = ("qwen2", "qwen3", "llama")


class ModelError(ValueError):
    """A model that cannot be built, loaded or saved; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Frequency-dependent rotary scaling of Llama 3.1 and later (`rope_type: llama3`)."""
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder of the Qwen2/2.5, Qwen3 or Llama 3 family. Letters: D, F, L, N, K, H, V as in docs/architecture.md."""
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
        attention_bias = bool(hf.get("attention_bias", False))
        try:
            heads = hf["num_attention_heads"]
            config = cls(
                family=family,
                vocab_size=hf["vocab_size"],
                hidden_size=hf["hidden_size"],
                intermediate_size=hf["intermediate_size"],
                num_layers=hf["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=hf.get("num_key_value_heads") or heads,
                head_dim=hf.get("head_dim") or (128 if family == "qwen3" else hf["hidden_size"] // heads),
                rope_theta=theta,
                rope_scaling=scaling,
                rms_norm_eps=hf.get("rms_norm_eps", 1e-6),
                tie_word_embeddings=hf.get("tie_word_embeddings", False),
                qkv_bias=family == "qwen2" or attention_bias,
                output_bias=family != "qwen2" and attention_bias,
                mlp_bias=family == "llama" and bool(hf.get("mlp_bias", False)),
                qk_norm=family == "qwen3",
                max_position_embeddings=hf.get("max_position_embeddings", 32768 if family != "llama" else 2048),
                initializer_range=hf.get("initializer_range", 0.02),
            )
        except KeyError as e:
            raise ModelError(f"config.json has no field {e.args[0]!r}, which a {family} model needs.") from None
        if config.num_heads % config.num_kv_heads:
            raise ModelError(
                f"num_attention_heads={config.num_heads} is not a multiple of num_key_value_heads={config.num_kv_heads}.")
        return config


def read_hf_config(directory: str | pathlib.Path) -> dict:
    """The `config.json` of a Hugging Face directory, as a dict. Raises ModelError where there is none."""
    path = pathlib.Path(directory) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist: model.path must be a Hugging Face model directory.") from None
    except json.JSONDecodeError as e:
        raise ModelError(f"{path} is not valid JSON ({e}): copy the model directory again.") from None


def _refuse_unsupported(hf: dict) -> None:
    refused = {
        "use_sliding_window": bool(hf.get("use_sliding_window")),
        "hidden_act": hf.get("hidden_act", "silu") != "silu",
        "quantization_config": bool(hf.get("quantization_config")),
        "num_experts": bool(hf.get("num_experts") or hf.get("num_local_experts")),
        "layer_types": any(t != "full_attention" for t in hf.get("layer_types") or ()),
        "partial_rotary_factor": (hf.get("partial_rotary_factor")
                                  or (hf.get("rope_parameters") or {}).get("partial_rotary_factor") or 1.0) != 1.0,
        "attention_dropout": bool(hf.get("attention_dropout")),
        "pretraining_tp": hf.get("pretraining_tp", 1) != 1,
    }
    for field, unsupported in refused.items():
        if unsupported:
            raise ModelError(f"config.json has {field}={hf.get(field)!r}, which this decoder does not support.")


def _rope(hf: dict) -> tuple[float, Llama3Rope | None]:
    rope = dict(hf.get("rope_parameters") or {})
    rope.update(hf.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ModelError(f"config.json has rope_type={kind!r}: this decoder knows 'default' and 'llama3'.")
    try:
        scaling = Llama3Rope(**{f.name: rope[f.name] for f in dataclasses.fields(Llama3Rope)})
    except KeyError as e:
        raise ModelError(f"config.json has rope_type='llama3' without {e.args[0]!r}.") from None
    return theta, scaling


def inverse_frequencies(config: ModelConfig) -> list[float]:
    """Rotary angle per position of each pair of dimensions: H/2 numbers (Llama 3 scaling included)."""
    base = [config.rope_theta ** (-2 * i / config.head_dim) for i in range(config.head_dim // 2)]
    scaling = config.rope_scaling
    if scaling is None:
        return base

    def scaled(freq):
        # Long wavelengths are slowed by `factor`, short ones kept, those between interpolated.
        turns = scaling.original_max_position_embeddings * freq / (2 * math.pi)
        if turns > scaling.high_freq_factor:
            return freq
        if turns < scaling.low_freq_factor:
            return freq / scaling.factor
        smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        return (1 - smooth) * freq / scaling.factor + smooth * freq

    return [scaled(f) for f in base]
