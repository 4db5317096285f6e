"""The effect of a wrong consensus: three sources of labels on the base `rival`.

Half of the problems of `rival` carry in the last addition. On these problems a wrong answer, which is 10 too small,
competes with the right one. For three of four last digits it is more frequent, and the vote is wrong. The arms differ
only in the labels: the policy's own votes, the known answers, or 64 votes of the frozen base. Run s uses base s.
"""

from srt_jax.experiments import experiment
from srt_jax.miniature.bases import TRAIN
from srt_jax.miniature.pretrain import default_folder
from srt_jax.study import Arm, Claim, Need, Study

VOTES = 64  # votes of the frozen teacher on each problem


def get_study(quick: bool) -> Study:
    """150 steps and 5 seeds. quick: 60 steps, 3 seeds, 512 training problems, fewer samples in evaluations."""
    config = experiment(
        "rival",
        "tiny",
        tiny={
            "steps": 60 if quick else 150,
            "batch.samples_per_prompt": 16,
            "rl.kl_coef": 0.0,
            "eval.every": 4 if quick else 5,
            "eval.samples": 8 if quick else 16,
            "checkpoint.every": 1000,
            "log.rollouts_every": 1000,
        },
    )
    config.eval.sets.heldout.limit = 0
    problems = 512 if quick else 0

    def base(seed):
        return str(default_folder("rival", seed))

    def labels(seed):
        return f"runs/studies/rival/labels-{problems or 'all'}-seed{seed}.jsonl"

    def of_run(_, seed):
        return {
            "model.path": base(seed),
            "data.path": f"{base(seed)}/train.jsonl",
            "data.limit": problems,
            "eval.sets.heldout.path": f"{base(seed)}/heldout.jsonl",
        }

    def teacher(_, seed):
        fields = (
            f"--config.{name}={value}" for name, value in of_run(_, seed).items() if name.startswith(("model", "data"))
        )
        job = ("label", "--config=srt.py:tiny", *fields, f"--samples={VOTES}", f"--out={labels(seed)}")
        return (Need(labels(seed), job),)

    return Study(
        name="rival",
        config=config,
        arms={
            "votes": Arm(),
            "ground_truth": Arm({"labels.source": "ground_truth"}),
            "frozen_teacher": Arm(
                {"labels.source": "file"},
                lambda _, seed: {"labels.path": labels(seed)},
                teacher,
                teacher_samples=VOTES,
                teacher_problems=problems or TRAIN,
            ),
        },
        seeds=range(3 if quick else 5),
        column=f"eval/heldout/avg@{config.eval.samples}",
        by_run=of_run,
        needs=lambda _, seed: (Need(base(seed), ("pretrain", "--base=rival", f"--seed={seed}")),),
        claims=(
            Claim(
                "votes rise",
                "self-training on votes raises the accuracy at first",
                "votes",
                measure="peak",
                threshold=0.1,
            ),
            Claim(
                "votes stay below the truth",
                "ground truth ends well above votes",
                "ground_truth",
                "votes",
                threshold=0.1,
            ),
            Claim(
                "votes fall", "prolonged self-training loses part of the gain", "votes", measure="drop", threshold=0.02
            ),
            Claim(
                "ground truth does not fall",
                "ground truth keeps its gain",
                "ground_truth",
                measure="drop",
                sign=-1,
                threshold=-0.02,
            ),
            Claim(
                "the frozen teacher ends above votes",
                "labels of the frozen base do not drift with the policy",
                "frozen_teacher",
                "votes",
                threshold=0.02,
            ),
            Claim(
                "the frozen teacher stays below the truth",
                "labels of the frozen base keep its errors",
                "ground_truth",
                "frozen_teacher",
                threshold=0.1,
            ),
        ),
    )
