r"""Models by short name. Each has the config fields for the model, its prompt format and a typical node.

The mesh follows the devices: the weights of larger models are split over all devices, and small models are copied to
each. Micro-batches fit a node with 8 GPUs of 141 GB. Stop tokens need no entry: run/stop_tokens.py collects the end
tokens of tokenizer, generation config and chat template. Thus a base model stops at <|im_end|> as well as at
<|endoftext|>.
"""


def _hub(path: str, fsdp: int = -1, **sections) -> dict:
    """The fields of a model on the hub. sections: more fields, e.g. batch={"microbatch_sequences": 16}."""
    fields = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return {"model.path": path, "mesh.fsdp": fsdp, **fields}


# The prompt of base models without a chat template. The wording is our choice.
QUESTION = {"template": "plain", "system": "", "plain_template": "Question: {problem}\n{instruction}\n\nAnswer:"}
# The format of DeepSeek-Math-Instruct's model card; the tokenizer writes its beginning-of-text token.
DEEPSEEK = {"template": "plain", "system": "", "plain_template": "User: {problem} {instruction}\n\nAssistant:"}

MODELS = {
    # Qwen2.5-Math has 4096 positions. The chat template's own system prompt asks for a box too, as in SRT's runs.
    "qwen25_math_1_5b": _hub("Qwen/Qwen2.5-Math-1.5B", fsdp=1),
    "qwen25_math_7b": _hub("Qwen/Qwen2.5-Math-7B"),
    "qwen25_0_5b": _hub("Qwen/Qwen2.5-0.5B", fsdp=1),
    "qwen25_1_5b": _hub("Qwen/Qwen2.5-1.5B", fsdp=1),
    "qwen25_3b": _hub("Qwen/Qwen2.5-3B"),
    "qwen25_7b": _hub("Qwen/Qwen2.5-7B"),
    "qwen25_0_5b_instruct": _hub("Qwen/Qwen2.5-0.5B-Instruct", fsdp=1),
    "qwen25_1_5b_instruct": _hub("Qwen/Qwen2.5-1.5B-Instruct", fsdp=1),
    "qwen25_3b_instruct": _hub("Qwen/Qwen2.5-3B-Instruct"),
    "qwen25_7b_instruct": _hub("Qwen/Qwen2.5-7B-Instruct"),
    "qwen3_0_6b": _hub("Qwen/Qwen3-0.6B-Base", fsdp=1),
    "qwen3_1_7b": _hub("Qwen/Qwen3-1.7B-Base", fsdp=1),
    "qwen3_4b": _hub("Qwen/Qwen3-4B-Base"),
    "qwen3_8b": _hub("Qwen/Qwen3-8B-Base"),
    "qwen3_14b": _hub("Qwen/Qwen3-14B-Base", batch={"microbatch_sequences": 16}),
    "llama31_8b_instruct": _hub("meta-llama/Llama-3.1-8B-Instruct"),
    # Llama architecture, 4096 positions, no chat template.
    "deepseek_math_7b_instruct": _hub("deepseek-ai/deepseek-math-7b-instruct", prompts=DEEPSEEK),
    "smollm2_135m": _hub("HuggingFaceTB/SmolLM2-135M", fsdp=1, prompts=QUESTION),
    "smollm2_360m": _hub("HuggingFaceTB/SmolLM2-360M", fsdp=1, prompts=QUESTION),
    "smollm2_1_7b": _hub("HuggingFaceTB/SmolLM2-1.7B", fsdp=1, prompts=QUESTION),
    "smollm2_135m_instruct": _hub("HuggingFaceTB/SmolLM2-135M-Instruct", fsdp=1),
    "smollm2_360m_instruct": _hub("HuggingFaceTB/SmolLM2-360M-Instruct", fsdp=1),
    "smollm2_1_7b_instruct": _hub("HuggingFaceTB/SmolLM2-1.7B-Instruct", fsdp=1),
    # The 0.25M-parameter miniature of python -m srt_jax pretrain. It runs every experiment on two CPU cores.
    "tiny": {
        "model.path": "cache/miniature",
        "model.dtype": "float32",
        "model.remat": "none",
        "prompts.template": "plain",
        "prompts.plain_template": "{problem}=",
        "prompts.instruction": "",
        "batch.max_prompt_tokens": 10,
        "batch.max_response_tokens": 18,
        "batch.length_buckets": (28,),
        "batch.microbatch_sequences": 64,
        "rollout.prompt_buckets": (10,),
        "rollout.old_logprobs": "sampler",
        "optimizer.learning_rate": 2e-4,
        "mesh.cpu_devices": 2,
        "answer.style": "boxed",
        "eval.samples": 32,
        "eval.temperature": 1.0,
        "eval.top_p": 1.0,
        "steps": 30,
        "eval.every": 10,
        "checkpoint.every": 10,
    },
}

# MODEL_lora trains adapters of rank 32 on one device with these fields. The rank of the miniature is 8.
LORA = "_lora"
ADAPTERS = {"model.lora.rank": 32, "mesh.fsdp": 1}
TINY_ADAPTERS = {"model.lora.rank": 8}
# The best learning rate of adapters is about ten times that of full fine-tuning, whatever the rank, with alpha = 32
# ("LoRA Without Regret", Schulman and Thinking Machines Lab 2025, https://thinkingmachines.ai/blog/lora).
LORA_RATE = 10.0

# Fields that SRT's own runs of these models change (v2, B.3). Llama is evaluated greedily, as on its model card.
SRT = {
    "llama31_8b_instruct": {"optimizer.learning_rate": 1e-7, "eval.temperature": 0.0, "eval.samples": 1},
    "deepseek_math_7b_instruct": {"optimizer.learning_rate": 1e-7, "eval.temperature": 0.7},
}
# The instruction of SePT and TTRL, which asks for a box (SePT, B.4).
BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
