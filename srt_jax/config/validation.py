"""Whether a config can run: one clear sentence with field, value and remedy, before anything expensive starts."""

import importlib.util
import urllib.parse

from ml_collections import ConfigDict

from srt_jax.config import MEAN, mesh_shape
from srt_jax.config.types import check_types
from srt_jax.errors import ConfigError
from srt_jax.grading.answers import Format

CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.reference_dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "splash"),
    "model.remat": ("none", "dots", "attention", "full"),
    "prompts.template": ("chat", "plain"),
    "rollout.sampler": ("jax", "vllm"),
    "rollout.old_logprobs": ("trainer", "sampler"),
    "rollout.steps_ahead": (0, 1),
    "labels.source": ("vote", "soft_vote", "ground_truth", "file", "mixed", "none"),
    "labels.unlabelled": ("discard", "zero_advantage"),
    "vote.match": ("equivalent", "string"),
    "reward.match": ("equivalent", "string", "verify", "math_verify"),
    "eval.match": ("verify", "math_verify"),
    "rl.objective": ("policy_gradient", "cross_entropy", "entropy"),
    "rl.advantage": (
        "rloo",
        "grpo",
        "dr_grpo",
        "reinforce",
        "reinforce_baseline",
        "reinforce_pp",
        "reinforce_pp_baseline",
    ),
    "rl.kl": ("k1", "k2", "k3"),
    "rl.kl_in": ("reward", "loss"),
    "rl.loss_aggregation": ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"),
    "optimizer.schedule": ("constant", "linear", "cosine"),
    "optimizer.moments_dtype": ("float32", "bfloat16"),
    "rollout.vllm.dtype": ("", "float32", "bfloat16", "float16"),
    "curriculum.by": ("vote_share", "pass_rate"),
    "levels_from": ("final", "best"),
}

SOURCE_KINDS = ("jsonl", "parquet", "set", "gym")
ACROSS_PROMPTS = ("reinforce", "reinforce_baseline", "reinforce_pp")  # no prompt is its own baseline


