"""Test-time training: SRT on the unlabelled test set itself (SRT v1, 4.2; SRT v2, H).

COMMAND   python -m srt_jax.main --config=configs/test_time.py:qwen25_math_7b,test_aime24
TINY      python -m srt_jax.main --config=configs/test_time.py:tiny
PAPER     maj@32 becomes a little better than the base model's maj@32, which is the baseline. The summary shows both.
          There is no collapse, because a small set saturates.

The authors' loader drops 14 of 30 problems in every epoch. Here an epoch has every problem once. 300 steps are our
choice.
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA, where DATA is test_ and aime24, aime25, amc23, amc83, math500, minerva or olympiadbench"""
    return experiment(
        "test_time", arguments, {"eval.every": 20}, default="qwen25_math_7b,test_aime24", tiny_data="test_sums"
    )
