"""A pretrained model on its own votes: it rises, and collapses at four times the learning rate, unlike with answers.

SmolLM2-135M-Instruct adds numbers of one or two digits in 20 steps of 8 prompts x 8 samples. The training problems and
the 64 held-out ones are disjoint. Learning rates and thresholds were chosen with one run at another seed.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # real_config.py, and additions.py, which it names

import real_config

from srt_jax.study import Arm, Claim, Study


def get_study(quick: bool) -> Study:
    """2 seeds. quick: one seed."""
    config = real_config.get_config("votes")
    config.log.rollouts_every, config.checkpoint.every = 1000, 1000
    return Study(
        name="real_model",
        config=config,
        arms={
            "votes": Arm(),
            "votes_2e-5": Arm({"optimizer.learning_rate": 2e-5}),
            "ground_truth": Arm({"labels.source": "ground_truth"}),
            "ground_truth_2e-5": Arm({"labels.source": "ground_truth", "optimizer.learning_rate": 2e-5}),
        },
        seeds=range(1 if quick else 2),
        column=f"eval/heldout/avg@{config.eval.samples}",
        claims=(
            Claim("votes gain", "votes raise the accuracy", "votes", step=10, threshold=0.1),
            Claim("answers gain", "ground truth raises the accuracy", "ground_truth", step=10, threshold=0.1),
        ),
    )
