"""SRT: a model trains on its own majority votes (SRT v1, section 4.1). All defaults of base() are the paper's.

COMMAND   python -m srt_jax.main --config=configs/srt.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/srt.py:tiny
PAPER     SRT is as good as ground truth at first. On DAPO it peaks after 400 to 600 steps and then collapses: at 1,200
          steps the responses to all prompts have the same answer, and pseudo-reward and KL have jumped.

srt_as_released.py has the differences of the released script, such as its entropy bonus.
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("srt", arguments)
