r"""SRT v1, section 4.3 (figure 4) and SRT v2, figure 7: what the collapse on DAPO looks like.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig4.py:srt
TINY      python -m srt_jax.main --config=configs/figures/v1_fig4.py:srt,tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     pseudo-reward and KL jump at the step where accuracy falls; afterwards random tokens and \boxed{1} for every
          prompt. Ground truth does none of this.

Watch label/pseudo_reward beside label/true_reward, label/top_answer_share and update/kl.
"""
from configs.common import COLLAPSE, figure

get_config = figure("v1_fig4", {
    method: (f"{method}:qwen25_math_7b,dapo", {}, COLLAPSE) for method in ("srt", "ground_truth")
})
