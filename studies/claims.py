"""Claims of the papers about self-training, as effects with thresholds that were written before any reported run.

The settings are the three bases of docs/laboratory.md: `scatter`, on which votes are right; `rival`, on which a third
of the votes is wrong; and `attractor` at a higher learning rate, on which a collapse ends in one answer. `prolonged` is
`attractor` with more steps, since the answers become one long after the accuracy has fallen. Run s uses base s. The
runs of the bases 0 to 3 served to choose the settings and the measures, so the whole study has the seeds 4 to 8. The
quick version has the seeds 1 to 3: it shows the study and is no test of the claims. Claims whose names begin with the
same letter belong together.
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

VOTES, QUICK_VOTES = 32, 16  # votes of the frozen teacher on each problem
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
LAST_LEVEL, OTHER = "runs/studies/claims/level_5.jsonl", "runs/studies/claims/other.jsonl"  # new problems
HIGH_RATE = {"optimizer.learning_rate": 1.2e-3}  # on `attractor`
SCATTER, RIVAL, ATTRACTOR, PROLONGED = "scatter", "rival", "attractor", "prolonged"
STEPS = {PROLONGED: 250, ATTRACTOR: 120, RIVAL: 100, SCATTER: 60}
QUICK_STEPS = {ATTRACTOR: 60, RIVAL: 40, SCATTER: 36}


def get_study(quick: bool) -> Study:
    """STEPS, 5 seeds, 8 samples of each evaluated problem. quick: QUICK_STEPS, 3 seeds, 4 samples, half the prompts."""
    steps, votes, k = (QUICK_STEPS, QUICK_VOTES, 4) if quick else (STEPS, VOTES, 8)
    collapse = ATTRACTOR if quick else PROLONGED  # the setting of the claims c and d
    config = experiment(
        "claims",
        "tiny",
        tiny={
            "batch.prompts_per_step": 8 if quick else 16,
            "batch.samples_per_prompt": 16,
            "rl.kl_coef": 0.0,
            "eval.every": 4 if quick else 5,
            "eval.samples": k,
            "checkpoint.every": 1000,
            "log.rollouts_every": 1000,
            "batch.microbatch_sequences": 32,
            "mesh.cpu_devices": 1,  # one core per process: two shards use two cores better than one process
        },
    )
    config.eval.sets.heldout.limit = 0
    sept = SEPT | {"rollout.temperature_end": 1.0, "rollout.temperature_steps": steps[RIVAL] * 2 // 3}
    untrained = {"steps": 1, "eval.every": 1, "optimizer.learning_rate": 1e-12}
    return Study(
        name="claims",
        config=config,
        arms={
            "votes": Arm(by_run=more_sets, needs=need_more_sets),
            "ground_truth": Arm({"labels.source": "ground_truth"}, settings=(collapse, RIVAL, SCATTER)),
            "grpo": Arm({"rl.advantage": "grpo"}, settings=(SCATTER,)),
            "frozen_teacher": Arm(
                {"labels.source": "file"},
                lambda base, seed: {"labels.path": labels(base, seed, votes)},
                lambda base, seed: (need_labels(base, seed, votes),),
                votes,
                TRAIN,
                (RIVAL,),
            ),
            **({} if quick else {"ema_teacher": Arm({"labels.source": "ema"}, settings=(RIVAL,))}),
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
                {"steps": steps[SCATTER] // len(LEVELS), "levels": LEVELS},
                lambda base, seed: {"eval.sets.level_5.path": LAST_LEVEL},
                lambda base, seed: (Need(LAST_LEVEL, write_new_problems),),
                settings=(SCATTER,),
            ),
            "sept": Arm(sept, settings=(RIVAL,)),
            "sept_offline": Arm(SEPT | OFFLINE, settings=(RIVAL,)),
            "sept_equal": Arm(SEPT | {"rl.temperature": 0.0, "rollout.temperature": 1.0}, settings=(RIVAL,)),
            **{
                f"base_{temperature:g}": Arm(untrained | {"eval.temperature": temperature}, settings=(RIVAL,))
                for temperature in TEMPERATURES
            },
        },
        seeds=range(1, 4) if quick else range(4, 9),
        column=avg(k),
        settings={
            name: {"steps": steps[name]} | (HIGH_RATE if name in (ATTRACTOR, PROLONGED) else {}) for name in steps
        },
        by_run=of_run,
        needs=lambda base, seed: (need_base(base, seed),),
        claims=(*of_votes(k), *of_collapse(k, collapse), *of_variants(k), *([] if quick else of_teachers())),
    )


def avg(k: int, eval_set: str = "heldout") -> str:
    """The column with the accuracy of single samples."""
    return f"eval/{eval_set}/avg@{k}"


def maj(k: int) -> str:
    """The column with the accuracy of the majority of k samples of each held-out problem."""
    return f"eval/heldout/maj@{k}"


def of_votes(k: int) -> tuple[Claim, ...]:
    """Claims about votes while they are mostly right, and about a wrong consensus.

    k: samples of a problem in an evaluation.
    """
    votes, truth, teacher = "votes", "ground_truth", "frozen_teacher"
    first = {"step": 20, "threshold": 0.05}
    scatter, rival = {"setting": SCATTER}, {"setting": RIVAL}
    right, rivals = (avg(k, name) for name in ("right_leads", "rival_leads"))
    return (
        Claim("a votes", "votes raise the accuracy at first", votes, **first, **scatter),
        Claim("a ground truth", "ground truth raises the accuracy, too", truth, **first, **scatter),
        Claim("b majority", "the majority gets better at first", votes, column=maj(k), **first, **scatter),
        Claim("b labels", "the labels get better", votes, column="label/label_accuracy", **scatter),
        Claim("b rival", "the majority gets better at first on `rival`, too", votes, column=maj(k), **first, **rival),
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
        Claim("m right", "votes rise where right answers lead", votes, column=right, threshold=0.1, **rival),
        Claim("m rival", "and fall where rivals lead", votes, column=rivals, sign=-1, threshold=0.05, **rival),
    )


def of_teachers() -> tuple[Claim, ...]:
    """Claims that four sources of labels give four curves on `rival`.

    A simulation of a tabular policy expected these accuracies at step 50: ground truth 0.93, the frozen teacher 0.66,
    the EMA teacher 0.63, votes 0.56.
    """
    at = {"step": 50, "setting": RIVAL}
    truth, frozen, ema, votes = "ground_truth", "frozen_teacher", "ema_teacher", "votes"
    return (
        Claim("o truth", "at step 50 ground truth is above the frozen teacher", truth, frozen, threshold=0.05, **at),
        Claim("o frozen", "the frozen teacher is above the EMA teacher", frozen, ema, **at),
        Claim("o ema", "and the EMA teacher is above votes", ema, votes, **at),
    )


def of_collapse(k: int, longest: str) -> tuple[Claim, ...]:
    """Claims about the collapse into one answer, all on the base `attractor`.

    k: as for `of_votes`. longest: the setting with the most steps, PROLONGED or ATTRACTOR. Without PROLONGED the
    answers do not become one, so this claim is left out.
    """
    votes, own, end = "votes", {"setting": ATTRACTOR}, {"setting": longest}
    stop = {"sign": -1, **own}
    one = Claim("c one answer", "and ends in one answer", votes, column="label/same_answer", threshold=0.3, **end)
    return (
        Claim(
            "c pseudo-reward",
            "prolonged self-reward raises the pseudo-reward",
            votes,
            column="label/pseudo_reward",
            threshold=0.1,
            **end,
        ),
        Claim("c truth", "and lowers the accuracy", votes, sign=-1, threshold=0.05, **end),
        *([one] if longest == PROLONGED else []),
        Claim("d", "ground truth does not lower the accuracy", "ground_truth", threshold=-0.05, **end),
        Claim("f", "the easiest third prevents the collapse", "easiest_third", threshold=-0.05, **own),
        Claim(
            "g held-out",
            "the peak of another held-out set is nearly the best step to stop",
            votes,
            chosen_by=avg(k, "other"),
            threshold=-0.03,
            **stop,
        ),
        Claim(
            "g labels",
            "1% of the labels finds that step, too",
            votes,
            chosen_by=avg(k, "labelled"),
            threshold=-0.05,
            **stop,
        ),
        Claim("l", "an entropy bonus brings the collapse earlier", "entropy_bonus", votes, measure="survived", **stop),
        Claim("n", "few prompts do not collapse", "few_prompts", threshold=-0.05, **own),
    )


def of_variants(k: int) -> tuple[Claim, ...]:
    """Claims about other estimators, test-time training and levels on `scatter`, and about SePT on `rival`.

    On `scatter` the base is always right at temperature 0, so SePT could not beat it. k: as for `of_votes`.
    """
    scatter, rival = {"setting": SCATTER}, {"setting": RIVAL}
    return (
        Claim(
            "h lifts", "test-time training lifts the majority", "test_time", column=maj(k), threshold=0.03, **scatter
        ),
        Claim("h stable", "and does not collapse", "test_time", measure="drop", sign=-1, threshold=-0.03, **scatter),
        Claim("i all", "levels are climbed without labels", "climb", threshold=0.1, **scatter),
        Claim("i last", "up to the last level", "climb", column=avg(k, "level_5"), threshold=0.1, **scatter),
        Claim("j above", "GRPO does not end below RLOO", "grpo", "votes", threshold=-0.05, **scatter),
        Claim("j below", "GRPO does not end above RLOO", "grpo", "votes", sign=-1, threshold=-0.05, **scatter),
        *(
            Claim(
                f"k1 {temperature:g}",
                f"SePT ends above the base at temperature {temperature:g}",
                "sept",
                f"base_{temperature:g}",
                **rival,
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
            **rival,
        ),
        Claim("k3 above", "equal temperatures do not lower the accuracy", "sept_equal", threshold=-0.05, **rival),
        Claim("k3 below", "and do not raise it", "sept_equal", sign=-1, threshold=-0.05, **rival),
    )


def folder(setting: str, seed: int) -> str:
    """The folder of the setting's base model."""
    return str(default_folder(base_of(setting), seed))


