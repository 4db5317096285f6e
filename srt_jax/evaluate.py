"""avg@k, maj@k and pass@k of a model: a Hugging Face directory, a hub id, or a finished run.

    python -m srt_jax.evaluate --model=runs/quickstart/srt                       the run's own evaluation sets
    python -m srt_jax.evaluate --model=DIR --data=problems.jsonl --config=configs/X.py [--config.eval.samples=8]

The config gives prompt template, lengths, sampling and answer style: that of the run where --model is one, else that of
--config. --data replaces its evaluation sets by one JSONL file of {problem, answer}. Prints a table and, as the last
line, one JSON object; --out also writes every response with its answer and grade.
"""
import json
import pathlib

from absl import flags
from ml_collections import ConfigDict, config_flags

from srt_jax import cli, runtime
from srt_jax.config import base, run_directory, source, validate, validate_devices


def evaluation_config(model: str, data: str | None, config: ConfigDict | None) -> ConfigDict:
    """The config to evaluate by. For a run: its own, with its final weights."""
    run = pathlib.Path(model)
    if (run / "final").is_dir() and config is None:
        config = ConfigDict(json.loads((run / "config.json").read_text()))
    config = (base() if config is None else config).copy_and_resolve_references()
    config.name = config.name or "evaluate"
    config.model.path = str(run / "final") if (run / "final").is_dir() else model
    if data:
        with config.eval.unlocked():
            config.eval.sets = ConfigDict({pathlib.Path(data).stem: source(path=data)})
    return config


def evaluate_model(config: ConfigDict, out: pathlib.Path | None) -> dict:
    """{set: metrics} of config.model.path on the config's evaluation sets; rows of responses go to `out`."""
    import jax

    from srt_jax.evaluation import evaluate, rollout_rows
    from srt_jax.loading import load_weights, open_mesh, open_sampler
    from srt_jax.prepare import encode_eval_sets, read_model
    from srt_jax.reward.grader import Grader

    validate(config)
    validate_devices(config, jax.device_count())
    model = read_model(config)
    eval_sets, report = encode_eval_sets(config, model.tokenizer)
    print("\n".join(report))
    mesh = open_mesh(config)
    graphdef, params = load_weights(config, model, mesh)
    sampler = open_sampler(config, model, graphdef, mesh, run_directory(config))
    sampler.load(params, 0)
    results, rows = {}, []
    with Grader(config.grader.workers, match=config.vote.match, timeout=config.grader.timeout) as grader:
        grader.self_test()
        for eval_set in eval_sets:
            results[eval_set.name], collected = evaluate(eval_set, sampler, model.tokenizer, grader, config)
            rows += [{"set": eval_set.name, **row} for row in rollout_rows(collected, model.tokenizer)]
    if out:
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.rename(out)
    return results


def main(argv) -> int:
    """Evaluates, prints the table and the JSON line; 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.model:
        return cli.complain("give --model=DIRECTORY, and no other bare arguments.")
    config = evaluation_config(given.model, given.data, given.config)
    if not config.eval.sets:
        return cli.complain("there is nothing to evaluate on: give --data=problems.jsonl, or a config with eval.sets.")
    runtime.start(config.mesh.cpu_devices)
    results = evaluate_model(config, pathlib.Path(given.out) if given.out else None)
    for name, values in results.items():
        print(f"{name}: " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(json.dumps({"model": config.model.path, "sets": results}))
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Hugging Face directory, hub id, or the folder of a finished run.")
    flags.DEFINE_string("data", None, "JSONL file of problems with answers, instead of the config's sets.")
    config_flags.DEFINE_config_file("config", None, "Config for prompts, lengths and sampling.")
    flags.DEFINE_string("out", None, "JSONL file for the responses.")
    cli.run(main)
