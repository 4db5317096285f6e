r"""A small pretrained model on a file of problems without answers, on a CPU. Copy it, and change what is yours.

python -m srt_jax train --config=examples/real_model/word_config.py

TIME    200 s of CPU time for four steps with five evaluations; 2026-11-27, AMD EPYC
MEMORY  10.5 GB
"""

import pathlib

from srt_jax.config import base, source

HERE = pathlib.Path(__file__).parent
# The model is too small to follow an instruction, so examples show it the form of an answer.
TEMPLATE = (
    "Q: Bob has 2 dogs and gets 3 more. How many dogs does Bob have?\nA: 2 + 3 = 5\n"
    "Q: There are 9 cups and 1 breaks. How many cups are left?\nA: 9 - 1 = 8\n"
    "Q: A bag has 4 plums. How many plums are in 2 bags?\nA: 4 * 2 = 8\n"
    "Q: {problem}\nA:"
)


def get_config():
    config = base()
    config.name, config.out, config.steps = "words", "runs/real_model", 4
    config.model.path, config.model.remat = "cache/smollm2", "none"
    config.optimizer.learning_rate = 1e-5
    config.data = source(path=str(HERE / "word_problems.jsonl"))  # rows with `problem`
    with config.eval.unlocked():  # rows with `problem` and `answer`: they only measure the result
        config.eval.sets.checked = source(path=str(HERE / "word_checked.jsonl"))
    config.prompts.template, config.prompts.plain_template, config.prompts.instruction = "plain", TEMPLATE, ""
    config.answer.style, config.answer.pattern = "regex", r"^[^\n=]*=\s*(-?\d+)"  # the number after the first "="
    config.batch.prompts_per_step, config.batch.samples_per_prompt = 8, 6
    # The dry run says how many tokens the longest prompt has. Responses need as many as an answer has.
    config.batch.max_prompt_tokens, config.batch.max_response_tokens = 128, 14
    config.rollout.prompt_buckets, config.batch.length_buckets = (128,), (128 + 14,)
    config.batch.microbatch_sequences = 16  # more need more memory
    config.rl.kl_coef = 0.0  # without a KL penalty there is no reference model in memory
    config.eval.every, config.eval.samples = 1, 8
    config.checkpoint.keep = 1  # a checkpoint has 1.5 GB
    return config
