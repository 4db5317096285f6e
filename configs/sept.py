r"""SePT (earlier: OSFT): cross-entropy on the model's own samples, which have a lower temperature than the loss.

Code: ElementQi/SePT.

COMMAND   python -m srt_jax.main --config=configs/sept.py:qwen25_math_7b,deepscaler
TINY      python -m srt_jax.main --config=configs/sept.py:tiny
PAPER     AVG is the mean of pass@1, @8 and @32 over six test sets. From the base model at its best temperature it rises
          from 43.7 to 55.0 for Qwen2.5-Math-7B (GRPO: 59.1) and from 44.1 to 50.7 for Qwen2.5-7B, and falls from 38.9
          to 37.8 for Llama-3.1-8B-Instruct (tables 1 and 6).

There is no label, reward, baseline or KL. The sampling temperature rises from 0.6, or 0.9 for general models, to 1 over
two of three epochs (B.1). The loss is the token mean of the released code (sept/recipe/sept/dp_actor.py). Equation 1 of
the paper is a sum over the tokens of a response: --config.rl.loss_aggregation=seq-mean-token-sum.
The variants are in sept_variants.py and em_ft.py. This command finds the base model's best temperature by AVG:
          python -m srt_jax evaluate --model=Qwen/Qwen2.5-Math-7B --config=configs/sept.py \
              --temperatures=0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,1.1,1.2,1.3,1.4,1.5,1.6
"""

from srt_jax.experiments import experiment
from srt_jax.experiments.models import BOXED, MODELS

SEPT = {
    "labels.source": "none",
    "rl.objective": "cross_entropy",
    "rl.kl_coef": 0.0,
    "rl.advantage": "reinforce",
    "rl.temperature": 1.0,  # the temperature of the loss
    "rollout.temperature": 0.6,
    "rollout.temperature_end": 1.0,
    "rollout.temperature_steps": 628,
    "batch.prompts_per_step": 128,
    "batch.samples_per_prompt": 1,
    "batch.minibatches_per_step": 2,  # for the second update the samples are one update old
    "optimizer.learning_rate": 1e-7,
    "optimizer.warmup_steps": 10,
    "prompts.instruction": "",
    "prompts.system": BOXED,  # base models and Qwen2.5-Math (figure 4)
    "eval.every": 50,
    "checkpoint.every": 300,
}


def prompts(model: str) -> dict:
    """The prompt fields of a model whose instruction is not in the system prompt.

    Qwen's models are as in the paper's figure 4. For models of other makers we use the same rule.
    """
    if model == "deepseek_math_7b_instruct":
        template = "\n\n{instruction}\n\nUser: {problem}\n\nAssistant:"
        return {"prompts.plain_template": template, "prompts.instruction": BOXED}
    if "{instruction}" in MODELS[model].get("prompts.plain_template", ""):  # no chat template, so no system prompt
        return {"prompts.instruction": BOXED}
    if not model.endswith("_instruct"):
        return {}
    own = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." if model.startswith("qwen25") else ""
    return {"prompts.instruction": BOXED, "prompts.system": own}  # with "" the chat template decides


def is_general(model: str) -> bool:
    """Tells whether a model is not specialized in maths. Such models start at a temperature of 0.9 (B.1)."""
    return model != "tiny" and "math" not in model


PROMPTS = {model: prompts(model) for model in MODELS}
BY_MODEL = {model: PROMPTS[model] | ({"rollout.temperature": 0.9} if is_general(model) else {}) for model in MODELS}
TINY = {
    "rollout.temperature_steps": 20,
    "optimizer.warmup_steps": 2,
    "prompts.system": "",
    "optimizer.learning_rate": 6e-5,
}  # near equal temperatures the gradient is only noise, and a larger learning rate makes the model drift


def get_config(arguments: str = ""):
    """MODEL,DATA"""
    return experiment("sept", arguments, SEPT, TINY, default="qwen25_math_7b,deepscaler", by_model=BY_MODEL)
