"""Every experiment of configs/ on the miniature. The arms are the config files and their arguments.

The arms differ in method, number of steps and data, so this study has no claims. It shows that every method runs, and
what the miniature gains by it.
"""

from ml_collections import ConfigDict

from srt_jax.experiments import load
from srt_jax.study import Arm, Need, Study

EXPERIMENTS = (
    "srt",
    "ground_truth",
    "srt_as_released",
    "offline_labels",
    "semi_supervised",
    "curriculum",
    "hard_schedule",
    "early_stopping",
    "test_time",
    "ttrl",
    "climb",
    "reasoning_gym:vote",
    "reasoning_gym:ground_truth",
    "reasoning_gym:fixed_teacher",
    "rl:grpo",
    "rl:dr_grpo",
    "rl:reinforce",
    "rl:reinforce_baseline",
    "rl:reinforce_pp",
    "rl:reinforce_pp_baseline",
    "rl:dapo",
    "rl:ppo_clip",
    *(f"label_free:{method}" for method in load("label_free").METHODS),
    "sept",
    "em_ft",
    "sept_variants:offline",
    "sept_variants:coupled",
    "sept_variants:constant",
    "sept_variants:grpo",
    "figures:sept_ablations,rollouts_4",
    "figures:sept_ablations,rollouts_8",
    "figures:v1_fig3,srt",
    "figures:v1_fig3,ground_truth",
    "figures:v1_fig6,no_stop",
    "figures:v2_fig8,grpo",
    "figures:v2_fig8,kl_0.01",
    "figures:v2_fig8,lr_1e-7",
    "figures:v2_fig8,samples_8",
    "figures:v2_fig8,samples_16",
    "figures:v2_fig8,entropy_0.003",
    "figures:v2_fig31,threshold_0.6",
)
LABELS = "runs/labels/tiny-sums"
FILES = (
    Need(f"{LABELS}.jsonl", ("label", "--config=srt.py:tiny", f"--out={LABELS}.jsonl")),
    Need(f"{LABELS}_4.jsonl", ("label", "--config=reasoning_gym.py:vote,tiny", f"--out={LABELS}_4.jsonl")),
    Need(
        f"{LABELS}-easy.jsonl",
        (
            "subset",
            "--config=srt.py:tiny",
            f"--labels={LABELS}.jsonl",
            "--by=vote_share",
            "--fraction=0.33333",
            f"--out={LABELS}-easy.jsonl",
        ),
    ),
)


def get_study(quick: bool) -> Study:
    """5 seeds. quick: one seed."""
    configs = {name: config_of(name) for name in EXPERIMENTS}
    return Study(
        name="tiny",
        config=configs["srt"],
        arms={
            name.replace(":", "-").replace(",", "-"): Arm(config=config, needs=needs_of(config))
            for name, config in configs.items()
        },
        seeds=range(1 if quick else 5),
        column="eval/heldout/avg@32",
        needs=lambda *_: (Need("cache/miniature", ("pretrain",)),),
    )


def config_of(name: str) -> ConfigDict:
    """The config of an experiment on the miniature."""
    module, _, arguments = name.partition(":")
    return load(module).get_config(",".join(filter(None, (arguments, "tiny"))))


def needs_of(config: ConfigDict):
    """The function that returns the label files and subsets that the config reads, in the order in which to make them.

    A subset also needs the labels by which it is chosen.
    """
    paths = {config.labels.path, config.curriculum.path, config.data.path}
    if f"{LABELS}-easy.jsonl" in paths:
        paths.add(f"{LABELS}.jsonl")
    return lambda *_: tuple(need for need in FILES if need.path in paths)
