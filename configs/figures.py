r"""The figures and tables of the papers. Each has its content, the paper's result, and a run for each curve.

COMMAND   python -m srt_jax.main --config=configs/figures.py:v1_fig2,srt_dapo
TINY      python -m srt_jax.main --config=configs/figures.py:v1_fig2,srt_dapo,tiny

The arguments are FIGURE,CURVE, or FIGURE,CURVE,tiny for the same run of the miniature. v1 is arXiv 2505.21444v1, v2 its
later version. Where v2 repeats a figure of v1, one record serves both. docs/experiments.md lists all records.
"""

from srt_jax.experiments import COLLAPSE, Curve, Figure, figure_config, load

DATA = ("dapo", "math12k", "aime")
METHODS = ("srt", "ground_truth")


def _rollouts(n: int) -> dict:
    return {"batch.samples_per_prompt": n}


SRT_V1 = {
    "v1_fig2": Figure(
        where="v1 Fig. 2",
        shows="SRT and ground truth on three training sets, Qwen2.5-Math-7B",
        paper="The two rise together. Then SRT collapses: on DAPO, and on MATH-12k after more than two epochs.",
        # The figure shows the mean over AIME24, AIME25 and AMC23. v1_fig10_12 has the same runs test set by test set.
        curves={
            f"{method}_{data}": Curve(run=f"{method}:qwen25_math_7b,{data}") for data in DATA for method in METHODS
        },
    ),
    "v1_fig3": Figure(
        where="v1 Fig. 3, v2 Fig. 7",
        shows="the collapse on DAPO",
        paper=r"Pseudo-reward and KL jump at the step where the accuracy falls. Afterwards every response is random "
        r"tokens and \boxed{1}. With ground truth none of this happens.",
        # Compare label/pseudo_reward with label/true_reward, and look at label/top_answer_share and update/kl.
        curves={method: Curve(run=f"{method}:qwen25_math_7b,dapo", tiny=COLLAPSE) for method in METHODS},
    ),
    "v1_fig4": Figure(
        where="v1 Fig. 4, 5, v2 Fig. 23, 24",
        shows="test-time training, Qwen2.5-Math-7B",
        paper="maj@32 gains a little on the base model's maj@32, and there is no collapse.",
        curves={name: Curve(run=f"test_time:qwen25_math_7b,test_{name}") for name in ("aime24", "aime25", "amc23")},
    ),
    "v1_fig6": Figure(
        where="v1 Fig. 6, v2 Fig. 25",
        shows="early stopping on 1% of DAPO",
        paper="The peak comes at about the same step on all test sets. To stop by the 1% is near the best of each.",
        curves={
            "early_stopping": Curve(run="early_stopping:qwen25_math_7b,dapo"),
            "no_stop": Curve(
                run="early_stopping:qwen25_math_7b,dapo",
                fields={"stop.patience": 0},
                tiny={"stop.patience": 0, "eval.every": 10},
            ),
        },
    ),
    "v1_fig7": Figure(
        where="v1 Fig. 7, v2 Fig. 26",
        shows="labels that the base model makes once",
        paper="Offline labels do about as well as SRT and stay stable. More than one epoch of MATH-12k collapses "
        "all the same.",
        # configs/offline_labels.py says how to make the labels.
        curves={
            "offline": Curve(run="offline_labels:qwen25_math_7b,dapo"),
            "offline_math12k": Curve(run="offline_labels:qwen25_math_7b,math12k"),
            "srt": Curve(run="srt:qwen25_math_7b,dapo"),
            "ground_truth": Curve(run="ground_truth:qwen25_math_7b,dapo"),
        },
    ),
    "v1_fig8": Figure(
        where="v1 Fig. 8, 16, v2 Fig. 27, 28",
        shows="the easiest third of DAPO",
        paper="The runs do not collapse in three epochs and are as good as ground truth on all of DAPO. The "
        "pseudo-reward levels off at about 0.9.",
        # The docstring of configs/curriculum.py shows how to make the file of the tiny runs. Both tiny runs read the
        # same third of the sums. v2's figure 30 selects the third with Qwen2.5-Math-1.5B and trains that model.
        curves={
            "vote_share": Curve(run="curriculum:qwen25_math_7b,dapo_easy_by_vote_share"),
            "pass_rate": Curve(run="curriculum:qwen25_math_7b,dapo_easy_by_pass_rate"),
            "all": Curve(run="srt:qwen25_math_7b,dapo"),
            "ground_truth": Curve(run="ground_truth:qwen25_math_7b,dapo"),
        },
    ),
    "v1_fig10_12": Figure(
        where="v1, v2 Fig. 10 - 12",
        shows="the runs of Fig. 2, test set by test set",
        paper="Figure 10 is DAPO and shows the collapse, figure 11 is MATH-12k, figure 12 is AIME 1983 to 2023.",
        # Only figure 11 has MATH-500 among its test sets.
        curves={
            f"{method}_{name}": Curve(run=f"{method}:qwen25_math_7b,{data}")
            for name, data in {"dapo": "dapo", "math12k": "math12k_and_math500", "aime": "aime"}.items()
            for method in METHODS
        },
    ),
    "v1_fig13_15": Figure(
        where="v1, v2 Fig. 13 - 15",
        shows="Qwen3-14B-Base on the same training sets, four test sets each",
        paper="Figure 13 is DAPO and shows a collapse, figure 14 is MATH-12k and stable, figure 15 is AIME 1983 to "
        "2023 and mixed.",
        curves={
            f"{method}_{data}": Curve(run=f"{method}:qwen3_14b,{data}_and_math500")
            for data in DATA
            for method in METHODS
        },
    ),
    "v1_fig17": Figure(
        where="v1 Fig. 17, v2 Fig. 29",
        shows="Qwen3-14B-Base on Qwen2.5-Math-7B's easiest third of DAPO",
        paper="The runs do not collapse in three epochs, as with the 7B model.",
        curves={by: Curve(run=f"curriculum:qwen3_14b,dapo_easy_by_{by}") for by in ("vote_share", "pass_rate")},
    ),
}

