"""A pretrained model, SmolLM2-135M-Instruct, in vLLM: it decodes greedily as the in-process sampler does."""

import numpy as np
import pytest
from transformers import AutoTokenizer
from vllm_support import open_vllm_sampler, started, vllm_config

from srt_jax.rollout.jax.sampler import JaxSampler
from srt_jax.rollout.sampler import Sampling, problem_seeds

NEW_TOKENS, PROMPT_TOKENS = 32, 32
MARGIN = 1e-3  # two tokens whose log-probs differ by less may change places
TEXTS = (
    "Question: Calculate 7 + 25.\nAnswer: The final answer is",
    "The capital of France is",
    "<|im_start|>user\nWhat is 3 * 12?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
)


@pytest.mark.long
def test_greedy_responses_of_a_pretrained_model_agree(smollm2, tmp_path):
    prompts = AutoTokenizer.from_pretrained(smollm2)(list(TEXTS))["input_ids"]
    seeds = problem_seeds(0, "eval", 0, [str(p) for p in prompts])
    with started(tmp_path, {"smollm2": smollm2}, threads=2, max_model_len=PROMPT_TOKENS + NEW_TOKENS) as servers:
        config = vllm_config(smollm2, tmp_path, "run", [servers["smollm2"].url])
        config.batch.max_prompt_tokens, config.batch.max_response_tokens = PROMPT_TOKENS, NEW_TOKENS
        sampler, graphdef, params, mesh = open_vllm_sampler(config)
        sampler.load(params, 0)
        theirs = sampler.generate(prompts, 1, Sampling(NEW_TOKENS, 0.0), seeds)
    own = JaxSampler(graphdef, mesh, sampler._model.stop_ids, (PROMPT_TOKENS,), 8)
    own.load(params, 0)
    ours = own.generate(prompts, 1, Sampling(NEW_TOKENS, 0.0), seeds)
    for p in range(len(prompts)):
        differs = ours.tokens[p, 0] != theirs.tokens[p, 0]
        same = int(np.argmax(differs)) if differs.any() else int(ours.lengths[p, 0])
        assert same, prompts[p]
        np.testing.assert_allclose(theirs.logprobs[p, 0, : same + 1], ours.logprobs[p, 0, : same + 1], atol=MARGIN)