def validate(config: ConfigDict) -> None:
    """Checks all that needs no data and no model. Raises ConfigError."""
    check_types(config)
    c = config
    _require(c.name, "name is empty: give the run a name, e.g. --config.name=my_run.")
    _require(c.model.path, "model.path is empty: give a Hugging Face directory or hub id.")
    for field, allowed in CHOICES.items():
        _choice(c, field, allowed)
    _validate_answer(c)
    for field in ("reward.match", "eval.match"):
        _require(
            _get(c, field) != "math_verify" or importlib.util.find_spec("math_verify"),
            f"{field} is 'math_verify', but that package is not installed: run `pip install -r "
            "requirements-math-verify.txt`, or choose 'verify'.",
        )
    for field in (
        "steps",
        "batch.prompts_per_step",
        "batch.samples_per_prompt",
        "batch.minibatches_per_step",
        "batch.epochs_per_step",
        "batch.max_prompt_tokens",
        "batch.max_response_tokens",
        "rollout.prompts_per_call",
        "eval.every",
        "eval.samples",
        "checkpoint.every",
        "grader.workers",
        "model.head_chunk_tokens",
        "mesh.tensor",
        "log.rollouts_every",
        "log.shown",
        "rollout.vllm.num_servers",
        "rollout.vllm.keep",
        "rollout.vllm.max_sequences",
    ):
        _require(_get(c, field) >= 1, f"{field} is {_get(c, field)}: it must be at least 1.")
    for field in (
        "rollout.temperature",
        "rollout.temperature_end",
        "rollout.max_logprob_gap",
        "optimizer.learning_rate",
        "optimizer.grad_clip",
        "optimizer.eps",
        "grader.timeout",
        "rollout.vllm.memory_fraction",
        "rollout.vllm.start_seconds",
        "rollout.vllm.seconds_per_token",
        "rl.clip_low",
        "rl.clip_high",
    ):
        _require(_get(c, field) > 0, f"{field} is {_get(c, field)}: it must be positive.")
    for field in (
        "rl.kl_coef",
        "rl.tis_cap",
        "rl.dual_clip",
        "rl.loss_scale",
        "rl.entropy_coef",
        "rl.temperature",
        "batch.resample_rounds",
        "rollout.temperature_steps",
        "rollout.slots",
        "reward.overlong_buffer",
        "optimizer.warmup_steps",
        "optimizer.weight_decay",
        "optimizer.schedule_steps",
        "mesh.cpu_devices",
        "curriculum.steps",
        "stop.patience",
        "rollout.vllm.max_restarts",
    ):
        _require(_get(c, field) >= 0, f"{field} is {_get(c, field)}: it must not be negative.")
    for field in (
        "labels.threshold",
        "labels.labelled_fraction",
        "curriculum.easy_fraction",
        "curriculum.hard_start",
        "curriculum.hard_end",
        "optimizer.final_fraction",
    ):
        _require(0 <= _get(c, field) <= 1, f"{field} is {_get(c, field)}: a share lies in [0, 1].")
    _require(
        c.rl.clip_low <= 1,
        f"rl.clip_low is {c.rl.clip_low}: a ratio of probabilities cannot fall below 0, so give at most 1.",
    )
    for field in ("batch.microbatch_sequences", "mesh.data", "mesh.fsdp"):
        _require(
            _get(c, field) == -1 or _get(c, field) >= 1,
            f"{field} is {_get(c, field)}: give -1 to follow the devices, or at least 1.",
        )
    for field in ("optimizer.b1", "optimizer.b2"):
        _require(0 <= _get(c, field) < 1, f"{field} is {_get(c, field)}: it lies in [0, 1).")
    for field, source in {"data": c.data, **{f"eval.sets.{name}": s for name, s in c.eval.sets.items()}}.items():
        _validate_source(field, source)
    _validate_batch(c)
    _validate_sampling(c)
    _validate_learning(c)


def _validate_answer(c: ConfigDict) -> None:
    try:
        Format(**c.answer)
    except ValueError as error:
        raise ConfigError(f"answer.{error}.") from error


def _validate_source(field: str, source: ConfigDict) -> None:
    """A file that is named and would not be read is another data set than the user thinks."""
    path, kind, levels = source.path, source.kind, source.levels
    _require(kind in SOURCE_KINDS, f"{field}.kind is {kind!r}: choose one of {', '.join(map(repr, SOURCE_KINDS))}.")
    _require(
        source.duplicates in ("refuse", "first"),
        f"{field}.duplicates is {source.duplicates!r}: choose one of 'refuse', 'first'.",
    )
    _require(source.limit >= 0, f"{field}.limit is {source.limit}: give a number of problems, or 0 for all of them.")
    _require(source.size >= 1, f"{field}.size is {source.size}: it must be at least 1.")
    _require(
        not path or kind in ("jsonl", "parquet"),
        f"{field}.path is {path!r}, but {field}.kind is {kind!r}, which reads no file: set it to 'jsonl' or 'parquet'.",
    )
    _require(
        not levels or kind != "gym",
        f"{field}.levels is {levels}, but tasks of Reasoning Gym have none: use {field}.config.",
    )


