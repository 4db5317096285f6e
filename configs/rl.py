"""Common policy-gradient algorithms on majority votes. docs/algorithms.md has their equations and sources.

COMMAND   python -m srt_jax.main --config=configs/rl.py:grpo,qwen25_math_7b,dapo
TINY      python -m srt_jax.main --config=configs/rl.py:grpo,tiny
PAPER     SRT collapses with GRPO after about as many steps as with RLOO (v2, G.1). GRPO's KL is in the loss (v2, B.1).
          SRT's papers tried no other algorithm. The others are as in their own papers, with SRT's batch and learning
          rate. Those that use a KL penalty have SRT's coefficient.

--config.labels.source=ground_truth trains on answers. ppo_clip is PPO's clipped objective without a critic. DAPO's
reward is +-1 and ours is 0 or 1. Therefore its penalty of up to 1 for overlong responses has twice the weight here.
"""

from srt_jax.experiments import experiment

KL_IN_LOSS = {"rl.kl_in": "loss"}  # normalising a reward that contains the KL would distort it
ALGORITHMS = {
    "rloo": {},
    "grpo": {"rl.advantage": "grpo", **KL_IN_LOSS},
    "dr_grpo": {"rl.advantage": "dr_grpo", "rl.loss_aggregation": "seq-mean-token-sum-norm", "rl.kl_coef": 0.0},
    "reinforce": {"rl.advantage": "reinforce"},
    "reinforce_baseline": {"rl.advantage": "reinforce_baseline"},
    "reinforce_pp": {"rl.advantage": "reinforce_pp", "rl.kl": "k1"},
    # Place and estimator of the KL are those of its paper. The gradient is not that of k1 in the reward
    # (docs/algorithms.md).
    "reinforce_pp_baseline": {"rl.advantage": "reinforce_pp_baseline", "rl.kl": "k2", **KL_IN_LOSS},
    "dapo": {
        "rl.advantage": "grpo",
        "rl.kl_coef": 0.0,
        "rl.clip_high": 0.28,
        "rl.loss_aggregation": "token-mean",
        "batch.minibatches_per_step": 4,
        "batch.resample_rounds": 3,
        "reward.overlong_buffer": 512,
    },
    "ppo_clip": {"batch.minibatches_per_step": 4, "batch.epochs_per_step": 2},
}
SLOWER = {"optimizer.learning_rate": 6e-5}  # a lower rate, because there are several updates a step
TINY = {
    "dapo": {"reward.overlong_buffer": 4, "batch.resample_rounds": 1, **SLOWER},
    "ppo_clip": {"steps": 20, **SLOWER},  # eight updates a step
}


def get_config(arguments: str = "rloo"):
    """ALGORITHM,MODEL,DATA"""
    algorithm, _, rest = arguments.partition(",")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"there is no algorithm {algorithm!r}: give one of {', '.join(ALGORITHMS)}.")
    return experiment(algorithm, rest, ALGORITHMS[algorithm], TINY.get(algorithm))
