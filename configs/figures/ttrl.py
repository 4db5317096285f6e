"""TTRL's runs: Qwen2.5-Math-1.5B on AIME24 and on AMC (83 problems).

COMMAND   python -m srt_jax.main --config=configs/figures/ttrl.py:aime
TINY      python -m srt_jax.main --config=configs/figures/ttrl.py:aime,tiny
HARDWARE  8 A100 with 80 GB in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     README: +211% pass@1 on AIME24 for the 7B model; previews 43.3, 43.3, 46.7.

aime_7b is the previews' recipe as far as it is known: 16 of 64 samples trained, 16 prompts, 60 epochs, greedy
evaluation. Their labels came from the 16 alone (their code voted again after it had cut the 64); here all 64 vote.
"""
from configs.common import figure

AMC = {"batch.max_prompt_tokens": 1024, "rollout.prompt_buckets": (256, 512, 1024)}  # as their script has it
PREVIEW = {
    "batch.prompts_per_step": 16, "batch.samples_per_prompt": 16, "steps": 112, "optimizer.warmup_steps": 3,
    "eval.temperature": 0.0, "eval.top_p": 1.0, "eval.samples": 1,
}

get_config = figure("ttrl", {
    "aime": ("ttrl:qwen25_math_1_5b,test_aime24", {}, {}),
    "amc": ("ttrl:qwen25_math_1_5b,test_amc83", AMC, {}),
    "aime_7b": ("ttrl:qwen25_math_7b,test_aime24", PREVIEW, {}),
})
