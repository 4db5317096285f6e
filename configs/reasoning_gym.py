r"""One level of a Reasoning Gym task, with ground truth, votes, or a fixed teacher's votes (SRT v2, figure 2).

COMMAND   python -m srt_jax.main --config=configs/reasoning_gym.py:vote,qwen3_4b,knights_knaves_3
TINY      python -m srt_jax.main --config=configs/reasoning_gym.py:vote,tiny
PAPER     The runs use GRPO, learning rate 1e-6, KL 0.0001, 32 samples, and 16 in evaluations (v2, B.3). The first level
          is trained with answers: bitwise_arithmetic_2 reaches 97% in 950 steps, family_relationships_4 and
          knights_knaves_2 reach 99%. The next level is trained without answers: votes are better than the fixed
          teacher's labels by 10 (bitwise), 8 (family) and 6 points (knights). climb.py runs such levels in one command.

A later level starts from the weights of the earlier one. The fixed teacher has the same weights:
          --config.model.path=runs/climb/qwen3_4b-knights_knaves/level_2/final
          python -m srt_jax label --config=configs/reasoning_gym.py:vote,qwen3_4b,knights_knaves_3 \
              --config.model.path=... --out=runs/labels/qwen3_4b-knights_knaves_3.jsonl
TASK is any of srt_jax/experiments/data.py:GYM. The sizes, 16 prompts a step and <answer> tags are our choice. The
authors' released branch asks for a box instead. boxed_TASK_LEVEL, e.g. boxed_knights_knaves_3, is that variant.
"""

from srt_jax.experiments import experiment

GYM = {"rl.advantage": "grpo", "rl.kl_in": "loss", "rl.kl_coef": 0.0001}
LABELS = {"ground_truth": "ground_truth", "vote": "vote", "fixed_teacher": "file"}


def get_config(arguments: str = "vote"):
    """LABELS,MODEL,[boxed_]TASK_LEVEL with LABELS one of ground_truth, vote, fixed_teacher"""
    labels, _, rest = arguments.partition(",")
    if labels not in LABELS:
        raise ValueError(f"there are no labels {labels!r}: give one of {', '.join(LABELS)}.")
    config = experiment(
        labels, rest, {**GYM, "labels.source": LABELS[labels]}, default="qwen3_4b,knights_knaves_3", tiny_data="sums_4"
    )
    if labels == "fixed_teacher":
        config.labels.path = f"runs/labels/{config.name.removeprefix('fixed_teacher-')}.jsonl"
    config.name = f"reasoning_gym-{config.name}"  # ground_truth.py makes a run of the same model and data
    return config
