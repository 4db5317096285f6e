"""Makes the base models of the miniature: tiny Qwen3 models trained on worked sums that contain errors.

    python -m srt_jax pretrain                                the miniature (task.py) in cache/miniature
    python -m srt_jax pretrain --base=rival                   a study base (bases.py) in cache/rival
    python -m srt_jax pretrain --base=rival --seed=1          the same with another seed, in cache/rival-seed1

The miniature takes about a minute and a half on two cores. If the folder already has the model of this recipe, nothing
is done. The training step is the RL update with cross-entropy as its objective.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

from srt_jax import runtime
from srt_jax.config import expanded
from srt_jax.errors import ConfigError, TrainingStoppedError
from srt_jax.files import check_output_folder, read_json_object, write_file
from srt_jax.log import logger
from srt_jax.miniature import bases, task
from srt_jax.runtime.place import check_alone

PARAPHRASES = "paraphrases.jsonl"  # of the training problems, for labels.source = paraphrase


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of the pre-training. They are part of the cache key."""

    steps: int = 1400
    batch_sequences: int = 64
    microbatch_sequences: int = 32
    learning_rate: float = 5e-3
    warmup_steps: int = 20
    slip_rate: float = 0.3
    seed: int = 0


def recipe_of(base: bases.Base, seed: int = 0) -> Recipe:
    """The recipe of a study base."""
    return Recipe(steps=base.steps, slip_rate=base.slip_rate, seed=seed)


def pretrain(out: pathlib.Path, recipe: Recipe, base: bases.Base = bases.BASES["scatter"]) -> None:
    """Trains the base model and writes it to `out`. Returns at once if `out` was made by this recipe.

    Raises TrainingStoppedError if the loss is not finite. In this case nothing is written.
    """
    key = recipe_key(recipe, base)
    if made_by(out) == key:
        logger.info(f"{out} already has the base model of this recipe: using it.")
        if not (out / PARAPHRASES).exists():  # an older version wrote none
            write_file(out / PARAPHRASES, bases.paraphrases(base))
        return

    import jax.numpy as jnp

    from srt_jax.model import decoder, sharding, weights
    from srt_jax.model.config import ModelConfig
    from srt_jax.rl.optimizer import init_state, learning_rate_schedule, make_optimizer
    from srt_jax.rl.update import UpdateConfig, make_update

    started = time.perf_counter()
    mesh = sharding.make_mesh()
    graphdef, params = decoder.create(ModelConfig.from_hf(task.HF_CONFIG), recipe.seed, mesh)
    schedule = learning_rate_schedule(recipe.learning_rate, "cosine", recipe.warmup_steps, recipe.steps)
    optimizer = make_optimizer(schedule, b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.0, grad_clip=1.0)
    state = init_state(params, optimizer, mesh)
    config = UpdateConfig(layout(recipe), objective="cross_entropy", kl_coef=0.0)
    update = make_update(graphdef, optimizer, config, mesh, state)
    for step in range(recipe.steps):
        state, metrics = update(state, None, batch(recipe, step, mesh, base))
        if step % 50 == 49 or step == recipe.steps - 1:
            if not np.isfinite(float(metrics["loss"])):
                raise TrainingStoppedError(
                    f"pre-training diverged: the loss of step {step + 1} is {float(metrics['loss'])}, and nothing was "
                    f"written to {out}: choose another --seed than {recipe.seed}."
                )
            seconds = time.perf_counter() - started
            logger.info(
                f"step {step + 1}/{recipe.steps}  entropy {float(metrics['entropy']):.3f}  "
                f"ETA {seconds / (step + 1) * (recipe.steps - step - 1):.0f} s"
            )

    extra = bases.problem_files(base) | {
        PARAPHRASES: bases.paraphrases(base),
        "generation_config.json": json.dumps({"eos_token_id": 1, "pad_token_id": 0}),
        "recipe.json": json.dumps(
            {"key": key, "base": base.name, **dataclasses.asdict(recipe), "made_with": environment()}, indent=2
        )
        + "\n",
    }
    with tempfile.TemporaryDirectory() as tokenizer_files:
        task.tokenizer().save_pretrained(tokenizer_files)
        weights.save(out, state.params, task.HF_CONFIG, jnp.float32, tokenizer_from=tokenizer_files, extra=extra)
    logger.info(f"base model written to {out} after {time.perf_counter() - started:.0f} s")


