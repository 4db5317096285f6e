r"""The miniature for laptops: a 0.25M-parameter Qwen3 learns sums from its own majority votes, or from the answers.

COMMAND   launch/quickstart.sh        (makes the base model, then runs both variants and draws the figure), or
          python -m srt_jax.main --config=configs/quickstart.py              labels by majority vote (SRT)
          python -m srt_jax.main --config=configs/quickstart.py:ground_truth labels from the answers (RLVR)
HARDWARE  2 CPU cores, 2 GB, about 40 seconds each
EXPECT    avg@32 on 128 held-out sums rises from 0.4 by more than 0.3 with votes only. docs/results.md has five seeds.

The entry `tiny` of srt_jax/experiments/models.py adapts a run to the miniature.
"""

from srt_jax.experiments import experiment


def get_config(labels: str = "vote"):
    """labels: vote | ground_truth."""
    config = experiment("quickstart", "tiny", {"labels.source": labels}, tiny={"steps": 50})
    config.name, config.out = "srt" if labels == "vote" else labels, "runs/quickstart"
    config.eval.sets.heldout.limit = 0
    return config
