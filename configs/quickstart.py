r"""The laptop miniature: a 0.8M-parameter Qwen3 on sums, teaching itself by majority vote, or taught by the answers.

COMMAND   launch/quickstart.sh        (makes the base model, then runs both variants and draws the figure), or
          python -m srt_jax.main --config=configs/quickstart.py              labels by majority vote (SRT)
          python -m srt_jax.main --config=configs/quickstart.py:ground_truth labels from the answers (RLVR)
HARDWARE  2 CPU cores, 2 GB
TIME      about 1.5 minutes each
EXPECT    avg@32 on 128 held-out sums rises from 0.55 by 0.2 with votes alone; docs/results.md has five seeds.
"""
from srt_jax.config import base, source


def get_config(labels: str = "vote"):
    """labels: vote | ground_truth."""
    config = base()
    config.name = "srt" if labels == "vote" else labels
    config.out = "runs/quickstart"
    config.steps = 50
    config.labels.source = labels
    config.model.path = "cache/miniature"
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.data = source(path="cache/miniature/train.jsonl")
    config.prompts.template = "plain"
    config.prompts.plain_template = "{problem}="
    config.prompts.instruction = ""
    config.batch.max_prompt_tokens = 10
    config.batch.max_response_tokens = 18
    config.batch.length_buckets = (28,)
    config.batch.microbatch_sequences = 64
    config.rollout.prompt_buckets = (10,)
    config.rollout.old_logprobs = "sampler"
    config.optimizer.learning_rate = 1e-4
    config.mesh.cpu_devices = 2
    with config.eval.unlocked():
        config.eval.sets.heldout = source(path="cache/miniature/heldout.jsonl")
    config.eval.every = 10
    config.checkpoint.every = 10
    return config
