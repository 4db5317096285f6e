"""SRT v2, figure 31: prompts whose vote is weak are replaced by others (an online curriculum).

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig31.py:threshold_0.6
TINY      python -m srt_jax.main --config=configs/figures/v2_fig31.py:threshold_0.6,tiny
HARDWARE  8 H200
PAPER     With a threshold of 0.6 there is no collapse within the budget.

Here prompts whose rewards all agree are replaced too, and at most three further batches are drawn; theirs drew on. The
share that is compared with the threshold is of all samples; their code divides by those with an answer.
"""

from srt_jax.experiments import COLLAPSE, figure

ONLINE = {"labels.threshold": 0.6, "batch.resample_rounds": 3}
TINY = {"labels.threshold": 0.4, "batch.resample_rounds": 1}  # the miniature's vote shares are about 0.4 at first

get_config = figure(
    "v2_fig31",
    {
        "threshold_0.6": ("srt:qwen25_math_7b,dapo", ONLINE, COLLAPSE | TINY),
        "no_threshold": ("srt:qwen25_math_7b,dapo", {}, COLLAPSE),
    },
)
