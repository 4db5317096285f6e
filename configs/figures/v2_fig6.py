"""SRT v2, figures 6 and 32 to 34: training on and on, four base models.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig6.py:qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/v2_fig6.py:qwen25_math_7b,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     first a gain as with ground truth, then a collapse, for every model; Llama's came only at three times its
          learning rate (llama_fast, figure 34) within 2,000 steps.
"""
from configs.common import COLLAPSE, figure

get_config = figure("v2_fig6", {
    "qwen25_math_7b": ("srt:qwen25_math_7b,dapo", {}, COLLAPSE),
    "qwen3_14b": ("srt:qwen3_14b,dapo", {}, COLLAPSE),
    "deepseek": ("srt:deepseek_math_7b_instruct,math12k", {}, COLLAPSE),
    "llama": ("srt:llama31_8b_instruct,big_math_llama", {}, COLLAPSE),
    "llama_fast": ("srt:llama31_8b_instruct,big_math_llama", {"optimizer.learning_rate": 3e-7}, COLLAPSE),
})
