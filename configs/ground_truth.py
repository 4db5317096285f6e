"""RLVR, the upper line of the SRT figures: the same loop with the known answers as labels.

COMMAND   python -m srt_jax.main --config=configs/ground_truth.py:qwen3_14b,math12k
TINY      python -m srt_jax.main --config=configs/ground_truth.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     no collapse; SRT keeps up with it until its own begins (v1, figure 2).
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("ground_truth", arguments, {"labels.source": "ground_truth"})
