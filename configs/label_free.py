"""Label-free rewards: other shapes of the vote, the policy's confidence in its tokens, and controls.

docs/algorithms.md has their equations and sources.

COMMAND   python -m srt_jax.main --config=configs/label_free.py:empo,qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/label_free.py:empo,tiny
PAPER     Each shape is from a paper of its own, with SRT's batch, advantage and learning rate. The names that end in
          _like lack a part of their method (srt_jax/reward/shapes.py). self_certainty is Intuitor's reward and
          negative_entropy RENT's, with GRPO and the KL in the loss, as in these papers. The controls random, format
          and brevity show what a model gains without any information about the answers.
"""

from srt_jax.experiments import experiment

GRPO = {"rl.advantage": "grpo", "rl.kl_in": "loss"}
SHAPES = {
    "soft_vote": {},
    "empo": {},
    "scrl_like": {},
    "restrain_like": {},
    "minority_penalty": {"rl.advantage": "reinforce"},  # with a baseline it would be the plain vote
    "random": {},
    "format": {},
    "brevity": {},
    "self_certainty": {**GRPO, "rl.kl_coef": 0.005},
    "negative_entropy": GRPO,
    "mean_logprob": GRPO,
    "sum_logprob": GRPO,
}


def get_config(arguments: str = "soft_vote"):
    """SHAPE,MODEL,DATA"""
    shape, _, rest = arguments.partition(",")
    if shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}: give one of {', '.join(SHAPES)}.")
    return experiment(shape, rest, {"reward.shape": shape, **SHAPES[shape]})
