"""The laptop miniature: sums of one-digit terms, solved by running totals, and a 0.25M-parameter Qwen3 to learn them.

`7+8+5=` is answered by `15,20.\\boxed{20}`. The solutions a base model learns from contain slips: in 30% of the
additions the running total goes wrong by a little, and the rest follows from the wrong total. A model of such text
answers a sum right four times out of ten, while its errors scatter: the majority is right nearly always. That gap
between one sample and the vote is what self-training lives on.
"""

import functools
import json
from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOXED = r"\boxed{"
VOCABULARY = ("<pad>", "<eos>", "<unk>", BOXED, *"0123456789+-*/=,.() }")
MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS = 10, 18  # five terms: `9+9+9+9+9=` and `18,27,36,45.\boxed{45}<eos>`
SLIPS = (-10, -3, -2, -1, 1, 2, 3, 10)
HF_CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "initializer_range": 0.1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    r"""One token per character, and one for `\boxed{`."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


@functools.cache
def problem_sets(heldout: int = 128, train: int = 2048) -> tuple[list[list[int]], list[list[int]]]:
    """Two disjoint lists of sums of 3 to 5 terms: (held out, train). Always the same ones."""
    rng = np.random.Generator(np.random.Philox(0))
    seen = {}
    while len(seen) < heldout + train:
        terms = random_terms(rng)
        seen.setdefault(tuple(terms), terms)
    sums = list(seen.values())
    return sums[:heldout], sums[heldout:]


def random_terms(rng: np.random.Generator) -> list[int]:
    """3 to 5 digits."""
    return rng.integers(0, 10, rng.integers(3, 6)).tolist()


def problem_text(terms: Sequence[int]) -> str:
    """`7+8+5`."""
    return "+".join(map(str, terms))


def solution_text(terms: Sequence[int], rng: np.random.Generator, slip_rate: float = 0.3) -> str:
    r"""`15,20.\boxed{20}`, with slips."""
    total, totals = terms[0], []
    for term in terms[1:]:
        total += term
        if rng.random() < slip_rate:
            total = max(0, total + int(rng.choice(SLIPS)))
        totals.append(str(total))
    return f"{','.join(totals)}.{BOXED}{total}}}"


def jsonl(sums: Sequence[Sequence[int]]) -> str:
    """The sums as JSON lines of problems with their answers."""
    rows = ({"problem": problem_text(t), "answer": str(sum(t)), "level": str(len(t))} for t in sums)
    return "".join(json.dumps(row) + "\n" for row in rows)
