r"""SePT (OSFT): cross-entropy on one's own samples, drawn colder than the loss is taken (ElementQi/SePT).

COMMAND   python -m srt_jax.main --config=configs/sept.py:qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/sept.py:tiny
HARDWARE  8 A800 in their runs; tiny: 2 CPU cores
TIME      not measured on GPUs; srt_jax.plan --topology=h200:8 estimates a step; tiny: about a minute
PAPER     AVG (the mean of pass@1, @8, @32 over six test sets) 43.7 -> 55.0 for Qwen2.5-Math-7B, its base at its best
          temperature; GRPO 59.1; Qwen2.5-7B 44.1 -> 50.7; Llama-3.1-8B-Instruct 38.9 -> 37.8.

No label, no reward, no baseline, no KL. Temperature 0.6 -> 1 over two of three epochs; general models begin at 0.9.
Variants: sept_variants.py, em_ft.py. The base model's best temperature, by AVG:
          python -m srt_jax.evaluate --model=Qwen/Qwen2.5-Math-7B --config=configs/sept.py \
              --temperatures=0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,1.1,1.2,1.3,1.4,1.5,1.6
"""
from configs.common import experiment
from configs.models import BOXED, MODELS

SEPT = {
    "labels.source": "none", "rl.objective": "cross_entropy", "rl.kl_coef": 0.0, "rl.advantage": "reinforce",
    "rl.temperature": 1.0,  # of the loss
    "rollout.temperature": 0.6, "rollout.temperature_end": 1.0, "rollout.temperature_steps": 630,
    "batch.prompts_per_step": 128, "batch.samples_per_prompt": 1,
    "batch.minibatches_per_step": 2,  # the second on samples of one update ago
    "optimizer.learning_rate": 1e-7, "optimizer.warmup_steps": 10,
    "prompts.instruction": "",
    "prompts.system": BOXED,
    "eval.every": 50, "checkpoint.every": 300,
}
# A model without a chat template has no system prompt: it is asked in the instruction.
BY_MODEL = {model: {"prompts.instruction": BOXED} for model, fields in MODELS.items()
            if "{instruction}" in fields.get("prompts.plain_template", "")}
BY_MODEL["deepseek_math_7b_instruct"]["prompts.plain_template"] = (  # SePT, figure 4
    "\n\n{instruction}\n\nUser: {problem}\n\nAssistant:")
TINY = {"rollout.temperature_steps": 20, "optimizer.warmup_steps": 2, "prompts.system": "",
        "optimizer.learning_rate": 6e-5}  # at equal temperatures there is noise only: a larger rate walks away on it


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("sept", arguments, SEPT, TINY, default="qwen25_math_7b,deepscaler", by_model=BY_MODEL)
