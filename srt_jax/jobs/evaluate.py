"""avg@k, maj@k and pass@k of a model: a Hugging Face directory, a hub id, a PEFT adapter, or a finished run.

    python -m srt_jax evaluate --model=runs/quickstart/srt                       the run's own evaluation sets
    python -m srt_jax evaluate --model=DIR --data=problems.jsonl --config=configs/X.py [--config.eval.samples=8]
    python -m srt_jax evaluate --model=DIR --data=problems.jsonl --limit=32 --samples=4 --max_tokens=512   a first look
    python -m srt_jax evaluate --model=DIR --config=configs/X.py --temperatures=0,0.2,0.4,0.6,0.8,1.0  which is best?

The config gives prompt template, lengths, sampling and answer style: --config, else the run's own if --model is a run,
else base() with the chat template and the paper's lengths. Without --config, lengths are shortened to the model's
number of positions; with --max_tokens only that of the prompts. --data replaces the evaluation sets by one JSONL or
Parquet file with the columns problem and answer; --prompt_column and --answer_column name others. A call of the sampler
is cut to the memory (docs/operations.md). The job prints a line for each set and, at the end, one JSON object. --out
also writes every response with its answer and grade. Ctrl-C ends the job within seconds with status 130, and --out is
not written. Several processes give the result of one. They must all see the folder of --out, without --out the config's
run folder. If one of them dies, the others end (run/parent.py).

--temperatures compares temperatures by AVG, the mean of pass@1, pass@8 and pass@32, each a mean over the sets. SePT
chooses the base model's temperature in this way. At temperature 0 there is one sample, and so only pass@1.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli, runtime
from srt_jax.config import base, recorded, run_directory, source
from srt_jax.config.paths import expand_paths, initial_weights
from srt_jax.config.resolve import on_this_machine
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError, DataError
from srt_jax.files import check_output_file, write_jsonl
from srt_jax.log import logger
from srt_jax.run import interrupt, parent

AVERAGED = (1, 8, 32)  # AVG is the mean of pass@k for these k


def evaluation_config(
    model: str,
    data: str | None,
    config: ConfigDict | None,
    limit: int | None = None,
    samples: int | None = None,
    max_tokens: int | None = None,
    **columns: str | None,
) -> ConfigDict:
    """The config of the evaluation. For a run it is the run's own, with its final weights.

    The other arguments are the flags of these names, or None. columns: prompt_column and answer_column.
    Raises ModelError for an adapter that cannot be read.
    """
    from srt_jax.run import exports

    run = pathlib.Path(model)
    if (run / "final").is_dir() and config is None:
        config = recorded(run)
        # The run's layout on the devices of this machine.
        config.mesh.data, config.mesh.fsdp = -1, -1 if config.mesh.fsdp > 1 else 1
        config.batch.microbatch_sequences = -1
    config = (base() if config is None else config).copy_and_resolve_references()
    config.name = config.name or "evaluate"
    exports.use(config, str(run / "final") if (run / "final").is_dir() else model)
    if data:
        with config.eval.unlocked():
            config.eval.sets = ConfigDict({pathlib.Path(data).stem: source(**file_source(data, **columns))})
    for eval_set in config.eval.sets.values() if limit else ():
        eval_set.limit = limit
    config.eval.samples = samples or config.eval.samples
    if max_tokens:
        set_lengths(config, config.batch.max_prompt_tokens, max_tokens)
    return config


def file_source(path: str, **columns: str | None) -> dict:
    """The fields of a source that reads this file. The file's suffix decides its kind."""
    kind = "parquet" if pathlib.Path(path).suffix == ".parquet" else "jsonl"
    return {"kind": kind, "path": path, **{name: column for name, column in columns.items() if column}}


def set_lengths(config: ConfigDict, prompt: int, response: int) -> None:
    """Limits prompts and responses to these numbers of tokens, and sets the buckets accordingly."""
    b, r = config.batch, config.rollout
    b.max_prompt_tokens, b.max_response_tokens = prompt, response
    b.length_buckets = (prompt + response,)  # only an update uses buckets
    r.prompt_buckets = (*(size for size in r.prompt_buckets if size < prompt), prompt)


