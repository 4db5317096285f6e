"""What SePT is compared with: offline samples, equal temperatures, GRPO with answers.

COMMAND   python -m srt_jax.main --config=configs/sept_variants.py:offline,qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/sept_variants.py:offline,tiny
HARDWARE  8 A800 in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     AVG for Qwen2.5-Math-7B: SePT 55.0, GRPO 59.1, offline 45.5, equal ("coupled") temperatures 44.6, base 43.7.
          Equal temperatures have an expected gradient of zero. Their offline run has another learning rate, schedule
          and b2, too.

offline is one step: every problem is answered once by the base model, and three epochs of updates follow. Warm-up
counts steps: theirs, over 1% of the updates, cannot be had here.
"""
from configs import sept
from configs.common import experiment

GRPO = {
    "labels.source": "ground_truth", "rl.advantage": "grpo", "rl.kl_coef": 0.0, "batch.samples_per_prompt": 8,
    "batch.prompts_per_step": 128, "batch.minibatches_per_step": 2, "optimizer.learning_rate": 5e-7,
    "rl.dual_clip": 3.0,  # verl's default, not set in their scripts
    "prompts.instruction": "", "prompts.system": sept.SEPT["prompts.system"], "eval.every": 50,
    "optimizer.warmup_steps": 10,
}
VARIANTS = {
    # 0: the loss's temperature is the sampling temperature, which only SePT itself anneals (B.1); 1 is our choice.
    "coupled": {**sept.SEPT, "rl.temperature": 0.0, "rollout.temperature": 1.0, "rollout.temperature_steps": 0},
    "constant": {**sept.SEPT, "rollout.temperature_steps": 0},  # no annealing
    "offline": {
        **sept.SEPT, "rollout.temperature_steps": 0, "steps": 1,
        # A multiple of 128 that leaves room for the prompts that are too long.
        "batch.prompts_per_step": 39680, "batch.minibatches_per_step": 310, "batch.epochs_per_step": 3,
        "optimizer.learning_rate": 1e-5, "optimizer.schedule": "cosine", "optimizer.warmup_steps": 0,
        "optimizer.b2": 0.95,
    },
    "grpo": GRPO,
}
TINY = {
    "coupled": {**sept.TINY, "rollout.temperature_steps": 0},
    "constant": {**sept.TINY, "rollout.temperature_steps": 0},
    "grpo": {"prompts.system": "", "steps": 10, "optimizer.warmup_steps": 2},
    "offline": {"prompts.system": "", "optimizer.learning_rate": 6e-5, "steps": 1, "data.limit": 2048,
                "batch.prompts_per_step": 2048, "batch.minibatches_per_step": 16, "rollout.prompts_per_call": 128},
}


def get_config(arguments: str = "offline"):
    """VARIANT,MODEL,DATA"""
    variant, _, rest = arguments.partition(",")
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: give one of {', '.join(VARIANTS)}.")
    return experiment(f"sept_{variant}", rest, VARIANTS[variant], TINY[variant],
                      default="qwen25_math_7b,deepscaler", by_model=sept.BY_MODEL)
