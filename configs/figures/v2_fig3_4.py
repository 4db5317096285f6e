"""SRT v2, figures 3 and 4: avg@32 and maj@32 on MATH-500 for four models.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig3_4.py:srt_qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/v2_fig3_4.py:srt_qwen25_math_7b,tiny
HARDWARE  8 H200
PAPER     SRT is as good as ground truth on all four. Llama-3.1-8B-Instruct rises from 52.6% to about 60%.

The captions name 32 samples. Llama-3.1-8B-Instruct is evaluated greedily with one, so that maj equals avg.
"""

from srt_jax.experiments import figure

# Which training set belongs to which model: SRT v2, appendices B.3, C and J.
TRAINED_ON = {
    "qwen25_math_7b": "math12k_and_math500",
    "qwen3_14b": "math12k_and_math500",
    "deepseek_math_7b_instruct": "math12k_and_math500",
    "llama31_8b_instruct": "big_math_llama",
}

get_config = figure(
    "v2_fig3_4",
    {
        f"{method}_{model}": (f"{method}:{model},{data}", {}, {})
        for model, data in TRAINED_ON.items()
        for method in ("srt", "ground_truth")
    },
)
