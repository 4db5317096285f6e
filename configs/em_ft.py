"""EM-FT, a baseline of SePT without labels. It minimises the model's token entropy on its own samples.

COMMAND   python -m srt_jax.main --config=configs/em_ft.py:qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/em_ft.py:tiny
PAPER     AVG is 51.3 for Qwen2.5-Math-7B. SePT has 55.0 there, and the base model 43.7. For DeepSeek-Math-7B-Instruct
          AVG is slightly below the base model (SePT, figure 3).

Only the objective and the sampling temperature, which is 1, differ from SePT (SePT, B.1).
"""

from srt_jax.experiments import experiment, load

sept = load("sept")
EM_FT = {**sept.SEPT, "rl.objective": "entropy", "rollout.temperature": 1.0, "rollout.temperature_steps": 0}


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment(
        "em_ft",
        arguments,
        EM_FT,
        {**sept.TINY, "rollout.temperature_steps": 0},
        default="qwen25_math_7b,deepscaler",
        by_model=sept.PROMPTS,
    )
