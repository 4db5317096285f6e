"""Measures what training changed: compares a model with its base, the model it started from, on the same problems.

    python -m srt_jax probe --model=runs/quickstart/srt                        the run's model path is the base
    python -m srt_jax probe --model=DIR --base=DIR --config=configs/srt.py:tiny [--data=problems.jsonl] [--samples=64]
    python -m srt_jax probe --model=ADAPTER --config=configs/srt.py:tiny       an adapter's own base is the base

Prints one JSON object. For each evaluation set it has the agreement with the base's majority, the answer information,
the share of equal answers in different prompts, the KL to the base for answer and for reasoning tokens, pass@k of both
models with the k at which the curves cross, and a table of the votes that changed (flip table). Only the last two need
problems with answers.
"""

import json
import math
import os
import pathlib

from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli, runtime
from srt_jax.config import recorded
from srt_jax.config.paths import initial_weights
from srt_jax.config.resolve import on_this_machine
from srt_jax.config.validation import check_untruncated, validate
from srt_jax.jobs.evaluate import evaluation_config
from srt_jax.log import logger
from srt_jax.run import interrupt
from srt_jax.runtime.place import check_alone

SAMPLES = 64  # per problem and model


def probe(config: ConfigDict, base: str) -> dict:
    """{evaluation set: measures} of config.model.path against `base`, a path or hub id of weights."""
    from srt_jax.grading.grader import Grader
    from srt_jax.run import exports
    from srt_jax.run import probe as measured
    from srt_jax.run.rollouts import answer_format

    config, notes = on_this_machine(config, trains=False)
    for note in notes:
        logger.info(note)
    before = config.copy_and_resolve_references()
    exports.use(before, base)
    with Grader(
        config.grader.workers, match=config.vote.match, timeout=config.grader.timeout, truth=config.eval.match
    ) as grader:
        grader.self_test()
        theirs, loaded = sampled(before, grader, " of the base")
        ours, (*_, tokenizer) = sampled(config, grader)
        graphdef, params, mesh, _ = loaded
        found = {}
        for name, (values, collected) in ours.items():
            reference = measured.score(graphdef, params, mesh, collected.rollouts, config.eval.temperature)
            answer = measured.answer_tokens(collected.rollouts, tokenizer, answer_format(config))
            passes = theirs[name][0], values
            found[name] = measured.compare(theirs[name][1], collected, reference, answer, passes, grader)
    return found


def sampled(config: ConfigDict, grader, at: str = "") -> tuple[dict, tuple]:
    """({set: (metrics, graded rollouts)}, (graphdef, parameters, mesh, tokenizer)) of config.model.path."""
    from srt_jax.run.evaluation import evaluate_all
    from srt_jax.run.loading import load_weights, open_mesh, open_sampler
    from srt_jax.run.prepare import encode_eval_sets, read_model
    from srt_jax.run.rollouts import Grading, answer_format

    model = read_model(config)
    eval_sets, report = encode_eval_sets(config, model.tokenizer)
    logger.info("\n".join(report))
    mesh = open_mesh(config)
    graphdef, params = load_weights(config, model, mesh)
    sampler = open_sampler(config, model, graphdef, mesh, pathlib.Path(config.out) / "probe")
    try:
        sampler.load(params, 0)
        grading = Grading(model.tokenizer, answer_format(config), grader)
        found = {
            name: (values, collected)
            for name, values, collected in evaluate_all(eval_sets, sampler, grading, config, at)
        }
    finally:
        sampler.close()
    return found, (graphdef, params, mesh, model.tokenizer)


def base_of(model: str, config: ConfigDict) -> str:
    """The base that the run or the adapter `model` names, "" if it names none. config: that of its evaluation."""
    run = pathlib.Path(model)
    if (run / "config.json").exists() and (run / "final").is_dir():
        return recorded(run).model.path
    return config.model.path if config.model.lora.rank else ""


def without_nan(value):
    """The value with None for every NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main(argv) -> int:
    """Prints the measures. Returns 0, or 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.model:
        return cli.complain("give --model=DIRECTORY, and no other bare arguments.")
    config = evaluation_config(given.model, given.data, given.config, samples=given.samples)
    if not (base := given.base or base_of(given.model, config)):
        return cli.complain(
            f"--model={given.model} is no finished run and no adapter, which would name its base: give --base, too."
        )
    if not config.eval.sets:
        return cli.complain("there is nothing to probe: give --data=problems.jsonl, or a config with eval.sets.")
    validate(config, recorded=True)
    check_untruncated(config)
    check_alone(os.environ, "srt probe")
    runtime.start(config.mesh.cpu_devices)

    def show() -> int:
        found = {"model": initial_weights(config), "base": base, "sets": probe(config, base)}
        print(json.dumps(without_nan(found), indent=2))
        return 0

    return interrupt.run(show, "interrupted: nothing is written. The same command starts again.")


if __name__ == "__main__":
    cli.define_path(
        "model",
        "The trained model: Hugging Face directory, hub id, PEFT adapter's directory, or the folder of a finished run.",
    )
    cli.define_path("base", "The model that it started from; a run and an adapter name their own.")
    cli.define_path("data", "A JSONL or Parquet file of problems, instead of the config's evaluation sets.")
    flags.DEFINE_integer("samples", SAMPLES, "Samples of each problem and model.", lower_bound=1)
    cli.define_config("How to prompt, sample and read answers; a run has its own.")
    cli.run(main)
