r"""My unlabelled problems, my model: majority votes as labels, and a reward of my own.

srt train --config=my_config.py                 the miniature base model
srt train --config=my_config.py:DIRECTORY       a Hugging Face directory of a Qwen2.5, Qwen3 or Llama 3 model
"""

import pathlib

from srt_jax.config import base, source
from srt_jax.experiments.models import MODELS

HERE = pathlib.Path(__file__).parent
MINIATURE = "cache/miniature"


def get_config(model: str = MINIATURE):
    """model: a Hugging Face directory or hub id."""
    config = base()
    config.name, config.model.path = "my_problems", model
    if model == MINIATURE:  # a prompt of 10 tokens at most, without a chat template
        config.update_from_flattened_dict(MODELS["tiny"])
    config.data = source(path=str(HERE / "problems.jsonl"))  # rows with `problem`, and no answers
    with config.eval.unlocked():
        config.eval.sets.checked = source(path=str(HERE / "checked.jsonl"))  # a few problems with answers
    config.reward.shape = "my_reward:agree_and_be_brief"
    config.steps = 20
    return config
