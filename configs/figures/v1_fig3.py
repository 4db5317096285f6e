"""SRT v1, section 4.2 (figure 3) and SRT v2, figure 23: test-time training, Qwen2.5-Math-7B.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig3.py:aime24
TINY      python -m srt_jax.main --config=configs/figures/v1_fig3.py:aime24,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     small, visible gains of maj@32 over the base model's maj@32; no collapse (v2, figure 24).
"""
from configs.common import figure

get_config = figure("v1_fig3", {
    name: (f"test_time:qwen25_math_7b,test_{name}", {}, {}) for name in ("aime24", "aime25", "amc23")
})
