r"""SRT v1, figure 3 (section 4.3), and SRT v2, figure 7: what the collapse on DAPO looks like.

COMMAND   python -m srt_jax.main --config=configs/figures/v1_fig3.py:srt
TINY      python -m srt_jax.main --config=configs/figures/v1_fig3.py:srt,tiny
HARDWARE  8 H200
PAPER     Pseudo-reward and KL jump at the step where the accuracy falls. Afterwards every response is random tokens and
          \boxed{1}. With ground truth nothing of this happens.

The curves to look at are label/pseudo_reward beside label/true_reward, label/top_answer_share and update/kl.
"""

from srt_jax.experiments import COLLAPSE, figure

get_config = figure(
    "v1_fig3", {method: (f"{method}:qwen25_math_7b,dapo", {}, COLLAPSE) for method in ("srt", "ground_truth")}
)
