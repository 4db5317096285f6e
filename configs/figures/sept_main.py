"""SePT's tables 1, 2 and 6: SePT and GRPO, five models, DeepScaleR and OpenThoughts3 (OTM) prompts.

COMMAND   python -m srt_jax.main --config=configs/figures/sept_main.py:qwen25_math_7b
TINY      python -m srt_jax.main --config=configs/figures/sept_main.py:qwen25_math_7b,tiny
HARDWARE  8 A800 in their runs
PAPER     AVG of base model, SePT and GRPO: Qwen2.5-Math-7B 43.7, 55.0, 59.1 (OTM: 55.2, 56.6); Qwen2.5-7B 44.1, 50.7,
          54.0; Qwen2.5-7B-Instruct 53.6, 54.1, 54.5; DeepSeek-Math-7B-Instruct 32.7, 33.9, 35.6 (OTM: 33.0, 33.4);
          Llama-3.1-8B-Instruct 38.9, 37.8, 41.2 (OTM: 38.2, 36.8).

The base model is evaluated at its best temperature, trained models at 1 (section 3.1).
"""

from srt_jax.experiments import figure

RUNS = {
    "qwen25_math_7b": "qwen25_math_7b,deepscaler",
    "qwen25_math_7b_otm": "qwen25_math_7b,openthoughts3",
    "deepseek": "deepseek_math_7b_instruct,deepscaler",
    "deepseek_otm": "deepseek_math_7b_instruct,openthoughts3",
    "llama": "llama31_8b_instruct,deepscaler",
    "llama_otm": "llama31_8b_instruct,openthoughts3",
    "qwen25_7b": "qwen25_7b,deepscaler",
    "qwen25_7b_instruct": "qwen25_7b_instruct,deepscaler",
}

get_config = figure(
    "sept_main",
    {
        **{name: (f"sept:{run}", {}, {}) for name, run in RUNS.items()},
        **{f"grpo_{name}": (f"sept_variants:grpo,{run}", {}, {}) for name, run in RUNS.items()},
    },
)
