"""TTRL: test-time RL. 64 samples vote, and the first 32 are trained on (PRIME-RL/TTRL, verl/examples/ttrl).

COMMAND   python -m srt_jax.main --config=configs/ttrl.py:qwen25_math_1_5b,test_aime24
TINY      python -m srt_jax.main --config=configs/ttrl.py:tiny
PAPER     pass@1 on AIME24 rises by 211% for Qwen2.5-Math-7B (README). Users could not reproduce the 1.5B figures
          (issues 40 and 50). Therefore the reported step matters: the summary has the last step and the best one.

The fields are those of aime.sh, amc.sh and, for MATH-500, of the script in issue 11. Their runs have 80, 30 and 10
epochs, and the loader drops the incomplete last step of an epoch. Here an epoch has every problem, and the number of
steps is theirs. Their learning rate changes once a step and not with every update. As in their parser, the answer of a
response without a box is the text after "answer is", or else the last number.
"""

from srt_jax.experiments import experiment
from srt_jax.experiments.models import BOXED, MODELS

TTRL = {
    "batch.prompts_per_step": 8,
    "batch.samples_per_prompt": 32,
    "batch.votes_per_prompt": 64,
    "batch.minibatches_per_step": 8,  # one prompt each
    "batch.microbatch_sequences": 32,
    "batch.max_prompt_tokens": 512,
    "rollout.prompt_buckets": (256, 512),
    "rollout.prompts_per_call": 8,
    "answer.style": "boxed,final_answer,last_number",  # the fallbacks of their qwen_math_parser.py
    "answer.boxes": "last",
    "rl.advantage": "grpo",
    "rl.kl_in": "loss",
    "rl.dual_clip": 3.0,  # verl's default, not set in the scripts; it has an effect after the first of eight updates
    "optimizer.learning_rate": 5e-7,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 7,  # 3% of the steps
    "prompts.instruction": "",  # Qwen2.5-Math's chat template asks for the box
    "eval.every": 2,
    "eval.samples": 16,
    "eval.temperature": 0.6,
    "eval.top_p": 0.95,
    "steps": 240,
}
LONG = {"batch.max_prompt_tokens": 1024, "rollout.prompt_buckets": (256, 512, 1024)}
BY_TEST = {
    "test_amc83": {**LONG, "steps": 300, "optimizer.warmup_steps": 9},
    "test_math500": {
        **LONG,
        "steps": 150,
        "optimizer.warmup_steps": 4,
        "batch.prompts_per_step": 32,
        "batch.minibatches_per_step": 32,
    },
}
BY_MODEL = {
    model: {"prompts.instruction": BOXED} for model in MODELS if model != "tiny" and not model.startswith("qwen25_math")
}  # Their advice to users of Llama (issue 19).
TINY = {"batch.microbatch_sequences": 32, "optimizer.warmup_steps": 1, "optimizer.learning_rate": 4e-5}  # 240 updates


def get_config(arguments: str = ""):
    """MODEL,DATA, where DATA is a test set: test_aime24, test_amc83, test_math500, ..."""
    test = arguments.partition(",")[2]
    return experiment(
        "ttrl",
        arguments,
        {**TTRL, **BY_TEST.get(test, {})},
        TINY,
        default="qwen25_math_1_5b,test_aime24",
        tiny_data="test_sums",
        by_model=BY_MODEL,
    )
