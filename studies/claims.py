"""Claims of the papers about self-training, as effects with thresholds that were written before any reported run.

The settings are the three bases of docs/laboratory.md: `scatter`, on which votes are right; `rival`, on which a third
of the votes is wrong; and `attractor` at a higher learning rate, on which a collapse ends in one answer. Run s uses
base s. The learning rate of `attractor` was chosen with runs of base 0 at the seeds 1000 to 1002, so base 0 has no run
here. Claims whose names begin with the same letter belong together.
"""

import json
import pathlib

import numpy as np

from srt_jax.experiments import experiment
from srt_jax.files import write_file, write_jsonl
from srt_jax.miniature import bases, task
from srt_jax.miniature.bases import BASES, TRAIN
from srt_jax.miniature.pretrain import default_folder
from srt_jax.study import Arm, Claim, Need, Study

VOTES, QUICK_VOTES = 64, 16  # votes of the frozen teacher on each problem
EASY = 1 / 3  # share of the problems in the arm easiest_third, those with the highest vote shares
FEW = 32  # number of problems in the arm few_prompts
LABELLED = TRAIN // 100  # number of training problems whose answers choose a stopping step: 1%
TEST_TIME = 30  # number of held-out problems that the arm test_time trains on
TEMPERATURES = (0.0, 0.3, 0.6)  # at which the untrained base is evaluated, for SePT's comparison
SEPT = {
    "labels.source": "none",
    "rl.objective": "cross_entropy",
    "rl.advantage": "reinforce",
    "rl.temperature": 1.0,
    "rollout.temperature": 0.6,
    "optimizer.learning_rate": 6e-5,  # as in configs/sept.py:tiny
}
OFFLINE = {  # the base answers each problem once, and three epochs follow
    "steps": 1,
    "eval.every": 1,
    "batch.prompts_per_step": TRAIN,
    "batch.samples_per_prompt": 1,
    "batch.minibatches_per_step": TRAIN // 64,
    "batch.epochs_per_step": 3,
    "rollout.prompts_per_call": 128,
}
LEVELS = tuple({"name": f"level_{n}", "data": {"levels": (str(n),)}} for n in (3, 4, 5))  # numbers of terms
LEVEL_FILE = "runs/studies/claims/level_5.jsonl"
K = 8  # samples of each problem in an evaluation
AVG, MAJ = f"eval/heldout/avg@{K}", f"eval/heldout/maj@{K}"
RATE = 1.2e-3  # learning rate on `attractor`
SCATTER, RIVAL, ATTRACTOR = "scatter", "rival", "attractor"


