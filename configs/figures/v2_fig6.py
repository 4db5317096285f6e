"""SRT v2, figures 6 and 32 to 34: four models that train on and on.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig6.py:qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/v2_fig6.py:qwen25_math_7b,tiny
HARDWARE  8 H200
PAPER     Every model gains as with ground truth at first, and then collapses. Within 2,000 steps Llama does so only at
          three times its learning rate (llama_fast, figure 34).
"""

from srt_jax.experiments import COLLAPSE, figure

get_config = figure(
    "v2_fig6",
    {
        "qwen25_math_7b": ("srt:qwen25_math_7b,dapo", {}, COLLAPSE),
        "qwen3_14b": ("srt:qwen3_14b,dapo", {}, COLLAPSE),
        "deepseek": ("srt:deepseek_math_7b_instruct,math12k_and_math500", {}, COLLAPSE),
        "llama": ("srt:llama31_8b_instruct,big_math_llama", {}, COLLAPSE),
        "llama_fast": ("srt:llama31_8b_instruct,big_math_llama", {"optimizer.learning_rate": 3e-7}, COLLAPSE),
    },
)
