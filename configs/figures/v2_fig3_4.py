"""SRT v2, figures 3 and 4: avg@16 and maj@16 on MATH-500 for four base models.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig3_4.py:srt_qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/v2_fig3_4.py:srt_qwen25_math_7b,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     SRT as good as ground truth on all four; Llama-3.1-8B-Instruct 52.6% -> about 60% (greedy, so that maj = avg).
"""
from configs.common import figure

# Which training set belongs to which model: SRT v2, appendices B.3, C and J.
TRAINED_ON = {
    "qwen25_math_7b": "math12k", "qwen3_14b": "math12k", "deepseek_math_7b_instruct": "math12k",
    "llama31_8b_instruct": "big_math_llama",
}
SAMPLES = {"llama31_8b_instruct": {}}  # greedy: one

get_config = figure("v2_fig3_4", {
    f"{method}_{model}": (f"{method}:{model},{data}", SAMPLES.get(model, {"eval.samples": 16}), {})
    for model, data in TRAINED_ON.items() for method in ("srt", "ground_truth")
})