def _validate_batch(c: ConfigDict) -> None:
    b = c.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    alone = c.rl.objective != "policy_gradient" or c.rl.advantage in ACROSS_PROMPTS
    _require(
        b.samples_per_prompt >= 2 or alone,
        f"batch.samples_per_prompt is {b.samples_per_prompt}: {c.rl.advantage} compares a sample with the others "
        "of its prompt, so give at least 2.",
    )
    _require(
        b.votes_per_prompt == 0 or b.votes_per_prompt >= b.samples_per_prompt,
        f"batch.votes_per_prompt is {b.votes_per_prompt}, below the {b.samples_per_prompt} samples_per_prompt "
        "that are trained on: give at least as many, or 0.",
    )
    _require(
        b.prompts_per_step % b.minibatches_per_step == 0,
        f"batch.minibatches_per_step is {b.minibatches_per_step}: a mini-batch holds whole prompts, so choose a "
        f"divisor of the {b.prompts_per_step} batch.prompts_per_step.",
    )
    _require(
        b.microbatch_sequences == -1 or sequences % (b.minibatches_per_step * b.microbatch_sequences) == 0,
        f"batch.microbatch_sequences is {b.microbatch_sequences}, which does not divide the {sequences} sequences "
        f"of a step into {b.minibatches_per_step} mini-batches: choose a divisor of "
        f"{sequences // b.minibatches_per_step}.",
    )
    longest = b.max_prompt_tokens + b.max_response_tokens
    _buckets(c, "batch.length_buckets", longest, "batch.max_prompt_tokens + batch.max_response_tokens")
    _require(
        not b.packing or len(b.length_buckets) == 1,
        f"batch.packing is True, which fills rows of one length, but batch.length_buckets is "
        f"{tuple(b.length_buckets)}: set it to {(b.length_buckets[-1],)}.",
    )
    if c.rollout.sampler == "jax":
        _buckets(c, "rollout.prompt_buckets", b.max_prompt_tokens, "batch.max_prompt_tokens")
    _require(
        c.reward.overlong_buffer < b.max_response_tokens,
        f"reward.overlong_buffer is {c.reward.overlong_buffer}: it must be shorter than the "
        f"{b.max_response_tokens} batch.max_response_tokens.",
    )


def _validate_sampling(c: ConfigDict) -> None:
    _require(c.eval.top_k == -1 or c.eval.top_k >= 1, f"eval.top_k is {c.eval.top_k}: give -1 for all, or at least 1.")
    _require(0 < c.eval.top_p <= 1, f"eval.top_p is {c.eval.top_p}: it lies in (0, 1].")
    _require(c.eval.temperature >= 0, f"eval.temperature is {c.eval.temperature}: it must not be negative.")
    _require(
        c.rollout.sampler == "vllm" or not c.rollout.servers,
        "rollout.servers names vLLM servers, but rollout.sampler is 'jax': set it to 'vllm'.",
    )
    if c.rollout.sampler == "vllm":
        for field in ("rollout.temperature", "rollout.temperature_end", "eval.temperature"):
            _require(_get(c, field) <= 2, f"{field} is {_get(c, field)}: vLLM takes no more than 2.")
    for url in c.rollout.servers:
        _require(_is_server_url(url), f"rollout.servers has {url!r}: give addresses like 'http://127.0.0.1:8000'.")
    addresses = [url.rstrip("/") for url in c.rollout.servers]
    _require(
        len(set(addresses)) == len(addresses),
        f"rollout.servers is {tuple(c.rollout.servers)}, which has an address twice: name each server once.",
    )
    gpus, servers = tuple(c.rollout.vllm.gpus), c.rollout.vllm.num_servers
    _require(
        len(gpus) in (0, servers),
        f"rollout.vllm.gpus is {gpus}: give a GPU for each of the {servers} rollout.vllm.num_servers, or ().",
    )
    _require(len(set(gpus)) == len(gpus), f"rollout.vllm.gpus is {gpus}, which has a GPU twice: name each once.")
    r = c.rollout
    sampled_at = {r.temperature, r.temperature_end if r.temperature_steps else r.temperature}
    _require(
        r.old_logprobs == "trainer"
        or c.rl.objective != "policy_gradient"
        or c.rl.temperature == 0
        or sampled_at == {c.rl.temperature},
        f"rl.temperature is {c.rl.temperature}, but with rollout.old_logprobs 'sampler' old log-probs are of the "
        "sampling temperature: set rl.temperature to 0, or old_logprobs to 'trainer'.",
    )
    ahead = c.rollout.steps_ahead
    _require(
        ahead == 0 or c.rollout.sampler == "vllm",
        f"rollout.steps_ahead is {ahead}, but the jax sampler shares the trainer's devices: set rollout.sampler "
        "to 'vllm', or steps_ahead to 0.",
    )
    _require(
        ahead == 0 or c.rl.tis_cap > 0 or c.rl.objective != "policy_gradient",
        f"rollout.steps_ahead is {ahead}, so that rollouts are one update old: set rl.tis_cap (2.0 is usual).",
    )
    _require(
        ahead == 0 or c.batch.resample_rounds == 0,
        "rollout.steps_ahead and batch.resample_rounds exclude each other: set one of them to 0.",
    )
    _require(
        c.rl.tis_cap == 0 or c.rl.objective == "policy_gradient",
        f"rl.tis_cap is {c.rl.tis_cap}, but rl.objective {c.rl.objective!r} weighs no tokens: set it to 0.",
    )
    _require(
        c.rl.tis_cap == 0 or c.rollout.old_logprobs == "trainer",
        "rl.tis_cap weighs the trainer's log-probs against the sampler's: set rollout.old_logprobs to 'trainer'.",
    )


