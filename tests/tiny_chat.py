r"""A chat model of 80 thousand parameters, made without torch: a template like Qwen2.5's, one token per byte, and
weights that answer every problem with a random digit in a box.

    python -m tests.tiny_chat FOLDER

writes FOLDER/model and the problems FOLDER/gsm8k_train.jsonl and FOLDER/gsm8k.jsonl, which SRT_JAX_DATA=FOLDER puts in
the place of the hub's. The responses are `\boxed{3}<|im_end|>` with a digit from 1 to 4, each as likely.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from srt_jax.model import decoder, weights
from srt_jax.model.config import ModelConfig
from srt_jax.model.paths import map_with_path

TEMPLATE = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or (message.role == 'assistant') %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BOXED = r"\boxed{"
DIGITS = "1234"
CERTAIN = 30.0  # a logit, where those of all tokens that do not follow are near 0
HF_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "eos_token_id": 258,
    "bos_token_id": 256,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte, one for the opening of the box, and Qwen2.5's special tokens."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens([BOXED])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )


def follow(shapes, pairs):
    """Weights whose next token depends on the last one alone: `pairs` of a token and the tokens that may follow it.

    The layers add nothing to the embeddings, and the head looks up what follows.
    """
    rng = np.random.default_rng(0)
    embedding = rng.choice([-1.0, 1.0], (HF_CONFIG["vocab_size"], HF_CONFIG["hidden_size"]))
    head = np.zeros_like(embedding)
    for token, followers in pairs:
        for follower in followers:
            head[follower] += CERTAIN / HF_CONFIG["hidden_size"] * embedding[token]

    def drawn(path, x):
        if path in ("embedding", "head"):
            return (embedding if path == "embedding" else head).astype(np.float32)
        if path.endswith("scale"):
            return np.ones(x.shape, np.float32)
        silent = path in ("layers.o.kernel", "layers.down.kernel")
        return (0.0 if silent else 0.1) * rng.standard_normal(x.shape).astype(np.float32)

    return map_with_path(drawn, shapes)


def write_model(directory: pathlib.Path) -> None:
    """The Hugging Face directory of the model."""
    ours = tokenizer()
    [newline], [boxed], [brace], [end] = (ours(text)["input_ids"] for text in ("\n", BOXED, "}", "<|im_end|>"))
    digits = ours(DIGITS)["input_ids"]
    pairs = [(newline, [boxed]), (boxed, digits), *((digit, [brace]) for digit in digits), (brace, [end])]
    parameters = follow(decoder.abstract(ModelConfig.from_hf(HF_CONFIG))[1], pairs)
    with tempfile.TemporaryDirectory() as files:
        ours.save_pretrained(files)
        weights.save(directory, parameters, HF_CONFIG, np.float32, tokenizer_from=files)


def write_problems(path: pathlib.Path, first: int, count: int) -> None:
    """`What is 9 - 6?` and the like, with an answer from 1 to 4."""
    rows = (
        {"problem": f"What is {i + 5} - {i + 4 - i % 4}?", "answer": str(1 + i % 4)}
        for i in range(first, first + count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(folder: pathlib.Path) -> None:
    """Writes the model and the two files of problems."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model")
    write_problems(folder / "gsm8k_train.jsonl", 0, 64)
    write_problems(folder / "gsm8k.jsonl", 64, 8)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
