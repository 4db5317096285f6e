"""Some answers, and votes for the rest: the direction that SRT's conclusion names.

COMMAND   python -m srt_jax.main --config=configs/semi_supervised.py:qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/semi_supervised.py:tiny
HARDWARE  8 H200 as in the paper; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     no figure; the released code mixes labelled and unlabelled rows in one file. A tenth with answers is our
          choice.

Which problems have answers is drawn by (seed, id); a column can say it instead: --config.labels.labelled_fraction=0
--config.data.labelled_column=NAME. verl's files that SRT's scripts write carry it already.
"""
from configs.common import experiment


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("semi_supervised", arguments, {"labels.source": "mixed", "labels.labelled_fraction": 0.1})
