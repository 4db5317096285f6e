r"""SmolLM2-135M-Instruct learns to add from its own majority votes, on a laptop.

srt train --config=real_config.py:votes              labels by majority vote
srt train --config=real_config.py:votes,2e-5         a learning rate at which votes ruin the model
srt train --config=real_config.py:guard,2e-5         the same, but the guard ends the run when it sees that it collapses
srt train --config=real_config.py:ground_truth,2e-5  the same rate with labels from the answers

TIME    158 to 182 s of CPU time for twelve steps with seven evaluations; 2026-11-27, AMD EPYC
MEMORY  9 GB
"""

import re

from srt_jax.config import base, source

MODEL = "cache/smollm2"
RATE = 5e-6
HIGH_RATE = 2e-5  # a rate at which votes ruin the model and known answers do not
TEMPLATE = "7 + 25 = 32\n{problem} ="
LABELS = {"votes": "vote", "guard": "vote", "ground_truth": "ground_truth"}


def get_config(arguments: str = "votes"):
    """LABELS,RATE, where LABELS is votes, guard or ground_truth, and RATE is the learning rate."""
    labels, _, rate = arguments.partition(",")
    if labels not in LABELS:
        raise ValueError(f"there are no labels {labels!r}: give votes, guard or ground_truth.")
    if rate and not re.fullmatch(r"[\d.]+(e-?\d+)?", rate):
        raise ValueError(f"the learning rate is {rate!r}: give a number such as 2e-5.")
    config = base()
    config.name, config.out, config.steps = f"{labels}-{float(rate or RATE):.0e}", "runs/real_model", 12
    config.model.path, config.model.dtype, config.model.remat = MODEL, "float32", "none"
    config.labels.source, config.optimizer.learning_rate = LABELS[labels], float(rate or RATE)
    config.data = source(kind="additions:train")
    with config.eval.unlocked():
        config.eval.sets.heldout = source(kind="additions:heldout")
    config.prompts.template, config.prompts.plain_template, config.prompts.instruction = "plain", TEMPLATE, ""
    config.answer.style, config.answer.pattern = "regex", r"^\s*(-?\d+)"  # the prompt ends before the number
    config.batch.prompts_per_step, config.batch.samples_per_prompt = 16, 4
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 17, 4
    config.batch.length_buckets, config.batch.microbatch_sequences = (21,), 32
    config.rollout.prompts_per_call, config.rollout.prompt_buckets = 16, (17,)
    config.rl.kl_coef = 0.0  # without a KL penalty there is no reference model in memory
    config.eval.every, config.eval.samples = 2, 4
    if labels == "guard":
        config.guard.action, config.guard.votes, config.eval.every = "stop", 16, 1
    config.checkpoint.every, config.checkpoint.keep = 10, 1  # a checkpoint has 1.5 GB
    return config
