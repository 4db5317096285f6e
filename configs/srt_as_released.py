"""SRT as its released script runs it, where that differs from the paper (tajwarfahim/srt, experiment_scripts/srt.sh).

COMMAND   python -m srt_jax.main --config=configs/srt_as_released.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/srt_as_released.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     the curves of v1 and v2 come from this code. An entropy bonus speeds the collapse up (v2, G.5): compare with
          srt.py.
"""
from configs.common import experiment

DIFFERENCES = {
    "rl.entropy_coef": 0.001,  # verl's default, not set in the script, not in the paper
    "vote.match": "string",  # 1/2 and 0.5 are two candidates
    "reward.match": "verify",  # a rollout is graded against the label, whatever it voted for
    "labels.unlabelled": "zero_advantage",  # prompts without a label stay in the denominators
}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("srt_as_released", arguments, DIFFERENCES)
