"""A pretrained model on its own votes and on known answers, at a low and at a high learning rate.

SmolLM2-135M-Instruct adds two numbers from 1 to 20, with the config of examples/real_model: 16 prompts a step, 4
samples of each. None of the 64 held-out sums is trained on. The study expects that votes help at the low rate and ruin
the model at the high rate, at which known answers help. Runs with seed 100, which is not reported, chose the prompt,
the problems, the size of a step and the high rate. The thresholds were committed before the runs.

The first version of this study had 6 steps, the seeds 0 and 1, and a high rate of 4e-5, at which known answers ruined
one of two runs (docs/results.md). Its claims and thresholds are the same, but were about step 6. So not all runs are
fresh tests. In `votes`, the seeds 0 and 1 repeat runs whose first six steps were known; only seed 2 is fresh. In the
other two arms all runs are new, but their rate was lowered after the seeds 0 and 1 had been seen at 4e-5.

The guard of the arm `votes_high` sees no answers and only reports.
"""

import pathlib
import subprocess
import sys

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples/real_model"
sys.path.insert(0, str(EXAMPLE))  # real_config.py, and additions.py, which it names

import real_config  # noqa: E402

from srt_jax.study import Arm, Claim, Need, Study  # noqa: E402

STEPS = 12
HIGH = {"optimizer.learning_rate": real_config.HIGH_RATE}
TRUTH = {"labels.source": "ground_truth"}


def get_study(quick: bool) -> Study:
    """3 seeds. quick: one seed, which decides no claim."""
    config, guarded = (real_config.get_config(labels) for labels in ("votes", "guard"))
    for one in (config, guarded):
        one.steps, one.eval.every, one.checkpoint.every, one.log.rollouts_every = STEPS, 2, 1000, 1000
    return Study(
        name="real_model",
        config=config,
        arms={
            "votes": Arm(),
            "votes_high": Arm(HIGH | {"guard.action": "warn"}, config=guarded),
            "ground_truth_high": Arm(HIGH | TRUTH),
        },
        seeds=range(1 if quick else 3),
        column=f"eval/heldout/avg@{config.eval.samples}",
        needs=lambda *_: (Need(real_config.MODEL, get_model),),
        claims=(
            claim("votes rise", "votes at the low rate raise the accuracy", "votes"),
            claim("votes collapse", "at the high rate they end below the start", "votes_high", sign=-1),
            claim("pseudo-reward", "while the pseudo-reward rises", "votes_high", "label/pseudo_reward"),
            claim("ground truth rises", "known answers raise the accuracy at this rate", "ground_truth_high"),
            claim("labels decide", "and end above the votes", "ground_truth_high", against="votes_high", threshold=0.1),
        ),
    )


def claim(name: str, sentence: str, arm: str, column: str = "", threshold: float = 0.05, **fields) -> Claim:
    """A claim about the last step of an arm, compared with its start or with another arm. column: "" for accuracy."""
    return Claim(name, sentence, arm, column=column, step=STEPS, threshold=threshold, **fields)


def get_model(folder: pathlib.Path) -> None:
    """Writes the model."""
    subprocess.run([sys.executable, EXAMPLE / "get_model.py", folder], check=True)
