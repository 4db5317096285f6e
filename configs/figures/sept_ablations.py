"""SePT's ablations and baselines: figures 3 and 5, tables 4 and 5.

COMMAND   python -m srt_jax.main --config=configs/figures/sept_ablations.py:offline
TINY      python -m srt_jax.main --config=configs/figures/sept_ablations.py:offline,tiny
HARDWARE  8 A800 in their runs
PAPER     AVG of Qwen2.5-Math-7B is 55.0 with SePT, 59.1 with GRPO, 51.3 with EM-FT, 45.5 offline, 44.6 with coupled
          temperatures, and 43.7 for the base model. More rollouts a prompt (G) learn faster and reach a slightly higher
          pass@1; pass@32 differs little (figure 5). EM-FT of DeepSeek-Math-7B-Instruct is slightly below its base.

G = 1 is SePT itself. constant, which does not anneal the temperature, is not in the paper.
"""

from srt_jax.experiments import figure


def _rollouts(n: int) -> dict:
    return {"batch.samples_per_prompt": n}


get_config = figure(
    "sept_ablations",
    {
        "offline": ("sept_variants:offline,qwen25_math_7b,deepscaler", {}, {}),
        "coupled": ("sept_variants:coupled,qwen25_math_7b,deepscaler", {}, {}),
        "constant": ("sept_variants:constant,qwen25_math_7b,deepscaler", {}, {}),
        "grpo": ("sept_variants:grpo,qwen25_math_7b,deepscaler", {}, {}),
        "em_ft": ("em_ft:qwen25_math_7b,deepscaler", {}, {}),
        "em_ft_deepseek": ("em_ft:deepseek_math_7b_instruct,deepscaler", {}, {}),
        "rollouts_4": ("sept:qwen25_math_7b,deepscaler", _rollouts(4), _rollouts(4)),
        "rollouts_8": ("sept:qwen25_math_7b,deepscaler", _rollouts(8), _rollouts(8)),
    },
)