def _validate_learning(c: ConfigDict) -> None:
    _require(
        c.labels.source != "file" or c.labels.path,
        "labels.source is 'file', but labels.path is empty: name a file that srt label wrote.",
    )
    _require(
        c.labels.source == "none" or c.rl.objective == "policy_gradient",
        f"rl.objective is {c.rl.objective!r}, which knows no reward: set labels.source to 'none'.",
    )
    _require(
        c.labels.source != "none" or c.rl.objective != "policy_gradient",
        "labels.source is 'none', so there is no reward: set rl.objective to 'cross_entropy' or 'entropy'.",
    )
    _require(
        c.rl.objective == "policy_gradient" or c.rl.kl_coef == 0 or c.rl.kl_in == "loss",
        f"rl.kl_in is 'reward', but rl.objective {c.rl.objective!r} knows none: set rl.kl_coef to 0, or kl_in to "
        "'loss'.",
    )
    _require(
        c.rl.advantage not in ACROSS_PROMPTS or c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but rl.advantage {c.rl.advantage!r} learns from "
        "prompts whose rewards agree, too: set it to 0, or choose another advantage.",
    )
    _require(
        c.labels.source != "none" or c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but with labels.source 'none' all rewards agree: "
        "set it to 0.",
    )
    _validate_schedule(c)
    _validate_loss(c)
    _require(
        not c.curriculum.path or c.curriculum.steps >= 1,
        f"curriculum.steps is {c.curriculum.steps}: over how many steps shall the share of hard problems grow?",
    )
    _require(
        not c.curriculum.path or c.batch.resample_rounds == 0,
        "curriculum.path and batch.resample_rounds exclude each other: replacements come from all data; drop one.",
    )
    validating = c.stop.validation_fraction
    _require(0 <= validating < 1, f"stop.validation_fraction is {validating}: it lies in [0, 1).")
    _require(
        validating == 0 or "validation" not in c.eval.sets,
        f"stop.validation_fraction is {validating}, whose problems are the evaluation set 'validation', and "
        "eval.sets.validation is there, too: rename that one.",
    )
    _require(
        MEAN not in c.eval.sets,
        f"eval.sets.{MEAN} has the name of the mean over the evaluation sets: give the set another.",
    )
    _require(
        c.stop.patience == 0 or validating > 0 or c.eval.sets,
        f"stop.patience is {c.stop.patience}, but there is nothing to validate on: set stop.validation_fraction, "
        "e.g. to 0.01.",
    )


