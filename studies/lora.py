"""Adapters beside full fine-tuning: SRT on the miniature for 50 steps, with votes as labels.

Adapters of rank 8 train 45,056 numbers, 18% of what full fine-tuning of the miniature trains. Each arm has its own
learning rate, the best one of studies/lora_rate.py. The question is whether adapters gain as much. Run s uses base s.
"""

from ml_collections import ConfigDict

from srt_jax.experiments import experiment
from srt_jax.miniature.pretrain import default_folder
from srt_jax.study import Arm, Claim, Need, Study

STEPS = 50
FULL_RATE, ADAPTER_RATE = 4e-4, 1e-3  # learning rates: the best of studies/lora_rate.py


def get_study(quick: bool) -> Study:
    """The steps and the evaluation of configs/quickstart.py, and 5 seeds. quick: 3 seeds."""
    config = miniature("lora")
    return Study(
        name="lora",
        config=config,
        arms={"full": Arm({"optimizer.learning_rate": FULL_RATE}), "rank_8": adapters(ADAPTER_RATE)},
        seeds=range(3 if quick else 5),
        column=f"eval/heldout/avg@{config.eval.samples}",
        by_run=lambda _, seed: {
            "model.path": str(default_folder("scatter", seed)),
            "data.path": str(default_folder("scatter", seed) / "train.jsonl"),
            "eval.sets.heldout.path": str(default_folder("scatter", seed) / "heldout.jsonl"),
        },
        needs=lambda _, seed: (Need(str(default_folder("scatter", seed)), ("pretrain", f"--seed={seed}")),),
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


def miniature(name: str) -> ConfigDict:
    """The config of all runs: configs/quickstart.py on one simulated device, which needs the fewest CPU seconds."""
    config = experiment(
        name,
        "tiny",
        tiny={
            "steps": STEPS,
            "eval.every": 10,
            "checkpoint.every": 1000,
            "log.rollouts_every": 1000,
            "batch.microbatch_sequences": 32,
            "mesh.cpu_devices": 1,
        },
    )
    config.eval.sets.heldout.limit = 0
    return config


def adapters(rate: float) -> Arm:
    """Adapters of rank 8 with this learning rate."""
    return Arm({"model.lora.rank": 8, "optimizer.learning_rate": rate})
