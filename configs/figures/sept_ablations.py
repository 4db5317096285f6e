"""SePT's ablations and baselines, Qwen2.5-Math-7B on DeepScaleR.

COMMAND   python -m srt_jax.main --config=configs/figures/sept_ablations.py:offline
TINY      python -m srt_jax.main --config=configs/figures/sept_ablations.py:offline,tiny
HARDWARE  8 A800 in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     AVG: SePT 55.0, GRPO 59.1, EM-FT 51.3, offline 45.5, coupled temperatures 44.6, base 43.7.
"""
from configs.common import figure

get_config = figure("sept_ablations", {
    "offline": ("sept_variants:offline,qwen25_math_7b,deepscaler", {}, {}),
    "coupled": ("sept_variants:coupled,qwen25_math_7b,deepscaler", {}, {}),
    "constant": ("sept_variants:constant,qwen25_math_7b,deepscaler", {}, {}),
    "grpo": ("sept_variants:grpo,qwen25_math_7b,deepscaler", {}, {}),
    "em_ft": ("em_ft:qwen25_math_7b,deepscaler", {}, {}),
})