def base_of(setting: str) -> str:
    """The name of the setting's base."""
    return ATTRACTOR if setting == PROLONGED else setting


def of_run(base: str, seed: int) -> dict:
    """The config fields that name the base model and its problems."""
    return {
        "model.path": folder(base, seed),
        "data.path": f"{folder(base, seed)}/train.jsonl",
        "eval.sets.heldout.path": f"{folder(base, seed)}/heldout.jsonl",
    }


def more_sets(base: str, seed: int) -> dict:
    """The additional evaluation sets of the arm `votes`.

    rival: the held-out problems on which right answers or rivals lead by design. attractor: other held-out problems,
    and the first 1% of the training problems.
    """
    if base == RIVAL:
        return {f"eval.sets.{name}.path": types(name) for name in ("right_leads", "rival_leads")}
    if base == ATTRACTOR:
        return {
            "eval.sets.other.path": OTHER,
            "eval.sets.labelled.path": f"{folder(base, seed)}/train.jsonl",
            "eval.sets.labelled.limit": LABELLED,
        }
    return {}


def need_more_sets(base: str, seed: int) -> tuple[Need, ...]:
    """The files of `more_sets` that no other job makes."""
    del seed
    if base == RIVAL:
        return tuple(Need(types(name), write_type) for name in ("right_leads", "rival_leads"))
    return (Need(OTHER, write_new_problems),) if base == ATTRACTOR else ()


