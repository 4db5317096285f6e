"""SRT v1, figures 4 and 5 (section 4.2), and SRT v2, figures 23 and 24: test-time training, Qwen2.5-Math-7B.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig4.py:aime24
TINY      python -m srt_jax.main --config=configs/figures/v1_fig4.py:aime24,tiny
HARDWARE  8 H200
PAPER     Figure 4: maj@32 gains a little on the base model's maj@32. Figure 5 shows the dynamics of the same runs, in
          which there is no collapse.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig4", {name: (f"test_time:qwen25_math_7b,test_{name}", {}, {}) for name in ("aime24", "aime25", "amc23")}
)
