"""The variants that SePT is compared with: offline samples, equal temperatures, GRPO with answers.

COMMAND   python -m srt_jax.main --config=configs/sept_variants.py:offline,qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/sept_variants.py:offline,tiny
PAPER     AVG for Qwen2.5-Math-7B is 55.0 with SePT, 59.1 with GRPO, 45.5 offline, 44.6 with equal ("coupled")
          temperatures, and 43.7 for the base model (tables 1, 4, 5). With equal temperatures the expected gradient is
          zero. The authors' offline run also has another learning rate, schedule and b2.

`offline` has a single step: the base model answers every problem once, and three epochs of updates follow. The
authors' warm-up takes 1% of the updates. Here the warm-up is counted in steps, so there is none.
"""

from srt_jax.experiments import experiment, load

sept = load("sept")
GRPO = {
    "labels.source": "ground_truth",
    "rl.advantage": "grpo",
    "rl.kl_coef": 0.0,
    "batch.samples_per_prompt": 8,
    "batch.prompts_per_step": 128,
    "batch.minibatches_per_step": 2,
    "optimizer.learning_rate": 5e-7,
    "rl.dual_clip": 3.0,  # verl's default, not set in their scripts
    "prompts.instruction": "",
    "prompts.system": sept.SEPT["prompts.system"],
    "eval.every": 50,
    "optimizer.warmup_steps": 10,
}
VARIANTS = {
    # With rl.temperature 0 the loss has the sampling temperature. Only SePT itself anneals it (B.1). The value 1 is our
    # choice.
    "coupled": {**sept.SEPT, "rl.temperature": 0.0, "rollout.temperature": 1.0, "rollout.temperature_steps": 0},
    "constant": {**sept.SEPT, "rollout.temperature_steps": 0},  # no annealing
    "offline": {
        **sept.SEPT,
        "rollout.temperature_steps": 0,
        "steps": 1,
        # A multiple of 128 below DeepScaleR's 40,315 prompts, because some prompts are too long.
        "batch.prompts_per_step": 39680,
        "batch.minibatches_per_step": 310,
        "batch.epochs_per_step": 3,
        "optimizer.learning_rate": 1e-5,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 0,
        "optimizer.b2": 0.95,
    },
    "grpo": GRPO,
}
TINY = {
    "coupled": {**sept.TINY, "rollout.temperature_steps": 0},
    "constant": {**sept.TINY, "rollout.temperature_steps": 0},
    "grpo": {"prompts.system": "", "steps": 10, "optimizer.warmup_steps": 2},
    "offline": {
        "prompts.system": "",
        "optimizer.learning_rate": 6e-5,
        "steps": 1,
        "data.limit": 2048,
        "batch.prompts_per_step": 2048,
        "batch.minibatches_per_step": 16,
        "rollout.prompts_per_call": 128,
    },
}


def get_config(arguments: str = "offline"):
    """VARIANT,MODEL,DATA"""
    variant, _, rest = arguments.partition(",")
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: give one of {', '.join(VARIANTS)}.")
    anneals = variant in ("constant", "offline")  # these sample at SePT's first temperature
    return experiment(
        f"sept_{variant}",
        rest,
        VARIANTS[variant],
        TINY[variant],
        default="qwen25_math_7b,deepscaler",
        by_model=sept.BY_MODEL if anneals else sept.PROMPTS,
    )
