"""Shapes of the label-free reward, and controls that use no votes. docs/algorithms.md has their equations and sources.

COMMAND   python -m srt_jax.main --config=configs/label_free.py:empo,qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/label_free.py:empo,tiny
PAPER     Each shape is from a paper of its own, with SRT's batch, advantage and learning rate. The names that end in
          _like lack a part of their method (srt_jax/reward/shapes.py). The controls random, format and brevity show
          what a model gains without any information about the answers.
"""

from srt_jax.experiments import experiment

SHAPES = {
    "soft_vote": {},
    "empo": {},
    "scrl_like": {},
    "restrain_like": {},
    "minority_penalty": {"rl.advantage": "reinforce"},  # with a baseline it would be the plain vote
    "random": {},
    "format": {},
    "brevity": {},
}


def get_config(arguments: str = "soft_vote"):
    """SHAPE,MODEL,DATA"""
    shape, _, rest = arguments.partition(",")
    if shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}: give one of {', '.join(SHAPES)}.")
    return experiment(shape, rest, {"reward.shape": shape, **SHAPES[shape]})
