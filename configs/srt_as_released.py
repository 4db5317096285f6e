"""SRT as the released script runs it, where that differs from the paper (tajwarfahim/srt, experiment_scripts/srt.sh).

COMMAND   python -m srt_jax.main --config=configs/srt_as_released.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/srt_as_released.py:tiny
PAPER     The curves of v1 and v2 come from this code. An entropy bonus speeds up the collapse (v2, G.5), so compare
          with srt.py.

docs/algorithms.md lists what still differs from their code.
"""

from srt_jax.experiments import experiment

DIFFERENCES = {
    "rl.entropy_coef": 0.001,  # verl's default; neither the script nor the paper mentions it
    "answer.boxes": "last",  # of several boxes in one sentence the last counts
    "vote.match": "string",  # 1/2 and 0.5 are two different votes
    "reward.match": "math_verify",  # each answer is compared with the label, whatever group it voted in
    "eval.match": "math_verify",
    "labels.unlabelled": "zero_advantage",  # prompts without a label stay in the denominators
}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("srt_as_released", arguments, DIFFERENCES)
