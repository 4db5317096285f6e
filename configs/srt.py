"""SRT: a model trains on its own majority votes (SRT v1, section 4.1; all defaults of base() are the paper's).

COMMAND   python -m srt_jax.main --config=configs/srt.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/srt.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     as good as ground truth at first; on DAPO a peak after 400 to 600 steps, then a collapse: at 1,200 steps
          every prompt is answered with the same box, while pseudo-reward and KL have jumped. The released script
          (entropy bonus and all) is srt_as_released.py.
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("srt", arguments)