climb = load("climb")


def _evolving(task: str) -> Curve:
    """Trains the easiest level with answers, then the next with votes. The tiny run has all levels of climb:tiny."""
    easy, hard = climb.LEVELS[task][:2]  # Which levels the figure shows is our reading of B.3.
    levels = (climb.level(task, easy, True), climb.level(task, hard, False))
    return Curve(run=f"climb:qwen3_4b,{task}", fields={"levels": levels})


def _fixed(task: str) -> Curve:
    """The second run of `_evolving`, but with labels for which its initial model votes once.

    Make the labels with the same config after the first run of `_evolving`:
        python -m srt_jax label --config=configs/figures.py:v2_fig2,knights_knaves_fixed \
            --out=runs/labels/v2_fig2-knights_knaves_3.jsonl
    The tiny run is reasoning_gym:fixed_teacher,tiny.
    """
    easy, hard = climb.LEVELS[task][:2]
    return Curve(
        run=f"reasoning_gym:fixed_teacher,qwen3_4b,{task}_{hard}",
        fields={
            "model.path": f"runs/v2_fig2/{task}/level_{easy}/final",
            "labels.path": f"runs/labels/v2_fig2-{task}_{hard}.jsonl",
        },
    )


TASKS = ("knights_knaves", "bitwise_arithmetic", "family_relationships")
# The training set of each model: SRT v2, appendices B.3, C and J.
TRAINED_ON = {
    "qwen25_math_7b": "math12k_and_math500",
    "qwen3_14b": "math12k_and_math500",
    "deepseek_math_7b_instruct": "math12k_and_math500",
    "llama31_8b_instruct": "big_math_llama",
}
DAPO_7B = "srt:qwen25_math_7b,dapo"
ONLINE = {"labels.threshold": 0.6, "batch.resample_rounds": 3}
TINY_ONLINE = {"labels.threshold": 0.4, "batch.resample_rounds": 1}  # The miniature's first vote shares are about 0.4.

