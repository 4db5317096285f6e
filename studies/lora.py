"""Adapters beside full fine-tuning: SRT on the miniature for 50 steps, with votes as labels.

Adapters of rank 8 train 45,056 numbers, 18% of what full fine-tuning of the miniature trains. Their learning rate is
ten times as high, as docs/lora.md recommends. The question is whether they gain as much. Run s has the seed s.
"""

from srt_jax.experiments import experiment
from srt_jax.study import Arm, Claim, Study

STEPS = 50


def get_study(quick: bool) -> Study:
    """The steps and the evaluation of configs/quickstart.py, and 5 seeds. quick: 3 seeds."""
    config = experiment(
        "lora",
        "tiny",
        tiny={"steps": STEPS, "eval.every": STEPS, "checkpoint.every": 10, "log.rollouts_every": 1000},
    )
    config.eval.sets.heldout.limit = 0
    rate = config.optimizer.learning_rate
    return Study(
        name="lora",
        config=config,
        arms={"full": Arm(), "rank_8": Arm({"model.lora.rank": 8, "optimizer.learning_rate": 10 * rate})},
        seeds=range(3 if quick else 5),
        column=f"eval/heldout/avg@{config.eval.samples}",
        claims=(
            Claim("full fine-tuning gains", "SRT of the whole model gains", "full", step=STEPS, threshold=0.1),
            Claim("adapters gain", "SRT of adapters of rank 8 gains", "rank_8", step=STEPS, threshold=0.1),
            Claim(
                "adapters gain as much",
                "adapters of rank 8 end at most 0.05 below full fine-tuning",
                "rank_8",
                "full",
                step=STEPS,
                threshold=-0.05,
            ),
        ),
    )
