"""A pretrained model on its own votes: it rises, and at 16 times the learning rate it collapses.

SmolLM2-135M-Instruct adds numbers of one or two digits, as in examples/real_model. A step has 4 prompts and 8 samples
of each. The 32 held-out problems are not among the 1,024 training problems. The lower learning rate comes from an
earlier run. At four times that rate one run of four steps (seed 100) did not collapse, so the higher rate is 16 times
the lower one. The thresholds were committed before the runs.

The guard sees no answers and only reports. It should choose a checkpoint whose accuracy is above that of the base.
"""

import pathlib
import subprocess
import sys

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples/real_model"
sys.path.insert(0, str(EXAMPLE))  # real_config.py, and additions.py, which it names

import real_config  # noqa: E402

from srt_jax.study import Arm, Claim, Need, Study  # noqa: E402

STEPS = 6
PROMPTS, HELDOUT = 4, 32  # half of the example's, for two busy cores
HIGH = {"optimizer.learning_rate": 8e-5}  # 16 times real_config.RATE
TRUTH = {"labels.source": "ground_truth"}


def get_study(quick: bool) -> Study:
    """2 seeds. quick: one seed, which decides no claim."""
    config, guarded = (real_config.get_config(labels) for labels in ("votes", "guard"))
    guarded.guard.action, guarded.guard.votes = "warn", 8
    for one in (config, guarded):
        one.steps, one.checkpoint.every, one.log.rollouts_every = STEPS, 1000, 1000
        one.batch.prompts_per_step = one.rollout.prompts_per_call = PROMPTS
        one.eval.sets.heldout.limit = HELDOUT
    return Study(
        name="real_model",
        config=config,
        arms={
            "votes": Arm(),
            "votes_8e-5": Arm(HIGH, config=guarded),
            "ground_truth_8e-5": Arm(HIGH | TRUTH),
        },
        seeds=range(1 if quick else 2),
        column=f"eval/heldout/avg@{config.eval.samples}",
        needs=lambda *_: (Need(real_config.MODEL, get_model),),
        claims=(
            claim("votes rise", "votes raise the accuracy", "votes"),
            claim("votes collapse", "at 16 times the rate they lower it", "votes_8e-5", sign=-1),
            claim("pseudo-reward", "while the pseudo-reward rises", "votes_8e-5", "label/pseudo_reward"),
            claim("one answer", "and prompts get the same answer", "votes_8e-5", "label/same_answer", threshold=0.3),
            claim("ground truth rises", "ground truth raises it at this rate, too", "ground_truth_8e-5"),
        ),
    )


def claim(name: str, sentence: str, arm: str, column: str = "", threshold: float = 0.05, sign: int = 1) -> Claim:
    """A claim about the change of an arm between its start and the last step. column: "" for the accuracy."""
    return Claim(name, sentence, arm, column=column, step=STEPS, threshold=threshold, sign=sign)


def get_model(folder: pathlib.Path) -> None:
    """Writes the model."""
    subprocess.run([sys.executable, EXAMPLE / "get_model.py", folder], check=True)
