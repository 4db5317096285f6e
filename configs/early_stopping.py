"""SRT that stops at its peak. 1% of the training data, with answers, shows the peak (SRT v1, 5.1; SRT v2, I.1).

COMMAND   python -m srt_jax.main --config=configs/early_stopping.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/early_stopping.py:tiny
PAPER     The peak comes at about the same step on all test sets. 1% of DAPO is therefore enough to find it.

The run keeps the weights of its best step. If there are no answers, use --config.guard.action=stop
--config.stop.patience=0 --config.stop.validation_fraction=0 and an evaluation set: the run then stops at signs of a
collapse that need no answers (docs/collapse.md). The learning rate of the tiny run is too high on purpose, so that it
collapses.
"""

from srt_jax.experiments import COLLAPSE, experiment

STOP = {
    "stop.validation_fraction": 0.01,
    "stop.patience": 3,  # our choice, as is the interval
    "eval.every": 20,
}
TINY = {**COLLAPSE, "stop.validation_fraction": 0.03, "stop.patience": 2, "eval.every": 4}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("early_stopping", arguments, STOP, TINY)
