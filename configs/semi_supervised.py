"""A part of the problems has answers, and the model votes on the rest. SRT's conclusion proposes such training.

COMMAND   python -m srt_jax.main --config=configs/semi_supervised.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/semi_supervised.py:tiny
PAPER     There is no figure. The released code can mix labelled and unlabelled rows in one file. A tenth with answers
          is our choice.

The choice of the problems with answers depends on (seed, id). A column can make the choice instead:
--config.labels.labelled_fraction=0 --config.data.labelled_column=NAME. The files in verl's format that SRT's scripts
write have this information already.
"""

from srt_jax.experiments import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("semi_supervised", arguments, {"labels.source": "mixed", "labels.labelled_fraction": 0.1})
