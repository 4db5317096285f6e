"""The side of parity_trl.py that runs TRL, in an environment with trl, torch and transformers.

    python benchmarks/parity_trl_peer.py SETTINGS.json

SETTINGS.json comes from parity_trl.py, and its docstring explains the settings. Each seed of the file is trained with
TRL's RLOOTrainer. The metrics get srt_jax's tags and go to <out>/seed<S>/metrics.jsonl. A seed with this file is
skipped. The first seed also stores its first step: rollouts in first_step.json, the updated weights in after_step_1.
"""

import json
import pathlib
import sys
import time

# Without this folder, whose kernels.py would hide the package `kernels` that transformers looks for.
sys.path.pop(0)
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback, set_seed
from trl import RLOOConfig, RLOOTrainer

from srt_jax.grading import Grader, extract

EVALUATED = 512  # sequences of one call of generate


class Rewards:
    """TRL's reward function: 1.0 if srt_jax's parser and grader find the known answer in a completion, else 0.0."""

    __name__ = "answer"

    def __init__(self, grader: Grader):
        self._grader, self.first = grader, None

    def __call__(self, completions: list[str], answer: list[str], completion_ids: list, prompts: list, **_):
        found = [extract(text) for text in completions]
        rewards = [float(right) for right in self._grader.grade([f and f.text for f in found], answer)]
        if self.first is None:
            self.first = {"prompts": prompts, "completions": [list(map(int, c)) for c in completion_ids]}
            self.first["rewards"] = rewards
        return rewards


class Evaluation(TrainerCallback):
    """Evaluates avg@k at step 0 and every `every` steps; keeps the weights after step 1 if `keep` is a folder."""

    def __init__(self, settings: dict, tokenizer, grader: Grader, keep: pathlib.Path | None):
        self._settings, self._tokenizer, self._grader, self._keep = settings, tokenizer, grader, keep
        self.rows: dict[int, dict] = {}

    def on_train_begin(self, args, state, control, model=None, **_):
        self.rows[0] = self._evaluate(model)

    def on_step_end(self, args, state, control, model=None, **_):
        if self._keep and state.global_step == 1:
            model.save_pretrained(self._keep)
        if state.global_step % self._settings["every"] == 0:
            self.rows[state.global_step] = self._evaluate(model)

    @torch.no_grad()
    def _evaluate(self, model) -> dict:
        s, tokenizer = self._settings, self._tokenizer
        drawing = GenerationConfig(
            do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=s["max_response_tokens"],
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        prompts = [p for p in s["heldout"]["prompts"] for _ in range(s["eval_samples"])]
        golds = [a for a in s["heldout"]["answers"] for _ in range(s["eval_samples"])]
        texts = []
        with torch.random.fork_rng():  # the training's random numbers do not depend on the evaluations
            model.eval()
            for start in range(0, len(prompts), EVALUATED):
                inputs = tokenizer(prompts[start : start + EVALUATED], return_tensors="pt", padding=True)
                drawn = model.generate(**inputs, generation_config=drawing)[:, inputs["input_ids"].shape[1] :]
                texts += tokenizer.batch_decode(drawn, skip_special_tokens=True)
            model.train()
        found = [extract(text) for text in texts]
        right = self._grader.grade([f and f.text for f in found], golds)
        return {f"eval/heldout/avg@{s['eval_samples']}": sum(right) / len(right)}


def train(settings: dict, seed: int, first: bool, grader: Grader) -> None:
    """Trains one seed and writes its metrics."""
    folder = pathlib.Path(settings["out"]) / f"seed{seed}"
    if (folder / "metrics.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    prompts, samples = settings["prompts_per_step"], settings["samples_per_prompt"]
    config = RLOOConfig(
        output_dir=str(folder / "trl"), seed=seed, max_steps=settings["steps"],
        per_device_train_batch_size=prompts * samples, gradient_accumulation_steps=1, num_iterations=1,
        num_generations=samples, max_completion_length=settings["max_response_tokens"], shuffle_dataset=False,
        temperature=1.0, top_p=1.0, top_k=0,
        beta=settings["kl_coef"], epsilon=0.2, normalize_advantages=False, mask_truncated_completions=False,
        learning_rate=settings["learning_rate"], lr_scheduler_type="constant", warmup_steps=0,
        adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
        bf16=False, use_cpu=True, gradient_checkpointing=False,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rewards = Rewards(grader)
    evaluation = Evaluation(settings, tokenizer, grader, folder / "after_step_1" if first else None)
    trainer = RLOOTrainer(
        model=model, reward_funcs=rewards, args=config, train_dataset=Dataset.from_list(settings["order"][str(seed)]),
        processing_class=tokenizer, callbacks=[evaluation],
    )  # fmt: skip
    start = time.perf_counter()
    trainer.train()
    tags = {"reward": "label/true_reward", "kl": "update/kl", "entropy": "update/entropy",
            "completions/mean_length": "rollout/response_tokens", "grad_norm": "update/grad_norm"}  # fmt: skip
    rows = evaluation.rows
    for logged in trainer.state.log_history:
        row = rows.setdefault(logged["step"], {})
        row |= {tag: float(logged[name]) for name, tag in tags.items() if logged.get(name) is not None}
    if first:
        (folder / "first_step.json").write_text(json.dumps(rewards.first))
    lines = [json.dumps({"step": step, **rows[step]}) for step in sorted(rows)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    print(f"seed {seed}: {time.perf_counter() - start:.0f} s, {rows[max(rows)]}", flush=True)


def main() -> None:
    """Trains the seeds of the settings one after another."""
    settings = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    seeds = list(map(int, settings["order"]))
    with Grader(workers=1) as grader:
        for seed in seeds:
            train(settings, seed, seed == seeds[0], grader)


if __name__ == "__main__":
    main()
