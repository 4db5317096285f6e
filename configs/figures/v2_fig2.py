r"""SRT v2, figure 2: Reasoning Gym with an evolving teacher beside a fixed one, Qwen3-4B-Base.

COMMAND   python -m srt_jax.main --config=configs/figures/v2_fig2.py:knights_knaves
TINY      python -m srt_jax.main --config=configs/figures/v2_fig2.py:knights_knaves,tiny
HARDWARE  8 H200
PAPER     avg@16 and maj@16 rise on all three tasks. SRT ends above the fixed teacher: by 6 points on knights_knaves, 10
          on bitwise_arithmetic, 8 on family_relationships. Its start was trained with answers on the easiest level.

TASK is two runs: the easiest level with answers, then the next one with votes. TASK_fixed is the second of them with
the votes of its starting point, which is the first one's model. Those votes are made from the same config, once that
model is there:
          python -m srt_jax label --config=configs/figures/v2_fig2.py:knights_knaves_fixed \
              --out=runs/labels/v2_fig2-knights_knaves_3.jsonl
Which levels the figure shows is our reading of B.3. A tiny TASK climbs all levels of climb.py:tiny. A tiny TASK_fixed
is reasoning_gym.py:fixed_teacher,tiny.
"""

from srt_jax.experiments import figure, load

climb = load("climb")
STEPS = {task: climb.LEVELS[task][:2] for task in ("knights_knaves", "bitwise_arithmetic", "family_relationships")}


def _climbing(task: str, easy: int, hard: int) -> tuple:
    return f"climb:qwen3_4b,{task}", {"levels": (climb.level(task, easy, True), climb.level(task, hard, False))}, {}


def _fixed(task: str, easy: int, hard: int) -> tuple:
    return (
        f"reasoning_gym:fixed_teacher,qwen3_4b,{task}_{hard}",
        {
            "model.path": f"runs/v2_fig2/{task}/level_{easy}/final",
            "labels.path": f"runs/labels/v2_fig2-{task}_{hard}.jsonl",
        },
        {},
    )


get_config = figure(
    "v2_fig2",
    {
        **{task: _climbing(task, *levels) for task, levels in STEPS.items()},
        **{f"{task}_fixed": _fixed(task, *levels) for task, levels in STEPS.items()},
    },
)
