"""EM-FT: the model's own token entropy, on its own samples, is minimised; SePT's unsupervised baseline.

COMMAND   python -m srt_jax.main --config=configs/em_ft.py:qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/em_ft.py:tiny
HARDWARE  8 A800 in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     AVG 51.3 for Qwen2.5-Math-7B, where SePT has 55.0 and the base 43.7.
"""
from configs import sept
from configs.common import experiment

EM_FT = {**sept.SEPT, "rl.objective": "entropy", "rollout.temperature": 1.0, "rollout.temperature_steps": 0}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("em_ft", arguments, EM_FT, {**sept.TINY, "rollout.temperature_steps": 0},
                      default="qwen25_math_7b,deepscaler", by_model=sept.BY_MODEL)