def _validate_loss(c: ConfigDict) -> None:
    _require(
        c.rl.dual_clip == 0 or c.rl.dual_clip > 1,
        f"rl.dual_clip is {c.rl.dual_clip}: it limits ratios above 1, so give more than 1 (3 is usual), or 0.",
    )
    _require(
        c.rl.dual_clip == 0 or c.rl.objective == "policy_gradient",
        f"rl.dual_clip is {c.rl.dual_clip}, but rl.objective {c.rl.objective!r} clips nothing: set it to 0.",
    )
    _require(
        c.rl.loss_scale == 0 or c.rl.loss_aggregation == "seq-mean-token-sum-norm",
        f"rl.loss_scale is {c.rl.loss_scale}, but rl.loss_aggregation {c.rl.loss_aggregation!r} divides by no "
        "constant: set it to 0, or the aggregation to 'seq-mean-token-sum-norm'.",
    )


def _validate_schedule(c: ConfigDict) -> None:
    o, steps = c.optimizer, c.optimizer.schedule_steps or c.steps
    _require(
        o.schedule == "constant" or o.warmup_steps < steps,
        f"optimizer.warmup_steps is {o.warmup_steps}, which leaves a {o.schedule} schedule none of the {steps} "
        "steps: give fewer.",
    )
    for field in ("final_fraction", "schedule_steps"):
        _require(
            o.schedule != "constant" or o[field] == 0,
            f"optimizer.{field} is {o[field]}, but a constant schedule does not fall: set optimizer.schedule to "
            "'cosine' or 'linear'.",
        )


def validate_devices(config: ConfigDict, num_devices: int, num_processes: int = 1, trains: bool = True) -> None:
    """Checks that the mesh fits the devices, the batch the mesh, and the sampler the processes. Raises ConfigError.

    trains: a job that makes no updates needs no batch that the devices divide.
    """
    _require(
        num_processes == 1 or config.rollout.sampler == "jax",
        f"rollout.sampler is {config.rollout.sampler!r}, which one process drives, and there are {num_processes}: "
        "set it to 'jax', or start one process.",
    )
    shape, c = mesh_shape(config.mesh, num_devices), config.mesh
    _require(
        shape,
        f"mesh.data={c.data} x mesh.fsdp={c.fsdp} x mesh.tensor={c.tensor} does not make the {num_devices} "
        "devices that are here: set mesh.fsdp to -1, which follows them, or mesh.cpu_devices on a CPU.",
    )
    rows, b = shape[0] * shape[1], config.batch
    minibatch = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step
    _require(
        not trains or minibatch % rows == 0,
        f"the {minibatch} sequences of a mini-batch cannot be split over the {rows} data x fsdp shards of the "
        "mesh: change batch.prompts_per_step, or use more of mesh.tensor.",
    )
    for field in ("batch.microbatch_sequences", "rollout.slots") if trains else ("rollout.slots",):
        _require(
            _get(config, field) in (-1, 0) or _get(config, field) % rows == 0,
            f"{field} is {_get(config, field)}, which the {rows} data x fsdp shards do not divide: "
            f"choose a multiple of {rows}.",
        )


def _is_server_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port or 80) > 0
            and not (parts.path.strip("/") or parts.query or parts.fragment)
        )
    except ValueError:  # a port that is no number
        return False


def _get(config, dotted: str):
    for part in dotted.split("."):
        config = config[part]
    return config


def _require(condition, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _choice(config, field: str, allowed) -> None:
    value = _get(config, field)
    _require(value in allowed, f"{field} is {value!r}: choose one of {', '.join(map(repr, allowed))}.")


def _buckets(config, field: str, longest: int, what: str) -> None:
    buckets = tuple(_get(config, field))
    _require(
        buckets and list(buckets) == sorted(set(buckets)) and buckets[0] > 0,
        f"{field} is {buckets}: give increasing positive lengths.",
    )
    _require(
        buckets[-1] >= longest,
        f"{field} ends at {buckets[-1]}, but {what} is {longest}: add a bucket of at least {longest}.",
    )
