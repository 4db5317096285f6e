"""Test-time training: SRT on the unlabelled test set itself (SRT v1, 4.2; SRT v2, H).

COMMAND   python -m srt_jax.main --config=configs/test_time.py:qwen25_math_7b,test_aime24
TINY      python -m srt_jax.main --config=configs/test_time.py:tiny
PAPER     maj@32 gains a little on the base model's maj@32, which is the line to beat; the summary shows both. There is
          no collapse, since a small set saturates.

Their loader drops 14 of 30 problems in every epoch. Here an epoch has every problem once. 300 steps are our choice.
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA with a test set as data: test_ and aime24, aime25, amc23, amc83, math500, minerva or olympiadbench"""
    return experiment(
        "test_time", arguments, {"eval.every": 20}, default="qwen25_math_7b,test_aime24", tiny_data="test_sums"
    )
