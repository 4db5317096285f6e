"""Loads and checks everything that can be checked before any computation: data, tokenizer, model shapes, run folder."""

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from srt_jax.config import VALIDATION, functions, run_directory, takes_readings
from srt_jax.data import label_file, overlap, paraphrases
from srt_jax.data import problems as problem_sources
from srt_jax.data.base import Problem, fingerprint
from srt_jax.data.batching import batch_indices
from srt_jax.data.curriculum import Curriculum
from srt_jax.data.prompts import EvalSet, encode, load_tokenizer
from srt_jax.data.split import split_validation
from srt_jax.errors import ConfigError, DataError, DataNotHereError, ModelError, ModelNotHereError
from srt_jax.files import check_output_folder, download_failure
from srt_jax.grading.golds import looks_worked
from srt_jax.model import attention, decoder, lora, peft, sharding, weights
from srt_jax.model.config import GENERATION_CONFIG, ModelConfig, read_generation_config, read_hf_config, similar_folder
from srt_jax.model.lora import LoRA
from srt_jax.reward import functions as reward_functions
from srt_jax.reward import labels
from srt_jax.reward.labels import LabelSettings
from srt_jax.rl import advantages
from srt_jax.run import budget
from srt_jax.run.collapse import FEWEST
from srt_jax.run.stop_tokens import skip_when_decoded, stop_ids

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A Hugging Face directory and its content without the weights, and the adapter that a run starts from."""

    directory: pathlib.Path
    base_id: str  # its name in exported adapters
    hf_config: dict
    config: ModelConfig
    tokenizer: Any
    stop_ids: tuple[int, ...]
    generation_config: dict  # of exports: the directory's own, with stop_ids as eos_token_id
    adapter: peft.Adapter | None = None  # the content of model.lora.path

    @property
    def exported_files(self) -> dict[str, str]:
        """{name: text} of files that an export gets instead of the directory's own: generation stops as in training."""
        return {GENERATION_CONFIG: json.dumps(self.generation_config, indent=2) + "\n"}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checked run, all on the host. Nothing is compiled yet."""

    model: Model
    problems: list[Problem]
    prompts: list[list[int]]
    label_settings: LabelSettings
    indices: Callable[[int], np.ndarray]  # the problems of the n-th batch, from 0
    eval_sets: list[EvalSet]
    identity: dict  # fingerprints of data, prompts, model and label files, which a checkpoint must match
    report: list[str]  # lines to print


def prepare(config: ConfigDict) -> Prepared:
    """Loads and checks data, tokenizer and model shapes, and that the run folder can be made.

    Raises ConfigError, DataError, ModelError or OSError.
    """
    check_output_folder(run_directory(config))
    check_functions(config)
    model = read_model(config)
    weights.check(model.directory)
    problems, prompts, line = encode_source("data", config.data, model.tokenizer, config)
    eval_sets, report = encode_eval_sets(config, model.tokenizer)
    if config.stop.validation_fraction:
        held_out = {p.id for p in split_validation(problems, config.stop.validation_fraction, config.seed)[1]}
        validation = [p.id in held_out for p in problems]
        eval_sets.insert(0, EvalSet(VALIDATION, *_where(validation, problems, prompts)))
        problems, prompts = _where([not held for held in validation], problems, prompts)
        report.append(f"eval.sets.{VALIDATION}: {len(held_out)} held-out training problems")
    if config.labels.source == "paraphrase":
        problems, prompts, pairs = with_paraphrases(config, problems, prompts, model.tokenizer)
        report.append(pairs)
    report += [overlap.report(f"overlap: eval.sets.{s.name}", problems, s.problems) for s in eval_sets]
    indices = _order(config, problems)
    indices(0)  # raises if there are too few problems
    settings = LabelSettings.of(config)
    report = [
        f"model: {model.directory} ({model.config.family}, {model.config.num_params:,} parameters)",
        *adapters_line(config, model.config),
        line,
        labels.describe(problems, settings),
        *report,
        *guard_line(config, eval_sets),
        f"stop tokens: {', '.join(repr(model.tokenizer.convert_ids_to_tokens(i)) for i in model.stop_ids)}",
        budget.report(config, model.config),
    ]
    labels_path = config.labels.path if config.labels.source == "file" else ""
    files = [path for path in (labels_path, config.curriculum.path) if path]
    identity = {
        "data": fingerprint(problems),
        "model": model_fingerprint(model),
        "prompts": prompts_fingerprint(prompts, eval_sets),
        "labels": [label_file.fingerprint(path) for path in files],
        "functions": functions.fingerprints(config),
    }
    if model.adapter:
        identity["adapter"] = peft.fingerprint(model.adapter)
    return Prepared(model, problems, prompts, settings, indices, eval_sets, identity, report)


def adapters_line(config: ConfigDict, model: ModelConfig) -> list[str]:
    """A line about the adapters, if there are any."""
    if (settings := LoRA.of(config.model.lora)) is None:
        return []
    count = lora.num_params(settings, model)
    return [
        f"adapters: rank {settings.rank}, scale {settings.scale:g}, {count:,.0f} parameters "
        f"({count / model.num_params:.2%} of the model's), {config.model.lora.path or 'new'}"
    ]


def guard_line(config: ConfigDict, eval_sets: list[EvalSet]) -> list[str]:
    """A line about the guard, unless it is off. Raises ConfigError if no reading could decide."""
    action, votes, prompts = config.guard.action, config.guard.votes, sum(len(s.prompts) for s in eval_sets)
    if takes_readings(config) and prompts < FEWEST:
        raise ConfigError(
            f"guard.action is {action!r}, but the evaluation sets have {prompts} prompts, and the guard needs at least "
            f"{FEWEST}: add problems to eval.sets, or set guard.votes to 0, and resume an older run with "
            "--allow_change=guard."
        )
    if action == "off":
        return []
    reads = f"{votes} votes of the base on each of {prompts} evaluation prompts" if votes else "the metrics of steps"
    return [f"guard: {action} at signs of a collapse, from {reads}"]


def check_functions(config: ConfigDict) -> None:
    """Tries the functions that fields of the config name, on made-up samples. Raises ConfigError."""
    reward_functions.check(config)
    advantages.check(config.rl.advantage, config.batch.prompts_per_step, config.batch.samples_per_prompt)


def _where(mask: list[bool], *lists):
    return tuple([x for x, wanted in zip(values, mask) if wanted] for values in lists)


def with_paraphrases(
    config: ConfigDict, problems: list[Problem], prompts: list[list[int]], tokenizer
) -> tuple[list[Problem], list[list[int]], str]:
    """(problems and paraphrases in turn, their prompt tokens, a line to print). Raises DataError.

    A pair whose paraphrase is too long is dropped, as in the released code of Co-rewarding-I.
    """
    path, given = config.data.paraphrases, len(problems)
    others = paraphrases.paraphrased(problems, path)
    try:
        others, encoded, filtered = encode(others, tokenizer, config.prompts, config.batch.max_prompt_tokens)
    except DataError as e:
        raise DataError(f"data.paraphrases {path}: {e}") from None
    kept = {problem.id for problem in others}
    problems, prompts = _where([p.id + paraphrases.ENDING in kept for p in problems], problems, prompts)
    pairs, tokens = zip(problems, others, strict=True), zip(prompts, encoded, strict=True)
    line = f"data.paraphrases: {path}: {filtered}; {len(problems)} of {given} pairs"
    if same := paraphrases.repeated(problems, others):
        line += f", {same} of them with the same text twice"
    return [p for pair in pairs for p in pair], [ids for pair in tokens for ids in pair], line


def _order(config: ConfigDict, problems: list[Problem]) -> Callable[[int], np.ndarray]:
    """The function that maps the number of a batch to the indices of its problems."""
    if config.curriculum.path:
        return Curriculum.of(config, problems).indices
    draw = paraphrases.pair_indices if config.labels.source == "paraphrase" else batch_indices
    return functools.partial(draw, len(problems), config.batch.prompts_per_step, config.seed)


def read_model(config: ConfigDict) -> Model:
    """The model of model.path, checked against the config."""
    directory = find_model(config.model.path)
    hf_config = read_hf_config(directory)
    model_config = ModelConfig.from_hf(hf_config)
    check_fit(config, model_config)
    tokenizer = load_tokenizer(str(directory))
    largest = max(tokenizer.get_vocab().values())
    if largest >= model_config.vocab_size:
        raise ModelError(
            f"{directory}: the tokenizer has ids up to {largest}, but the embedding only "
            f"{model_config.vocab_size} rows: use the tokenizer that belongs to the model."
        )
    generation_config = read_generation_config(directory)
    stops = stop_ids(tokenizer, generation_config, hf_config, model_config.vocab_size)
    skip_when_decoded(tokenizer, stops)
    path = config.model.path
    base_id = str(pathlib.Path(path).resolve()) if pathlib.Path(path).is_dir() else path
    return Model(
        directory,
        base_id,
        hf_config,
        model_config,
        tokenizer,
        stops,
        {**generation_config, "eos_token_id": list(stops)},
        read_adapter(config, directory, model_config, base_id),
    )


def read_adapter(
    config: ConfigDict, directory: pathlib.Path, model_config: ModelConfig, base_id: str
) -> peft.Adapter | None:
    """The adapter of model.lora.path, None if there is none. directory: the base's.

    Raises ModelError if the adapter is damaged or of another base, and ConfigError if it differs from the fields
    of model.lora.
    """
    section, settings = config.model.lora, LoRA.of(config.model.lora)
    if settings is None or not section.path:
        return None
    adapter = peft.read_adapter(section.path)
    for field in dataclasses.fields(LoRA):
        here, there = getattr(settings, field.name), getattr(adapter.settings, field.name)
        if here != there:
            raise ConfigError(
                f"model.lora.{field.name} is {here!r}, but the adapter {section.path} has {there!r}: set it to that."
            )
    _, shapes = lora.attach(*decoder.abstract(model_config), settings)
    peft.check_base(adapter, section.path, shapes, base_id, weights.fingerprint(directory))
    return adapter


def check_fit(config: ConfigDict, model_config: ModelConfig) -> None:
    """Raises ConfigError or ModelError if lengths, mesh, attention or adapters do not fit the model or this machine."""
    sharding.check_mesh(model_config, config.mesh.tensor)
    if settings := LoRA.of(config.model.lora):
        lora.check(settings, model_config)
    attention.choose(config.model.attention, jax.default_backend(), config.model.dtype, model_config.head_dim)
    check_length(config, model_config)


def check_length(config: ConfigDict, model_config: ModelConfig) -> None:
    """Raises ConfigError if prompt and response can exceed the model's positions."""
    longest = config.batch.max_prompt_tokens + config.batch.max_response_tokens
    if longest > model_config.max_position_embeddings:
        raise ConfigError(
            f"batch.max_prompt_tokens + batch.max_response_tokens is {longest}, but {config.model.path} has positions "
            f"for {model_config.max_position_embeddings}: shorten one of them."
        )


