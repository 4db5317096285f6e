"""A pretrained model, SmolLM2-135M-Instruct, beside transformers: logits, greedy decoding, export."""

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import hf_logits, max_difference, our_logits
from transformers import AutoModelForCausalLM, AutoTokenizer

from srt_jax.model import weights
from srt_jax.model.config import read_hf_config
from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds
from tests.tiny_decoder import mesh_of, place

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
TOLERANCE = 1e-3  # of logits whose standard deviation is about 5
NEW_TOKENS = 32
TEXTS = (
    "Question: Calculate 7 + 25.\nAnswer: The final answer is",
    "The capital of France is",
    "<|im_start|>user\nWhat is 3 * 12?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
)


@pytest.fixture(scope="module")
def theirs(smollm2):
    """The model in transformers."""
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def prompts(smollm2):
    """The token ids of TEXTS."""
    return AutoTokenizer.from_pretrained(smollm2)(list(TEXTS))["input_ids"]


def padded(rows):
    """(tokens [B, S], lengths [B]) of rows of token ids."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    return tokens, np.array([len(ids) for ids in rows])


def test_logits_equal_transformers(smollm2, theirs, prompts):
    tokens, lengths = padded(prompts)
    expected = hf_logits(theirs, tokens, lengths)
    assert expected.std() > 1  # the tolerance means what it says
    assert max_difference(our_logits(smollm2, tokens), expected, lengths) <= TOLERANCE


def test_greedy_decoding_equals_transformers(smollm2, theirs, prompts):
    """A difference is allowed where the two best logits are closer than rounding."""
    graphdef, params, _ = weights.load(smollm2)
    mesh, end = mesh_of(), read_hf_config(smollm2)["eos_token_id"]
    sampler = JaxSampler(graphdef, mesh, (end,), (max(map(len, prompts)),), len(prompts))
    sampler.load(place(params, mesh), 0)
    seeds = problem_seeds(0, "eval", 0, [str(p) for p in prompts])
    ours = sampler.generate(prompts, 1, Sampling(NEW_TOKENS, 0.0), seeds).responses()
    for prompt, (response,) in zip(prompts, ours):
        out = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end
        )
        expected = out[0, len(prompt) :].numpy()
        same = len(expected) == len(response) and (expected == response).all()
        if not same:
            shorter = min(len(expected), len(response))
            first = int(np.argmax(np.append(expected[:shorter] != response[:shorter], True)))
            ids = np.array([[*prompt, *response[:first]]])
            best = np.sort(hf_logits(theirs, ids, np.array([ids.shape[1]]))[0, -1])[-2:]
            assert best[1] - best[0] < TOLERANCE, (prompt, first)


def test_an_export_has_the_same_weights(smollm2, tmp_path):
    _, params, _ = weights.load(smollm2)
    weights.save(tmp_path / "export", params, read_hf_config(smollm2), "float32", tokenizer_from=smollm2)
    before, after = load_file(smollm2 / "model.safetensors"), load_file(tmp_path / "export" / "model.safetensors")
    assert after.keys() - before.keys() == {"lm_head.weight"}  # tied, but written for vLLM
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert len(jax.tree.leaves(params)) < len(before)  # layers are stacked
