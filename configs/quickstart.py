r"""The miniature for laptops: a 0.25M-parameter Qwen3 learns sums from its own majority votes, or from the answers.

COMMAND   launch/quickstart.sh        (makes the base model, then runs the four arms of its figure), or
          python -m srt_jax.main --config=configs/quickstart.py                    labels by majority vote (SRT)
          python -m srt_jax.main --config=configs/quickstart.py:srt_fast           the same at a high rate: a collapse
          python -m srt_jax.main --config=configs/quickstart.py:srt_fast_guard     the same with the guard
          python -m srt_jax.main --config=configs/quickstart.py:ground_truth_fast  the high rate with answers (RLVR)
          python -m srt_jax.main --config=configs/quickstart.py:ground_truth       the answers at the usual rate
HARDWARE  2 CPU cores, 2 GB
TIME      70 to 95 s of CPU time each; 2026-11-27, Intel Xeon
EXPECT    avg@32 on 128 held-out sums rises from 0.4 by more than 0.3 with votes only. At the high rate it rises faster,
          then falls while the pseudo-reward rises. The guard sees the fall without answers, and returns to an earlier
          checkpoint (docs/collapse.md). docs/results.md has more seeds.

The entry `tiny` of srt_jax/experiments/models.py adapts a run to the miniature.
"""

from srt_jax.experiments import experiment

# Four times the usual rate with half of the samples: votes collapsed within 75 steps on all five bases `scatter` of
# studies/collapse.py, whose runs have no KL penalty.
FAST = {"optimizer.learning_rate": 8e-4, "batch.samples_per_prompt": 16, "steps": 80, "eval.every": 5}
ARMS = {
    "vote": {},
    "ground_truth": {"labels.source": "ground_truth"},
    "srt_fast": FAST,
    "srt_fast_guard": {**FAST, "guard.action": "teacher"},
    "ground_truth_fast": {**FAST, "labels.source": "ground_truth"},
}


def get_config(arm: str = "vote"):
    """arm: a key of ARMS."""
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}: give one of {', '.join(ARMS)}.")
    config = experiment("quickstart", "tiny", tiny={"steps": 50, **ARMS[arm]})
    config.name, config.out = "srt" if arm == "vote" else arm, "runs/quickstart"
    config.eval.sets.heldout.limit = 0
    return config