SRT_V2 = {
    "v2_fig2": Figure(
        where="v2 Fig. 2",
        shows="Reasoning Gym with an evolving and a fixed teacher, Qwen3-4B-Base",
        paper="avg@16 and maj@16 rise on all three tasks. SRT ends above the fixed teacher: by 6 points on "
        "knights_knaves, 10 on bitwise_arithmetic, 8 on family_relationships.",
        curves={
            **{task: _evolving(task) for task in TASKS},
            **{f"{task}_fixed": _fixed(task) for task in TASKS},
        },
    ),
    "v2_fig3_4": Figure(
        where="v2 Fig. 3, 4",
        shows="avg@32 and maj@32 on MATH-500 for four models",
        paper="SRT is as good as ground truth on all four. Llama-3.1-8B-Instruct rises from 52.6% to about 60%.",
        # The captions name 32 samples. Llama-3.1-8B-Instruct is evaluated greedily with one, so maj equals avg.
        curves={
            f"{method}_{model}": Curve(run=f"{method}:{model},{data}")
            for model, data in TRAINED_ON.items()
            for method in METHODS
        },
    ),
    "v2_fig5": Figure(
        where="v2 Fig. 5",
        shows="levels of Reasoning Gym, answers on the first only, Qwen3-4B-Base",
        paper="knights_knaves comes near 100% at level 9, bitwise_arithmetic gains at level 4.",
        curves={task: Curve(run=f"climb:qwen3_4b,{task}") for task in ("knights_knaves", "bitwise_arithmetic")},
    ),
    "v2_fig6": Figure(
        where="v2 Fig. 6, 32 - 34",
        shows="four models that train on and on",
        paper="Every model gains as with ground truth at first, and then collapses. Within 2,000 steps Llama does so "
        "only at three times its learning rate (llama_fast, Fig. 34).",
        curves={
            "qwen25_math_7b": Curve(run=DAPO_7B, tiny=COLLAPSE),
            "qwen3_14b": Curve(run="srt:qwen3_14b,dapo", tiny=COLLAPSE),
            "deepseek": Curve(run="srt:deepseek_math_7b_instruct,math12k_and_math500", tiny=COLLAPSE),
            "llama": Curve(run="srt:llama31_8b_instruct,big_math_llama", tiny=COLLAPSE),
            "llama_fast": Curve(
                run="srt:llama31_8b_instruct,big_math_llama",
                fields={"optimizer.learning_rate": 3e-7},
                tiny=COLLAPSE,
            ),
        },
    ),
    "v2_fig8": Figure(
        where="v2 Fig. 8, 18 - 22",
        shows="fields on which the collapse depends, Qwen2.5-Math-7B on DAPO",
        paper="GRPO collapses like RLOO. More KL does not help, a smaller learning rate and fewer samples delay the "
        "collapse, an entropy bonus speeds it up.",
        # The text names no values; these are our choice. The tiny runs change the same field, and they collapse too.
        curves={
            "rloo": Curve(run=DAPO_7B, tiny=COLLAPSE),
            "grpo": Curve(run="rl:grpo,qwen25_math_7b,dapo", tiny=COLLAPSE),
            "kl_0.01": Curve(run=DAPO_7B, fields={"rl.kl_coef": 0.01}, tiny=COLLAPSE | {"rl.kl_coef": 0.01}),
            "lr_1e-7": Curve(
                run=DAPO_7B,
                fields={"optimizer.learning_rate": 1e-7},
                tiny=COLLAPSE | {"optimizer.learning_rate": 2e-4},
            ),
            "samples_8": Curve(run=DAPO_7B, fields=_rollouts(8), tiny=COLLAPSE | _rollouts(8)),
            "samples_16": Curve(run=DAPO_7B, fields=_rollouts(16), tiny=COLLAPSE | _rollouts(16)),
            "entropy_0.003": Curve(
                run=DAPO_7B, fields={"rl.entropy_coef": 0.003}, tiny=COLLAPSE | {"rl.entropy_coef": 0.003}
            ),
        },
    ),
    "v2_fig31": Figure(
        where="v2 Fig. 31",
        shows="prompts with a weak vote are replaced (an online curriculum)",
        paper="With a threshold of 0.6 there is no collapse within the budget.",
        # Two things differ from the authors' code. Here prompts whose rewards all agree are replaced too, and at most
        # three more batches are drawn; their code draws without a limit. Our threshold applies to the share of all
        # samples; theirs to the share of the samples with an answer.
        curves={
            "threshold_0.6": Curve(run=DAPO_7B, fields=ONLINE, tiny=COLLAPSE | TINY_ONLINE),
            "no_threshold": Curve(run=DAPO_7B, tiny=COLLAPSE),
        },
    ),
}

# TTRL's previews with 7B models (tag OpenRLHF, code/scripts) have no KL, an update for every 16 samples, no weight
# decay and a greedy evaluation after every step. Their cosine schedule is as long as all epochs, but the loader drops
# the incomplete last step of an epoch. So their runs end before the schedule, which would end at a tenth of the rate.
# Three things differ here. Their labels are votes of only the 16 trained samples (here all samples vote), they
# normalise the advantages once more over the step, and they also evaluate on the other two sets.
PREVIEW = {
    **load("ttrl").LONG,
    "batch.samples_per_prompt": 16,
    "batch.microbatch_sequences": 16,
    "rl.kl_coef": 0.0,
    "rl.dual_clip": 0.0,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.95,
    "optimizer.weight_decay": 0.0,
    "optimizer.final_fraction": 0.1,
    "eval.every": 1,
    "eval.temperature": 0.0,
    "eval.top_p": 1.0,
    "eval.samples": 1,
}


def _preview(prompts: int, votes: int, steps: int, updates: int) -> dict:
    """The fields of a preview. updates: the length of its schedule (epochs x problems). 3% of them are warm-up."""
    return {
        **PREVIEW,
        "batch.prompts_per_step": prompts,
        "batch.minibatches_per_step": prompts,
        "batch.votes_per_prompt": votes,
        "steps": steps,
        "optimizer.schedule_steps": round(updates / prompts),
        "optimizer.warmup_steps": round(0.03 * updates / prompts),
    }