def environment() -> dict[str, str | int]:
    """The settings, other than the recipe, that change the rounding of the pre-training, and so the weights.

    Two copies with the same key and the same environment are equal bit for bit on the same kind of processor.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    return {
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "XLA_FLAGS": flags,
    }


def made_by(out: pathlib.Path) -> str | None:
    """The key of the recipe by which a folder's model was made. None if the folder has no recipe.json."""
    try:
        return read_json_object(out / "recipe.json").get("key")
    except (OSError, ValueError):
        return None


def batch(recipe: Recipe, step: int, mesh, base: bases.Base = bases.BASES["scatter"]):
    """Worked sums as a batch for the update. It depends only on the recipe, its seed included, the step and the base.

    No prompt is labelled, because the objective cross_entropy trains on all responses.
    """
    from srt_jax.rl.collate import TrainingSamples, collate
    from srt_jax.rollout.sampler import Rollouts

    rng = np.random.Generator(np.random.Philox(key=(recipe.seed, step)))
    heldout = set(map(tuple, bases.problem_sets(base)[0]))
    base = dataclasses.replace(base, slip_rate=recipe.slip_rate, carry_share=base.read_carry_share or base.carry_share)
    tokenizer = task.tokenizer()
    prompts, responses = [], []
    while len(prompts) < recipe.batch_sequences:
        terms = bases.random_terms(base, rng)
        if tuple(terms) not in heldout:
            prompts.append(task.problem_text(terms) + "=")
            responses.append(bases.solution_text(base, terms, rng) + tokenizer.eos_token)
    prompts, responses = tokenizer(prompts)["input_ids"], tokenizer(responses)["input_ids"]
    tokens = np.zeros((len(prompts), 1, task.MAX_RESPONSE_TOKENS), np.int32)
    for row, response in zip(tokens[:, 0], responses):
        row[: len(response)] = response
    lengths = np.array([[len(r)] for r in responses], np.int32)
    rollouts = Rollouts(prompts, tokens, lengths, np.zeros(tokens.shape, np.float32), lengths > 0, 0)
    samples = TrainingSamples(rollouts, np.zeros((len(prompts), 1)), np.zeros(len(prompts), bool))
    return collate(samples, layout(recipe), mesh)


def layout(recipe: Recipe):
    """The layout of the batches. One bucket is enough, because the sums are short."""
    from srt_jax.rl.collate import Layout

    return Layout(
        recipe.batch_sequences, 1, recipe.microbatch_sequences, (task.MAX_PROMPT_TOKENS + task.MAX_RESPONSE_TOKENS,)
    )


def recipe_key(recipe: Recipe, base: bases.Base = bases.BASES["scatter"]) -> str:
    """A hash of the recipe and the data: 16 hexadecimal digits."""
    return hashlib.sha256(bases.fingerprint(base) + json.dumps(dataclasses.asdict(recipe)).encode()).hexdigest()[:16]


def default_folder(base: str, seed: int) -> pathlib.Path:
    """The default folder of a base, such as cache/miniature, cache/rival or cache/rival-seed1."""
    name = "miniature" if base == "scatter" else base
    return pathlib.Path("cache") / (f"{name}-seed{seed}" if seed else name)


def main() -> None:
    """The command line: makes one base model."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=bases.BASES, default="scatter", help="scatter is the laptop miniature")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the solutions, 0 or more")
    parser.add_argument(
        "--out",
        type=lambda path: pathlib.Path(expanded(path)),
        help="folder for the model, its tokenizer and the problem sets (default: cache/miniature, or cache/<base>)",
    )
    options = parser.parse_args()
    if not 0 <= options.seed < 1 << 31:
        parser.error(f"--seed={options.seed} is out of range: give a number from 0 to 2147483647.")
    out = options.out or default_folder(options.base, options.seed)
    try:
        check_output_folder(out)
    except OSError as e:
        parser.error(f"--out={out} cannot be made ({e}): choose another folder.")
    try:
        check_alone(os.environ, "srt pretrain")
    except ConfigError as e:
        parser.error(str(e))
    runtime.start(cpu_devices=2)
    base = bases.BASES[options.base]
    try:
        pretrain(out, recipe_of(base, options.seed), base)
    except TrainingStoppedError as e:
        print(e, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
