"""Memory of one device in sampling and in an update, estimated from the model's shape before anything is compiled.

Tests compare it with XLA's own count (`memory_analysis`) of the compiled programs on CPUs. CPUs compute a bfloat16
product in float32, so they store a second copy of its operands. Other platforms do not.
"""

import dataclasses

from srt_jax.model import logprobs
from srt_jax.model.config import ModelConfig

FLOAT = 4  # bytes of a float32
SIZES = {"float32": 4, "bfloat16": 2}
PREFILL_TOKENS = 8192  # continuous batching: prompt tokens per device in one chunk of the prefill


@dataclasses.dataclass(frozen=True)
class Call:
    """The part of a sampler call that one device computes.

    rows: prompts; samples: per prompt; prompt_tokens: padded length of a prompt; response_tokens: maximum length of a
    response; slots: sequences that decode at a time (0: all); fsdp, tensor: sizes of the mesh axes; platform: of the
    jax.Device; kernel: attention kernel of the prefill.
    """

    rows: int
    samples: int
    prompt_tokens: int
    response_tokens: int
    slots: int = 0
    fsdp: int = 1
    tensor: int = 1
    platform: str = "cpu"
    kernel: str = "xla"

    @property
    def active(self) -> int:
        """Sequences that decode at a time."""
        return min(self.slots, self.rows * self.samples) if self.slots else self.rows * self.samples


def sampler_call(model: ModelConfig, dtype: str, call: Call) -> dict[str, float]:
    """Peak bytes of a call without the parameters: weights in the compute dtype, cache, results, temporaries.

    The temporaries are those of the larger of its two programs. The prefill needs a second copy of the weights if they
    are cast, and the prompts' activations and attention scores. Decoding needs the logits of all active sequences.
    """
    size, native = SIZES[dtype], dtype == "float32" or call.platform != "cpu"
    weights = model.num_params * size / call.tensor
    per_token = 2 * model.num_layers * _shared(model.num_kv_heads, call.tensor) * model.head_dim * size
    prompts = per_token * call.rows * call.prompt_tokens
    if call.slots:
        cache = per_token * call.active * (call.prompt_tokens + call.response_tokens)
    else:
        cache = per_token * call.active * call.response_tokens
    results = 2 * FLOAT * call.rows * call.samples * call.response_tokens
    drawing = 2 * FLOAT * call.active * model.vocab_size / call.tensor  # logits, and their quotients by the temperature
    at_first = _prefill(model, dtype, call) + (prompts if call.slots else drawing)
    if dtype != "float32":
        at_first += weights / call.fsdp
    decoding = drawing + (0 if call.slots else cache / model.num_layers)
    if not native:
        at_first += FLOAT * model.vocab_size * model.hidden_size
        decoding += FLOAT / size * (weights + prompts + cache)
    return {"weights": weights, "cache": prompts + cache, "results": results, "temporaries": max(at_first, decoding)}


def _prefill(model: ModelConfig, dtype: str, call: Call) -> float:
    """Bytes of the activations of one chunk of prompts, with the attention scores if the kernel is plain XLA."""
    tokens = call.rows * call.prompt_tokens
    if call.slots:
        tokens = min(tokens, max(PREFILL_TOKENS, call.prompt_tokens))
    scores = tokens * call.prompt_tokens * _shared(model.num_heads, call.tensor) if call.kernel == "xla" else 0
    return FLOAT * (scores + tokens * (model.hidden_size + model.intermediate_size / call.tensor))


@dataclasses.dataclass(frozen=True)
class Update:
    """The part of an update that one device computes.

    rows: sequences of a micro-batch; length: tokens of each; head_tokens: model.head_chunk_tokens;
    remat: model.remat; kernel: attention kernel; many: whether a step makes several updates; moments: dtype of AdamW's
    moments; adapters: number of trained parameters on the device if the model is frozen, else 0; teacher: whether the
    state has an EMA teacher.
    """

    rows: int
    length: int
    head_tokens: int
    remat: str = "full"
    kernel: str = "xla"
    many: bool = False
    moments: str = "float32"
    fsdp: int = 1
    tensor: int = 1
    platform: str = "cpu"
    adapters: float = 0.0
    teacher: bool = False


def update(model: ModelConfig, dtype: str, at: Update) -> float:
    """Peak bytes of an update without parameters, optimizer and reference: gradients, activations, logits.

    Gradients take twice the memory of the parameters: their sum, and those of one micro-batch. AdamW's update takes it
    once more when the activations are no longer needed.
    Several updates run in a loop, which stores most of the parameters and moments once more: 2.5 times the parameters
    with XLA on a CPU, and once more for the parameters of an EMA teacher.
    """
    size = FLOAT if at.platform == "cpu" else SIZES[dtype]
    parameters = FLOAT * (at.adapters or model.num_params / (at.fsdp * at.tensor))
    copies = 3 + (2.5 + at.teacher) * at.many + 2 * (at.moments != "float32")
    tokens = at.rows * at.length
    scores = _shared(model.num_heads, at.tensor) * at.length if at.kernel == "xla" else 0
    D, F = model.hidden_size, model.intermediate_size / at.tensor
    qkv = (_shared(model.num_heads, at.tensor) + 2 * _shared(model.num_kv_heads, at.tensor)) * model.head_dim
    everything = qkv + 5 * D + 3 * F  # numbers per token in the forward pass of a layer, without scores
    kept = {"full": D, "dots": D + qkv + 2 * F, "attention": everything, "none": everything + scores}[at.remat]
    one_layer = 10 * D + 6 * F + 3 * scores
    gathered = 2 * size * model.num_params / at.tensor / model.num_layers if at.fsdp > 1 else 0
    vocabulary = model.vocab_size // at.tensor
    block, keeps_logits = logprobs.blocks(tokens, vocabulary, at.head_tokens, at.platform)
    logits = FLOAT * tokens * (vocabulary if keeps_logits else block) + size * tokens * block  # and a block's gradient
    activations = gathered + size * tokens * (model.num_layers * kept + one_layer) + logits
    return (copies - 1) * parameters + max(parameters, activations)


def _shared(heads: int, tensor: int) -> float:
    """Heads on one device: all of them if the axis does not divide their number."""
    return heads / tensor if heads % tensor == 0 else heads