def encode_source(field: str, source: ConfigDict, tokenizer, config: ConfigDict):
    """(problems, prompt tokens, a line to print) of a data source; field: its name in the config."""
    try:
        problems = problem_sources.load(source)
    except (DataError, ConfigError) as e:
        message = f"{field}: {e}"
        if isinstance(e, DataNotHereError) and field.startswith("eval."):
            message = message.removesuffix(".") + ", or evaluate on no set: --config.eval.sets={}."
        raise type(e)(message) from None
    problems, prompts, filtered = encode(problems, tokenizer, config.prompts, config.batch.max_prompt_tokens)
    answered = sum(p.answer is not None for p in problems)
    line = f"{field}: {problem_sources.title(source)}: {filtered}; {answered} with an answer"
    worked = [p.id for p in problems if p.answer is not None and p.metadata is None and looks_worked(p.answer)]
    if worked:
        line += (
            f"; {len(worked)} of these look like worked solutions, which no answer can match (the first has the "
            f"id {worked[0]}): set {field}.answer_column to a column of bare answers"
        )
    return problems, prompts, line


def encode_eval_sets(config: ConfigDict, tokenizer) -> tuple[list[EvalSet], list[str]]:
    """The evaluation sets of a config, and a line to print for each."""
    sets, report = [], []
    for name, source in config.eval.sets.items():
        problems, prompts, line = encode_source(f"eval.sets.{name}", source, tokenizer, config)
        sets.append(EvalSet(name, problems, prompts))
        report.append(line)
    return sets, report


