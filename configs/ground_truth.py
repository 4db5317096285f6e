"""RLVR: the same loop as SRT, but with the known answers as labels. It is the upper curve of SRT's figures.

COMMAND   python -m srt_jax.main --config=configs/ground_truth.py:qwen3_14b,math12k
TINY      python -m srt_jax.main --config=configs/ground_truth.py:tiny
PAPER     It does not collapse. SRT keeps up with it until SRT's own collapse begins (v1, figure 2).
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("ground_truth", arguments, {"labels.source": "ground_truth"})
