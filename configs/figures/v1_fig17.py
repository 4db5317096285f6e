"""SRT v1, figure 17, and SRT v2, figure 29: Qwen3-14B-Base on Qwen2.5-Math-7B's easiest third of DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig17.py:vote_share
TINY      python -m srt_jax.main --config=configs/figures/v1_fig17.py:vote_share,tiny
HARDWARE  8 H200
PAPER     The runs do not collapse in three epochs, as with the 7B model.

The tiny runs read the file that configs/curriculum.py says how to write. It is the same third of the sums by both
scores.
"""

from srt_jax.experiments import figure

get_config = figure(
    "v1_fig17", {by: (f"curriculum:qwen3_14b,dapo_easy_by_{by}", {}, {}) for by in ("vote_share", "pass_rate")}
)
