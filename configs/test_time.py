"""Test-time training: SRT on the unlabelled test set itself (v1, 4.2; v2, H).

COMMAND   python -m srt_jax.main --config=configs/test_time.py:qwen25_math_7b,test_aime24
TINY      python -m srt_jax.main --config=configs/test_time.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     a small gain of maj@32 over the base model's maj@32, the line to beat, which the summary shows beside it; no
          collapse: a small set saturates. Theirs dropped 14 of 30 problems in every epoch; here every problem is seen
          once.
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA with a test set as data: test_aime24, test_aime25, test_amc23, test_amc83"""
    return experiment("test_time", arguments, {"eval.every": 20}, default="qwen25_math_7b,test_aime24",
                      tiny_data="test_sums")
