"""SRT v2, figures 8 and 18 to 22: what the collapse depends on, Qwen2.5-Math-7B on DAPO.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig8.py:grpo
TINY      python -m srt_jax.main --config=configs/figures/v2_fig8.py:grpo,tiny
HARDWARE  8 H200
PAPER     GRPO collapses like RLOO. More KL does not help, a smaller learning rate and fewer samples delay the collapse,
          an entropy bonus speeds it up.

The text names no values; those here are our choice. The tiny runs collapse too, with the same field changed.
"""

from srt_jax.experiments import COLLAPSE, figure

SRT = "srt:qwen25_math_7b,dapo"


def _samples(n: int) -> dict:
    return {"batch.samples_per_prompt": n}


get_config = figure(
    "v2_fig8",
    {
        "rloo": (SRT, {}, COLLAPSE),
        "grpo": ("rl:grpo,qwen25_math_7b,dapo", {}, COLLAPSE),
        "kl_0.01": (SRT, {"rl.kl_coef": 0.01}, COLLAPSE | {"rl.kl_coef": 0.01}),
        "lr_1e-7": (SRT, {"optimizer.learning_rate": 1e-7}, COLLAPSE | {"optimizer.learning_rate": 2e-4}),
        "samples_8": (SRT, _samples(8), COLLAPSE | _samples(8)),
        "samples_16": (SRT, _samples(16), COLLAPSE | _samples(16)),
        "entropy_0.003": (SRT, {"rl.entropy_coef": 0.003}, COLLAPSE | {"rl.entropy_coef": 0.003}),
    },
)