def find_model(path: str) -> pathlib.Path:
    """A local Hugging Face directory, or the local copy of a hub model, which may be downloaded. Raises ModelError."""
    if pathlib.Path(path).is_dir():
        if peft.is_adapter(path) and not (pathlib.Path(path) / "config.json").exists():
            settings, base = peft.read_settings(path)
            raise ModelError(
                f"model.path {path!r} is an adapter of rank {settings.rank}, not a model: set model.lora.path to it, "
                f"model.lora.rank to its rank, and model.path to its base, {base!r}."
            )
        return pathlib.Path(path)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        near = similar_folder(path)
        remedy = f"did you mean {near!r}?" if near else "give a Hugging Face directory or a hub id."
        raise ModelError(f"model.path {path!r} does not exist: {remedy}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(snapshot_download(path, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        near = similar_folder(path)
        made = "give a directory that exists; launch/quickstart.sh makes the miniature's."
        remedy = f"did you mean {near!r}?" if near else made
        raise ModelNotHereError(
            f"model.path {path!r} is no local directory and could not be downloaded as a hub model "
            f"({download_failure(e)}): {remedy}"
        ) from None


def prompts_fingerprint(prompts: list[list[int]], eval_sets: list[EvalSet]) -> str:
    """sha256 over the tokens of all prompts and the problems of the evaluation sets."""
    digest = hashlib.sha256()
    for ids in itertools.chain(prompts, *(s.prompts for s in eval_sets)):
        digest.update(np.array([len(ids), *ids], np.int64).tobytes())
    for eval_set in eval_sets:
        digest.update(f"{eval_set.name}\n{fingerprint(eval_set.problems)}\n".encode())
    return digest.hexdigest()


def model_fingerprint(model: Model) -> str:
    """sha256 over config.json, the stop tokens, and the headers and sizes of the weight files.

    It reads little of the weights, and still differs between models.
    """
    digest = hashlib.sha256((model.directory / "config.json").read_bytes())
    digest.update(json.dumps(sorted(model.stop_ids)).encode())
    for block in weights.blocks(model.directory):
        digest.update(block)
    return digest.hexdigest()
