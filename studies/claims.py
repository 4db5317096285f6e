"""Claims of the papers about self-training, as effects with thresholds that were written before any run.

The settings are the three bases of docs/laboratory.md: `scatter`, on which votes are right; `rival`, on which a third
of the votes is wrong; and `attractor` at four times the learning rate, on which a collapse can end in one answer. Run s
uses base s. Claims whose names begin with the same letter belong together.
"""

from srt_jax.experiments import experiment
from srt_jax.miniature.bases import TRAIN
from srt_jax.miniature.pretrain import default_folder
from srt_jax.study import Arm, Claim, Need, Study

VOTES = 64  # votes of the frozen teacher on each problem
EASY = 1 / 3  # share of the problems in the arm easiest_third, those with the highest vote shares
FEW = 32  # number of problems in the arm few_prompts
SETTINGS = {"scatter": {}, "rival": {}, "attractor": {"optimizer.learning_rate": 8e-4}}


def get_study(quick: bool) -> Study:
    """150 steps and 5 seeds. quick: 60 steps, 3 seeds, fewer samples in evaluations."""
    config = experiment(
        "claims",
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
    k = config.eval.samples
    return Study(
        name="claims",
        config=config,
        arms={
            "votes": Arm(),
            "ground_truth": Arm({"labels.source": "ground_truth"}),
            "grpo": Arm({"rl.advantage": "grpo"}, settings=("scatter",)),
            "frozen_teacher": Arm(
                {"labels.source": "file"},
                lambda base, seed: {"labels.path": labels(base, seed)},
                lambda base, seed: (need_labels(base, seed),),
                VOTES,
                TRAIN,
                ("rival",),
            ),
            "easiest_third": Arm(
                {},
                lambda base, seed: {"data.path": easy(base, seed)},
                lambda base, seed: (need_labels(base, seed), need_easy(base, seed)),
                VOTES,
                TRAIN,
                ("attractor",),
            ),
            "entropy_bonus": Arm({"rl.entropy_coef": 0.01}, settings=("attractor",)),
            "few_prompts": Arm({"data.limit": FEW}, settings=("attractor",)),
        },
        seeds=range(3 if quick else 5),
        column=f"eval/heldout/avg@{k}",
        settings=SETTINGS,
        by_run=of_run,
        needs=lambda base, seed: (Need(folder(base, seed), ("pretrain", f"--base={base}", f"--seed={seed}")),),
        claims=claims(k),
    )


def claims(k: int) -> tuple[Claim, ...]:
    """The claims. k: the number of samples per problem in an evaluation."""
    maj = f"eval/heldout/maj@{k}"
    scatter, rival, attractor = ({"setting": name} for name in SETTINGS)
    votes, truth, teacher = "votes", "ground_truth", "frozen_teacher"
    return (
        Claim("a votes", "votes raise the accuracy at first", votes, step=20, threshold=0.05, **scatter),
        Claim("a ground truth", "ground truth raises the accuracy, too", truth, step=20, threshold=0.05, **scatter),
        Claim("b", "the majority gets better at first", votes, column=maj, measure="peak", **rival),
        Claim(
            "c pseudo-reward",
            "prolonged self-reward raises the pseudo-reward",
            votes,
            column="label/pseudo_reward",
            threshold=0.1,
            **attractor,
        ),
        Claim("c truth", "and lowers the accuracy", votes, sign=-1, threshold=0.05, **attractor),
        Claim("c one answer", "and ends in one answer", votes, column="label/same_answer", threshold=0.3, **attractor),
        Claim("d", "ground truth does not lower the accuracy", truth, threshold=-0.05, **attractor),
        Claim(
            "e stable",
            "accuracy does not fall with a frozen teacher",
            teacher,
            measure="drop",
            sign=-1,
            threshold=-0.03,
            **rival,
        ),
        Claim("e flat", "and its peak is below that of votes", teacher, votes, measure="peak", sign=-1, **rival),
        Claim("f", "the easiest third collapses later", "easiest_third", votes, measure="survived", **attractor),
        Claim("j above", "GRPO does not end below RLOO", "grpo", votes, threshold=-0.05, **scatter),
        Claim("j below", "GRPO does not end above RLOO", "grpo", votes, sign=-1, threshold=-0.05, **scatter),
        Claim(
            "l",
            "an entropy bonus brings the collapse earlier",
            "entropy_bonus",
            votes,
            measure="survived",
            sign=-1,
            **attractor,
        ),
        Claim("n", "few prompts collapse later", "few_prompts", votes, measure="survived", **attractor),
    )


def folder(base: str, seed: int) -> str:
    """The folder of the base model."""
    return str(default_folder(base, seed))


def of_run(base: str, seed: int) -> dict:
    """The config fields that name the base model and its problems."""
    return {
        "model.path": folder(base, seed),
        "data.path": f"{folder(base, seed)}/train.jsonl",
        "eval.sets.heldout.path": f"{folder(base, seed)}/heldout.jsonl",
    }


def labels(base: str, seed: int) -> str:
    """The file with the frozen base's votes on all training problems."""
    return f"runs/studies/claims/labels-{base}-seed{seed}.jsonl"


def easy(base: str, seed: int) -> str:
    """The file with the third of the problems that have the highest vote shares."""
    return f"runs/studies/claims/easy-{base}-seed{seed}.jsonl"


def need_labels(base: str, seed: int) -> Need:
    """The file `labels` and the job that writes it."""
    job = ("label", *of_job(base, seed), f"--samples={VOTES}", f"--out={labels(base, seed)}")
    return Need(labels(base, seed), job)


def need_easy(base: str, seed: int) -> Need:
    """The file `easy` and the job that writes it."""
    chosen = ("--by=vote_share", f"--fraction={EASY}", f"--labels={labels(base, seed)}", f"--out={easy(base, seed)}")
    return Need(easy(base, seed), ("subset", *of_job(base, seed), *chosen))


def of_job(base: str, seed: int) -> tuple[str, ...]:
    """The arguments that give a job the base and its training problems."""
    fields = {name: value for name, value in of_run(base, seed).items() if not name.startswith("eval.")}
    return ("--config=srt.py:tiny", *(f"--config.{name}={value}" for name, value in fields.items()))