def get_study(quick: bool) -> Study:
    """150 steps and 5 seeds. quick: 60 steps, 3 seeds, fewer votes."""
    steps, votes = (60, QUICK_VOTES) if quick else (150, VOTES)
    config = experiment(
        "claims",
        "tiny",
        tiny={
            "steps": steps,
            "batch.samples_per_prompt": 16,
            "rl.kl_coef": 0.0,
            "eval.every": 4 if quick else 5,
            "eval.samples": K,
            "checkpoint.every": 1000,
            "log.rollouts_every": 1000,
            "batch.microbatch_sequences": 32,
            "mesh.cpu_devices": 1,  # one core per process: two shards use two cores better than one process
        },
    )
    config.eval.sets.heldout.limit = 0
    sept = SEPT | {"rollout.temperature_end": 1.0, "rollout.temperature_steps": steps * 2 // 3}
    untrained = {"steps": 1, "eval.every": 1, "optimizer.learning_rate": 1e-12}
    return Study(
        name="claims",
        config=config,
        arms={
            "votes": Arm(by_run=more_sets, needs=need_more_sets),
            "ground_truth": Arm({"labels.source": "ground_truth"}),
            "grpo": Arm({"rl.advantage": "grpo"}, settings=(SCATTER,)),
            "frozen_teacher": Arm(
                {"labels.source": "file"},
                lambda base, seed: {"labels.path": labels(base, seed, votes)},
                lambda base, seed: (need_labels(base, seed, votes),),
                votes,
                TRAIN,
                (RIVAL,),
            ),
            "easiest_third": Arm(
                {},
                lambda base, seed: {"data.path": easy(base, seed, votes)},
                lambda base, seed: (need_labels(base, seed, votes), need_easy(base, seed, votes)),
                votes,
                TRAIN,
                (ATTRACTOR,),
            ),
            "entropy_bonus": Arm({"rl.entropy_coef": 0.01}, settings=(ATTRACTOR,)),
            "few_prompts": Arm({"data.limit": FEW}, settings=(ATTRACTOR,)),
            "test_time": Arm(
                {"data.limit": TEST_TIME, "eval.sets.heldout.limit": TEST_TIME},
                lambda base, seed: {"data.path": f"{folder(base, seed)}/heldout.jsonl"},
                settings=(SCATTER,),
            ),
            "climb": Arm(
                {"steps": steps // len(LEVELS), "levels": LEVELS},
                lambda base, seed: {"eval.sets.level_5.path": LEVEL_FILE},
                lambda base, seed: (Need(LEVEL_FILE, write_last_level),),
                settings=(SCATTER,),
            ),
            "sept": Arm(sept, settings=(SCATTER,)),
            "sept_offline": Arm(SEPT | OFFLINE, settings=(SCATTER,)),
            "sept_equal": Arm(SEPT | {"rl.temperature": 0.0, "rollout.temperature": 1.0}, settings=(SCATTER,)),
            **{
                f"base_{temperature:g}": Arm(untrained | {"eval.temperature": temperature}, settings=(SCATTER,))
                for temperature in TEMPERATURES
            },
        },
        seeds=range(1, 4 if quick else 6),
        column=AVG,
        settings={
            RIVAL: {},
            ATTRACTOR: {"optimizer.learning_rate": RATE},
            SCATTER: {},
        },
        by_run=of_run,
        needs=lambda base, seed: (need_base(base, seed),),
        claims=(*of_votes(), *of_collapse(quick), *of_variants()),
    )


def of_votes() -> tuple[Claim, ...]:
    """Claims about votes while they are mostly right, and about a wrong consensus."""
    votes, truth, teacher = "votes", "ground_truth", "frozen_teacher"
    scatter, rival = {"setting": SCATTER}, {"setting": RIVAL}
    types = [f"eval/{name}/avg@{K}" for name in ("right_leads", "rival_leads")]
    return (
        Claim("a votes", "votes raise the accuracy at first", votes, step=20, threshold=0.05, **scatter),
        Claim("a ground truth", "ground truth raises the accuracy, too", truth, step=20, threshold=0.05, **scatter),
        Claim("b", "the majority gets better at first", votes, column=MAJ, measure="peak", **rival),
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
        Claim("m right", "votes rise where right answers lead", votes, column=types[0], threshold=0.1, **rival),
        Claim("m rival", "and fall where rivals lead", votes, column=types[1], sign=-1, threshold=0.05, **rival),
    )


def of_collapse(quick: bool) -> tuple[Claim, ...]:
    """Claims about the collapse into one answer, all on the base `attractor`.

    quick: in its 60 steps the accuracy falls, but the answers do not become one yet, so this claim is left out.
    """
    votes, own = "votes", {"setting": ATTRACTOR}
    one = Claim("c one answer", "and ends in one answer", votes, column="label/same_answer", threshold=0.3, **own)
    return (
        Claim(
            "c pseudo-reward",
            "prolonged self-reward raises the pseudo-reward",
            votes,
            column="label/pseudo_reward",
            threshold=0.1,
            **own,
        ),
        Claim("c truth", "and lowers the accuracy", votes, sign=-1, threshold=0.05, **own),
        *([] if quick else [one]),
        Claim("d", "ground truth does not lower the accuracy", "ground_truth", threshold=-0.05, **own),
        Claim("f", "the easiest third collapses later", "easiest_third", votes, measure="survived", **own),
        Claim(
            "g held-out",
            "the peak of another held-out set is nearly the best step to stop",
            votes,
            chosen_by=f"eval/second/avg@{K}",
            sign=-1,
            threshold=-0.03,
            **own,
        ),
        Claim(
            "g labels",
            "1% of the labels finds that step, too",
            votes,
            chosen_by=f"eval/labelled/avg@{K}",
            sign=-1,
            threshold=-0.05,
            **own,
        ),
        Claim(
            "l",
            "an entropy bonus brings the collapse earlier",
            "entropy_bonus",
            votes,
            measure="survived",
            sign=-1,
            **own,
        ),
        Claim("n", "few prompts collapse later", "few_prompts", votes, measure="survived", **own),
    )


def of_variants() -> tuple[Claim, ...]:
    """Claims about other estimators, test-time training, levels and SePT, all on the base `scatter`."""
    own, time = {"setting": SCATTER}, {"setting": SCATTER, "column": MAJ}
    return (
        Claim("h lifts", "test-time training lifts the majority", "test_time", threshold=0.03, **time),
        Claim(
            "h stable", "and does not collapse", "test_time", measure="drop", sign=-1, threshold=-0.03, setting=SCATTER
        ),
        Claim("i all", "levels are climbed without labels", "climb", threshold=0.1, **own),
        Claim(
            "i last",
            "up to the last level",
            "climb",
            column=f"eval/level_5/avg@{K}",
            threshold=0.1,
            setting=SCATTER,
        ),
        Claim("j above", "GRPO does not end below RLOO", "grpo", "votes", threshold=-0.05, **own),
        Claim("j below", "GRPO does not end above RLOO", "grpo", "votes", sign=-1, threshold=-0.05, **own),
        *(
            Claim(
                f"k1 {temperature:g}",
                f"SePT ends above the base at temperature {temperature:g}",
                "sept",
                f"base_{temperature:g}",
                **own,
            )
            for temperature in TEMPERATURES
        ),
        Claim(
            "k2",
            "offline samples do not lift the accuracy above the base's at temperature 0",
            "sept_offline",
            "base_0",
            step=1,
            sign=-1,
            threshold=-0.02,
            setting=SCATTER,
        ),
        Claim("k3 above", "equal temperatures do not lower the accuracy", "sept_equal", threshold=-0.05, **own),
        Claim("k3 below", "and do not raise it", "sept_equal", sign=-1, threshold=-0.05, **own),
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


def more_sets(base: str, seed: int) -> dict:
    """The additional evaluation sets of the arm `votes`.

    rival: the held-out problems on which right answers or rivals lead by design. attractor: the held-out problems of
    the base `rival`, and the first 1% of the training problems.
    """
    if base == RIVAL:
        return {f"eval.sets.{name}.path": types(name) for name in ("right_leads", "rival_leads")}
    if base == ATTRACTOR:
        return {
            "eval.sets.second.path": "runs/studies/claims/second.jsonl",
            "eval.sets.labelled.path": f"{folder(base, seed)}/train.jsonl",
            "eval.sets.labelled.limit": LABELLED,
        }
    return {}


def need_more_sets(base: str, seed: int) -> tuple[Need, ...]:
    """The files of `more_sets` that no other job makes."""
    del seed
    return tuple(Need(path, write_problems) for path in more_sets(base, 0).values() if str(path).startswith("runs"))


def types(name: str) -> str:
    """The file with the held-out problems of `rival` of one type: right_leads or rival_leads."""
    return f"runs/studies/claims/{name}.jsonl"


def write_problems(path: pathlib.Path) -> None:
    """Writes the held-out problems of the base `rival`: all for second.jsonl, else those of the type in the name."""
    base = BASES[RIVAL]
    sums = bases.problem_sets(base)[0]
    rows = map(json.loads, bases.problem_files(base)["heldout.jsonl"].splitlines())
    chosen = [row for row, terms in zip(rows, sums) if path.stem in ("second", leads(base, terms))]
    write_jsonl(path, chosen)


def write_last_level(path: pathlib.Path) -> None:
    """Writes 128 sums of five terms that are in no other problem set of the base `scatter`."""
    known = {tuple(terms) for sums in bases.problem_sets(BASES[SCATTER]) for terms in sums}
    rng, chosen = np.random.Generator(np.random.Philox(1)), {}
    while len(chosen) < bases.HELDOUT:
        terms = tuple(task.random_terms(rng))
        if len(terms) == 5 and terms not in known:
            chosen[terms] = None
    write_file(path, task.jsonl(list(chosen)))


def leads(base: bases.Base, terms: list[int]) -> str:
    """right_leads or rival_leads: the answer that is more frequent by design."""
    design, rival = bases.answer_distribution(base, terms), bases.rival_of(base, terms)
    return "rival_leads" if rival is not None and design[rival] > design[sum(terms)] else "right_leads"


def labels(base: str, seed: int, votes: int) -> str:
    """The file with the frozen base's votes on all training problems."""
    return f"runs/studies/claims/labels-{votes}-{base}-seed{seed}.jsonl"


def easy(base: str, seed: int, votes: int) -> str:
    """The file with the third of the problems that have the highest vote shares."""
    return f"runs/studies/claims/easy-{votes}-{base}-seed{seed}.jsonl"


def need_base(base: str, seed: int) -> Need:
    """The base model."""
    return Need(folder(base, seed), ("pretrain", f"--base={base}", f"--seed={seed}"))


def need_labels(base: str, seed: int, votes: int) -> Need:
    """The file `labels` and the job that writes it."""
    out = labels(base, seed, votes)
    return Need(out, ("label", *of_job(base, seed), f"--samples={votes}", f"--out={out}"))


def need_easy(base: str, seed: int, votes: int) -> Need:
    """The file `easy` and the job that writes it."""
    out, read = easy(base, seed, votes), labels(base, seed, votes)
    job = ("subset", *of_job(base, seed), "--by=vote_share", f"--fraction={EASY}", f"--labels={read}", f"--out={out}")
    return Need(out, job)


def of_job(base: str, seed: int) -> tuple[str, ...]:
    """The arguments that give a job the base and its training problems."""
    fields = {name: value for name, value in of_run(base, seed).items() if not name.startswith("eval.")}
    return ("--config=srt.py:tiny", *(f"--config.{name}={value}" for name, value in fields.items()))