def shorten(config: ConfigDict, positions: int, max_tokens: int | None = None, given: bool = False) -> str | None:
    """Shortens default lengths to the model's positions. Returns a line about it, or None if they fit already.

    max_tokens: the flag, which fixes the length of a response. given: whether --config fixes the length of a prompt.
    Raises ConfigError if max_tokens leaves no room for a prompt.
    """
    prompt, response = config.batch.max_prompt_tokens, config.batch.max_response_tokens
    if prompt + response <= positions:
        return None
    least = prompt if given else 1
    if max_tokens and max_tokens + least > positions:
        raise ConfigError(
            f"--max_tokens is {max_tokens}, but the model has {positions} positions, and prompts need "
            f"{least}{' (batch.max_prompt_tokens)' * given}: "
            + (f"give at most {positions - least}." if positions > least else "shorten batch.max_prompt_tokens.")
        )
    if given:
        return None  # read_model names the fields of the config
    prompt = positions - max_tokens if max_tokens else min(prompt, max(1, positions // 4))
    set_lengths(config, prompt, min(response, positions - prompt))
    return (
        f"lengths: the model has {positions} positions: prompts of at most {prompt} tokens, responses of at most "
        f"{config.batch.max_response_tokens}"
    )


def evaluate_model(
    config: ConfigDict,
    out: pathlib.Path | None,
    temperatures: Sequence[float] = (),
    max_tokens: int | None = None,
    given: bool = True,
) -> dict:
    """{temperature: {set: metrics}} of config.model.path on the config's evaluation sets. Writes responses to `out`.

    temperatures: the temperatures to compare. Without them the sets are sampled at eval.temperature. max_tokens, given:
    see `shorten`.
    """
    from srt_jax.grading.grader import Grader
    from srt_jax.model.config import ModelConfig, read_hf_config
    from srt_jax.run.diagnosis import Diagnosis
    from srt_jax.run.evaluation import evaluate_all, rollout_rows
    from srt_jax.run.loading import load_weights, open_mesh, open_sampler
    from srt_jax.run.prepare import encode_eval_sets, find_model, read_model
    from srt_jax.run.rollouts import Grading, answer_format

    if max_tokens or not given:
        positions = ModelConfig.from_hf(read_hf_config(find_model(config.model.path))).max_position_embeddings
        if line := shorten(config, positions, max_tokens, given):
            logger.info(line)
    config, notes = on_this_machine(config, trains=False)
    for note in notes:
        logger.info(note)
    configs = [at_temperature(config, temperature) for temperature in temperatures] or [config]
    for c in configs:
        validate(c, recorded=True)
    model = read_model(config)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    eval_sets, report = encode_eval_sets(config, model.tokenizer)
    logger.info("\n".join(report))
    if temperatures and (silent := [s.name for s in eval_sets if not any(p.answer or p.metadata for p in s.problems)]):
        raise DataError(f"--temperatures compares by right answers, but {', '.join(silent)} has none: leave it out.")
    mesh = open_mesh(config)
    graphdef, params = load_weights(config, model, mesh)
    # Another folder than the run's own, because the run may be in progress and export there.
    sampler = open_sampler(config, model, graphdef, mesh, run_directory(config) / "evaluate")
    results, rows = {}, []
    diagnosis = Diagnosis(config, model.tokenizer.convert_ids_to_tokens(list(model.stop_ids)))
    try:
        sampler.load(params, 0)
        with Grader(
            config.grader.workers, match=config.vote.match, timeout=config.grader.timeout, truth=config.eval.match
        ) as grader:
            grader.self_test()
            grading = Grading(model.tokenizer, answer_format(config), grader)
            for c in configs:
                found = results[c.eval.temperature] = {}
                at = f" at temperature {c.eval.temperature:g}" if temperatures else ""
                for name, found[name], collected in evaluate_all(eval_sets, sampler, grading, c, at):
                    if runtime.is_first_process():
                        warn(diagnosis, name, found[name], collected, model.tokenizer)
                    rows += [
                        {"set": name, "temperature": c.eval.temperature, **row}
                        for row in (rollout_rows(collected, model.tokenizer) if out else ())
                    ]
    finally:
        sampler.close()
    if out and runtime.is_first_process():
        write_jsonl(out, rows)
    return results


def warn(diagnosis, name: str, values: dict[str, float], collected, tokenizer) -> None:
    """Warns about a set's metrics, once for each kind of fault: no answers are found, or responses are truncated."""
    from srt_jax.run.rollouts import response_texts

    tagged = {f"eval/{name}/{metric}": value for metric, value in values.items()}
    for text in diagnosis.update(tagged, responses=lambda: response_texts(collected.rollouts.flat(), tokenizer)):
        logger.warning(f"{name}: {text}")


def at_temperature(config: ConfigDict, temperature: float) -> ConfigDict:
    """The config of one temperature of a comparison. Raises ConfigError if there are too few samples for AVG."""
    if config.eval.samples < max(AVERAGED):
        raise ConfigError(
            f"eval.samples is {config.eval.samples}: --temperatures compares by pass@{max(AVERAGED)}: "
            f"give at least {max(AVERAGED)}."
        )
    config = config.copy_and_resolve_references()
    config.eval.temperature = temperature
    if temperature == 0:
        config.eval.samples = 1
    return config


def parse_temperatures(texts: Sequence[str]) -> list[float]:
    """The different numbers among the texts, in order. Raises ConfigError for a text that is no number."""
    try:
        return list(dict.fromkeys(float(text) for text in texts))
    except ValueError as e:
        raise ConfigError(f"--temperatures is {','.join(texts)}: give numbers with commas between them.") from e


def averages(sets: dict[str, dict], k: int) -> dict[str, float]:
    """Means over the sets: pass@1 (equal to avg@k), and those of pass@8, pass@32 and AVG that k samples allow."""
    found = {"pass@1": np.mean([values[f"avg@{k}"] for values in sets.values()])}
    found |= {f"pass@{j}": np.mean([values[f"pass@{j}"] for values in sets.values()]) for j in AVERAGED[1:] if j <= k}
    if k >= max(AVERAGED):
        found["AVG"] = np.mean([found[f"pass@{j}"] for j in AVERAGED])
    return {name: float(value) for name, value in found.items()}


def compare(results: dict[float, dict], samples: int) -> tuple[dict[float, dict], float | None]:
    """({temperature: averages}, the temperature with the largest AVG, the lowest of equal ones)."""
    found = {t: averages(sets, 1 if t == 0 else samples) for t, sets in results.items()}
    compared = [t for t in sorted(found) if "AVG" in found[t]]
    return found, max(compared, key=lambda t: found[t]["AVG"]) if compared else None


def sweep_table(found: dict[float, dict]) -> str:
    """One line per temperature."""
    names = [*(f"pass@{j}" for j in AVERAGED), "AVG"]
    lines = [f"{'temperature':<12}" + "".join(f"{name:>9}" for name in names)]
    for temperature, values in found.items():
        cells = (f"{values[name]:.3f}" if name in values else "-" for name in names)
        lines.append(f"{temperature:<12g}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def main(argv) -> int:
    """Evaluates, and prints the table and the JSON line. Returns 0, or 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.model:
        return cli.complain("give --model=DIRECTORY, and no other bare arguments.")
    for name in ("limit", "samples", "max_tokens"):
        if given[name].value is not None and given[name].value < 1:
            return cli.complain(f"--{name} is {given[name].value}: it must be at least 1.")
    columns = {name: given[name].value for name in ("prompt_column", "answer_column")}
    if any(columns.values()) and not given.data:
        return cli.complain("--prompt_column and --answer_column are columns of --data: give it, too.")
    config = evaluation_config(
        given.model, given.data, given.config, given.limit, given.samples, given.max_tokens, **columns
    )
    if not config.eval.sets:
        return cli.complain(
            f"--model={given.model} is no finished run with evaluation sets: finish it, or give "
            "--data=problems.jsonl, or a config with eval.sets."
        )
    validate(config, recorded=True)
    if given.out:
        check_output_file(given.out)
    temperatures = parse_temperatures(given.temperatures)
    out = pathlib.Path(given.out) if given.out else None
    parent.obey()
    if parent.needed():
        path = out or run_directory(expand_paths(config)) / "evaluate"
        records = path.with_name(f"{path.name}.processes")
        job = parent.Job("the evaluation", path, records, "to evaluate again", "give another --out")
        return parent.watch(job, config.stop.peer_seconds, config.stop.join_seconds)
    parent.join(config)
    return interrupt.run(
        lambda: show(
            config,
            temperatures,
            evaluate_model(config, out, temperatures, given.max_tokens, given.config is not None),
        ),
        "interrupted: nothing is written. The same command starts again.",
    )


def show(config: ConfigDict, temperatures: Sequence[float], results: dict[float, dict]) -> int:
    """Prints the results after the lines of the sets: a table of the temperatures, and one JSON object."""
    if not runtime.is_first_process():
        return 0
    if not temperatures:
        print(json.dumps({"model": initial_weights(config), "sets": results[config.eval.temperature]}))
    else:
        found, best = compare(results, config.eval.samples)
        print(sweep_table(found))
        print(json.dumps({"model": initial_weights(config), "best": best, "temperatures": found}))
    return 0


if __name__ == "__main__":
    cli.define_path(
        "model", "Hugging Face directory, hub id, PEFT adapter's directory, or the folder of a finished run."
    )
    cli.define_path("data", "JSONL or Parquet file of problems with answers, instead of the config's sets.")
    flags.DEFINE_string("prompt_column", None, "Column of --data with the problems; by default `problem`.")
    flags.DEFINE_string("answer_column", None, "Column of --data with the answers; by default `answer`.")
    cli.define_config("Config for prompts, lengths and sampling.")
    flags.DEFINE_list("temperatures", [], "Temperatures to compare, e.g. 0,0.6,1.0, instead of eval.temperature.")
    flags.DEFINE_integer("limit", None, "Use only this many problems of each set, from its start.")
    flags.DEFINE_integer("samples", None, "Samples of each problem: eval.samples.")
    flags.DEFINE_integer("max_tokens", None, "Tokens of a response: batch.max_response_tokens.")
    cli.define_path("out", "JSONL file for the responses.")
    parent.leave_at_once(lambda: cli.run(main))
