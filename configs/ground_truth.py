"""RLVR, the upper line of SRT's figures: the same loop with the known answers as labels.

COMMAND   python -m srt_jax.main --config=configs/ground_truth.py:qwen3_14b,math12k
TINY      python -m srt_jax.main --config=configs/ground_truth.py:tiny
PAPER     It does not collapse. SRT keeps up with it until SRT's own collapse begins (v1, figure 2).
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("ground_truth", arguments, {"labels.source": "ground_truth"})
