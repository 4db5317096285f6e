"""Label-free methods on three bases at two learning rates: when they collapse, and what stops without labels cost.

Run s uses base s. Each run has a guard that only warns, so one run shows where each rule would have stopped it
(srt_jax/study/stops.py). The rule of the guard was chosen on simulated readings, and tried on runs of the bases 0
to 3. It is that of srt_jax/run/collapse.py at commit 5f0a24c, which this study does not change. The bars, which the
settings below repeat, were written before any run of this study:

- `collapses`: of at least 20 collapsed runs of at least 4 arms, whose T_c differ at least threefold, the checkpoint
  that the guard chooses has at least 95% of the peak, or of the start if that is higher, in at least 90% of the runs.
  The best fixed step, chosen in hindsight, reaches that in a share that is lower by at least 0.2. Otherwise the runs
  are too easy.
- `healthy`: of at least 20 runs that end within 0.05 of their peak, no stop at an alarm costs more than 0.03.

On `rival` and `mirror` only the known answers differ, so every decision without labels must be the same. There is no
bar for the regret over such a pair, because no rule can be right on both. Methods whose names end in _like lack a part
of their paper's (configs/label_free.py). `co_rewarding_i` and `restrain_offset_like` were added after runs of the other
arms, and so was `votes_late`, whose learning rate rises for 100 steps, because only four healthy runs rose after a
quarter of their steps; the bars and the rule stayed. Runs that label for each other (examples/peers), informative
prompts (batch.resample_rounds) and a threshold of votes alone have no arm. The KL coefficient is 0, and labels of the
frozen base have 32 votes each.
"""

import dataclasses
import pathlib
import runpy

from srt_jax.experiments import experiment, load
from srt_jax.miniature.bases import TRAIN
from srt_jax.miniature.pretrain import PARAPHRASES
from srt_jax.study import Arm, Bars, Need, Study

CLAIMS = runpy.run_path(str(pathlib.Path(__file__).with_name("claims.py")))
LABEL_FREE = load("label_free")
METHODS = {name: fields | LABEL_FREE.TINY.get(name, {}) for name, fields in LABEL_FREE.METHODS.items()}
BASES = ("attractor", "scatter", "rival")
RATES = {"high": 8e-4, "low": 2e-4}
LATE = ("attractor_low", "scatter_low")  # the settings of `votes_late`
MIRROR = "mirror_high"  # `rival_high` with the rivals as known answers
VOTES, QUICK_VOTES = 32, 16  # of the frozen base on each training problem


def get_study(quick: bool) -> Study:
    """120 steps on the bases 4 to 8. quick: 40 steps on the bases 1 and 2, six arms, half the prompts, one rate."""
    steps, votes, k = (40, QUICK_VOTES, 4) if quick else (120, VOTES, 8)
    config = experiment(
        "collapse",
        "tiny",
        tiny={
            "steps": steps,
            "batch.prompts_per_step": 8 if quick else 16,
            "batch.samples_per_prompt": 16,
            "rl.kl_coef": 0.0,
            "eval.every": 4 if quick else 5,
            "eval.samples": k,
            "eval.kl": True,
            "guard.action": "warn",
            "checkpoint.every": 1000,
            "checkpoint.keep": 1,
            "log.rollouts_every": 1000,
            "batch.microbatch_sequences": 32,
            "mesh.cpu_devices": 1,
        },
    )
    config.eval.sets.heldout.limit = 0
    settings = {
        f"{base}_{name}": {"optimizer.learning_rate": rate}
        for name, rate in RATES.items()
        for base in BASES
        if not quick or name == "high"
    } | {MIRROR: {"optimizer.learning_rate": RATES["high"]}}
    return Study(
        name="collapse",
        config=config,
        arms=get_arms(tuple(settings), votes, quick),
        seeds=range(1, 3) if quick else range(4, 9),
        column=CLAIMS["avg"](k),
        settings=settings,
        by_run=of_run,
        needs=lambda setting, seed: (CLAIMS["need_base"](base_of(setting), seed),),
        bars=Bars(
            kl="eval/heldout/kl",
            teacher="frozen_teacher",
            kept=0.95,
            share=0.9,
            margin=0.2,
            runs=20,
            arms=4,
            spread=3.0,
            cost=0.03,
            mirrors=(("rival_high", MIRROR),),
        ),
    )


def get_arms(settings: tuple[str, ...], votes: int, quick: bool) -> dict[str, Arm]:
    """The standard arms, then all other methods of configs/label_free.py. They run on `mirror` only if they are needed.

    votes: of the frozen base on each training problem. quick: only the standard arms.
    """
    plain = tuple(setting for setting in settings if setting != MIRROR)
    methods = {name: Arm(fields | {"rl.kl_coef": 0.0}, settings=plain) for name, fields in METHODS.items()}
    standard = {
        "votes": Arm(),
        "self_certainty": Arm(methods.pop("self_certainty").fields),
        "negative_entropy": Arm(methods.pop("negative_entropy").fields),
        "ground_truth": Arm({"labels.source": "ground_truth"}, settings=plain),
        "frozen_teacher": Arm(
            {"labels.source": "file"},
            lambda setting, seed: {"labels.path": CLAIMS["labels"](base_of(setting), seed, votes)},
            lambda setting, seed: (CLAIMS["need_labels"](base_of(setting), seed, votes),),
            votes,
            TRAIN,
        ),
        "co_rewarding_ii_like": methods.pop("co_rewarding_ii_like"),
    }
    methods["co_rewarding_i"] = dataclasses.replace(
        methods["co_rewarding_i"],
        by_run=lambda setting, seed: {"data.paraphrases": paraphrases(setting, seed)},
        needs=lambda setting, seed: (need_paraphrases(setting, seed),),
    )
    late = {"votes_late": Arm({"optimizer.warmup_steps": 100}, settings=LATE)}
    return standard if quick else standard | methods | late


def base_of(setting: str) -> str:
    """The name of the setting's base."""
    return "rival" if setting == MIRROR else setting.partition("_")[0]


def paraphrases(setting: str, seed: int) -> str:
    """The file with the paraphrases of the base's training problems."""
    return f"{CLAIMS['folder'](base_of(setting), seed)}/{PARAPHRASES}"


def need_paraphrases(setting: str, seed: int) -> Need:
    """The file `paraphrases`. The job that makes the base writes it, also beside a base from before it did."""
    return Need(paraphrases(setting, seed), CLAIMS["need_base"](base_of(setting), seed).job)


def of_run(setting: str, seed: int) -> dict:
    """The config fields that name the base model and its problems."""
    fields = CLAIMS["of_run"](base_of(setting), seed)
    if setting != MIRROR:
        return fields
    return fields | {
        name: fields[name].replace(".jsonl", "_mirror.jsonl") for name in ("data.path", "eval.sets.heldout.path")
    }
