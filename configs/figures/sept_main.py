"""SePT's main table: five models, DeepScaleR and OpenThoughts3 prompts.

COMMAND   python -m srt_jax.main --config=configs/figures/sept_main.py:qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/sept_main.py:qwen25_math_7b,tiny
HARDWARE  8 A800 in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; tiny: about a minute a curve
PAPER     pass@1 / @8 / @32 / AVG of Qwen2.5-Math-7B: base 22.7 / 47.3 / 61.0 / 43.7, SePT 39.5 / 57.7 / 67.9 / 55.0.
          AVG of Qwen2.5-7B 44.1 -> 50.7, of Llama-3.1-8B-Instruct 38.9 -> 37.8.
"""
from configs.common import figure
from configs.models import BOXED

GENERAL = {"rollout.temperature": 0.9}  # where general models begin (SePT, B.1)
ASKED = {"prompts.system": "", "prompts.instruction": BOXED}  # instruct models in the user's turn (SePT, figure 4)

get_config = figure("sept_main", {
    "qwen25_math_7b": ("sept:qwen25_math_7b,deepscaler", {}, {}),
    "qwen25_math_7b_otm": ("sept:qwen25_math_7b,openthoughts3", {}, {}),
    "deepseek": ("sept:deepseek_math_7b_instruct,deepscaler", {}, {}),
    "qwen25_7b": ("sept:qwen25_7b,deepscaler", GENERAL, {}),
    "qwen25_7b_instruct": ("sept:qwen25_7b_instruct,deepscaler", GENERAL | ASKED | {
        "prompts.system": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}, {}),
    "llama": ("sept:llama31_8b_instruct,deepscaler", GENERAL | ASKED, {}),
})