def types(name: str) -> str:
    """The file with the held-out problems of `rival` of one type: right_leads or rival_leads."""
    return f"runs/studies/claims/{name}.jsonl"


def write_type(path: pathlib.Path) -> None:
    """Writes the held-out problems of the base `rival` of the type in the file's name."""
    base = BASES[RIVAL]
    sums = bases.problem_sets(base)[0]
    rows = map(json.loads, bases.problem_files(base)["heldout.jsonl"].splitlines())
    write_jsonl(path, [row for row, terms in zip(rows, sums) if path.stem == leads(base, terms)])


def write_new_problems(path: pathlib.Path) -> None:
    """Writes 128 sums that are in no problem set of `scatter` or `attractor`. In LAST_LEVEL all have five terms."""
    known = {
        tuple(terms) for name in (SCATTER, ATTRACTOR) for sums in bases.problem_sets(BASES[name]) for terms in sums
    }
    rng, chosen = np.random.Generator(np.random.Philox(1)), {}
    while len(chosen) < bases.HELDOUT:
        terms = tuple(task.random_terms(rng))
        if terms not in known and (len(terms) == 5 or str(path) == OTHER):
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
    return Need(folder(base, seed), ("pretrain", f"--base={base_of(base)}", f"--seed={seed}"))


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