TTRL = {
    "ttrl": Figure(
        where="TTRL's README",
        shows="AIME24, AMC (83 problems) and MATH-500: Qwen2.5-Math-1.5B, and the earlier previews with 7B",
        paper="pass@1 on AIME24 rises by 211% for Qwen2.5-Math-7B; three preview runs ended at 43.3, 43.3 and 46.7.",
        curves={
            "aime": Curve(run="ttrl:qwen25_math_1_5b,test_aime24"),
            "amc": Curve(run="ttrl:qwen25_math_1_5b,test_amc83"),
            "math": Curve(run="ttrl:qwen25_math_1_5b,test_math500"),
            "aime_7b": Curve(run="ttrl:qwen25_math_7b,test_aime24", fields=_preview(16, 64, 60, 60 * 30)),
            "amc_7b": Curve(run="ttrl:qwen25_math_7b,test_amc83", fields=_preview(64, 64, 50, 50 * 83)),
            "math_7b": Curve(run="ttrl:qwen25_math_7b,test_math500", fields=_preview(128, 32, 120, 40 * 500)),
        },
    ),
}

MATH_7B = "qwen25_math_7b,deepscaler"
SEPT_RUNS = {
    "qwen25_math_7b": MATH_7B,
    "qwen25_math_7b_otm": "qwen25_math_7b,openthoughts3",
    "deepseek": "deepseek_math_7b_instruct,deepscaler",
    "deepseek_otm": "deepseek_math_7b_instruct,openthoughts3",
    "llama": "llama31_8b_instruct,deepscaler",
    "llama_otm": "llama31_8b_instruct,openthoughts3",
    "qwen25_7b": "qwen25_7b,deepscaler",
    "qwen25_7b_instruct": "qwen25_7b_instruct,deepscaler",
}

SEPT = {
    "sept_main": Figure(
        where="SePT, tables 1, 2, 6",
        shows="SePT and GRPO, five models, prompts of DeepScaleR and OpenThoughts3 (OTM)",
        paper="AVG of base model, SePT, GRPO: Qwen2.5-Math-7B 43.7, 55.0, 59.1 (OTM: 55.2, 56.6); Qwen2.5-7B 44.1, "
        "50.7, 54.0; Qwen2.5-7B-Instruct 53.6, 54.1, 54.5; DeepSeek-Math-7B-Instruct 32.7, 33.9, 35.6 "
        "(OTM: 33.0, 33.4); Llama-3.1-8B-Instruct 38.9, 37.8, 41.2 (OTM: 38.2, 36.8).",
        # The base model is evaluated at its best temperature, trained models at 1 (section 3.1).
        curves={
            **{name: Curve(run=f"sept:{run}") for name, run in SEPT_RUNS.items()},
            **{f"grpo_{name}": Curve(run=f"sept_variants:grpo,{run}") for name, run in SEPT_RUNS.items()},
        },
    ),
    "sept_ablations": Figure(
        where="SePT, tables 4, 5, Fig. 3, 5",
        shows="ablations and baselines, Qwen2.5-Math-7B",
        paper="AVG is 55.0 with SePT, 59.1 with GRPO, 51.3 with EM-FT, 45.5 offline, 44.6 with coupled temperatures, "
        "and 43.7 for the base model. More rollouts a prompt learn faster and reach a slightly higher pass@1; pass@32 "
        "differs little. EM-FT of DeepSeek-Math-7B-Instruct is slightly below its base.",
        # One rollout a prompt is SePT itself. `constant`, which does not anneal the temperature, is not in the paper.
        curves={
            **{
                name: Curve(run=f"sept_variants:{name},{MATH_7B}")
                for name in ("offline", "coupled", "constant", "grpo")
            },
            "em_ft": Curve(run=f"em_ft:{MATH_7B}"),
            "em_ft_deepseek": Curve(run="em_ft:deepseek_math_7b_instruct,deepscaler"),
            "rollouts_4": Curve(run=f"sept:{MATH_7B}", fields=_rollouts(4), tiny=_rollouts(4)),
            "rollouts_8": Curve(run=f"sept:{MATH_7B}", fields=_rollouts(8), tiny=_rollouts(8)),
        },
    ),
}

FIGURES = {**SRT_V1, **SRT_V2, **TTRL, **SEPT}


def get_config(arguments: str = ""):
    """FIGURE,CURVE[,tiny]"""
    return figure_config(FIGURES, arguments)
