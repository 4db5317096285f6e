"""Checks the values of a config's fields, and conditions on several fields, before anything expensive starts.

Each error is one sentence with the field, its value and a remedy. fields.py has the allowed values of each single
field.
"""

import importlib.util
import ipaddress
import urllib.parse

from ml_collections import ConfigDict

from srt_jax.config import functions
from srt_jax.config.allowed import rules
from srt_jax.config.arithmetic import (
    evaluations,
    has_teacher,
    may_fall_back,
    mesh_shape,
    reward_weights,
    takes_readings,
    votes_per_prompt,
)
from srt_jax.config.fields import CONFIDENCES, FIELDS, MEAN, SHAPES, SOURCE, VALIDATION, base
from srt_jax.config.types import check_types
from srt_jax.errors import ConfigError
from srt_jax.grading.answers import Format

VOTED = ("agreement", "soft_vote", "empo", "scrl_like", "restrain_like", "minority_penalty")  # rewards by the vote
ACROSS_PROMPTS = ("reinforce", "reinforce_baseline", "reinforce_pp")  # These have no baseline for each prompt.
READ_BY = {  # {field: the only value of labels.source that reads it}
    "labels.path": "file",
    "labels.labelled_fraction": "mixed",
    "labels.ema_rate": "ema",
    "data.labelled_column": "mixed",
    "data.paraphrases": "paraphrase",
}
LEAST_VOTES = 8  # of the base on a prompt, for the guard
LEAST_READINGS = 4  # an alarm of the guard needs a peak and three fallen readings (run/collapse.py)


def validate(config: ConfigDict, recorded: bool = False) -> None:
    """Checks everything that needs neither data nor model. Raises ConfigError.

    recorded: the config may be that of an older run, which nobody can change. Values that a run ignores are allowed.
    """
    check_types(config)
    c = config
    _require(c.name, "name is empty: give the run a name, e.g. --config.name=my_run.")
    _require(c.model.path, "model.path is empty: give a Hugging Face directory or hub id.")
    _validate_values(c, FIELDS)
    for name, eval_set in c.eval.sets.items():
        _validate_values(eval_set, SOURCE, f"eval.sets.{name}.")
    for field, value in functions.named(c).items():
        functions.find(field, value)
    _validate_adapters(c)
    _validate_answer(c)
    for field, source in {"data": c.data, **{f"eval.sets.{name}": s for name, s in c.eval.sets.items()}}.items():
        _validate_source(field, source)
    _validate_batch(c)
    _validate_sampling(c)
    _validate_servers(c)
    _validate_labels(c)
    _validate_learning(c)
    _validate_schedule(c)
    _validate_loss(c)
    _validate_stop(c)
    _validate_guard(c)
    if not recorded:
        _refuse_ignored(c)


def _validate_values(section, table: dict, prefix: str = "") -> None:
    """Checks each field of the section that has a rule in the table."""
    for name, rule in rules(table):
        value = _get(section, name)
        _require(rule.allows(value), f"{prefix}{name} is {value!r}: {rule.remedy}")


def _validate_adapters(c: ConfigDict) -> None:
    lora = c.model.lora
    _require(
        lora.rank or not lora.path,
        f"model.lora.path is {lora.path!r}, but model.lora.rank is 0, which trains no adapter: set it to the adapter's "
        "rank.",
    )
    _require(
        lora.rank or not lora.merged,
        "model.lora.merged is True, but model.lora.rank is 0, so no adapter is exported: set it to False.",
    )


def _validate_answer(c: ConfigDict) -> None:
    try:
        Format(**c.answer)
    except ValueError as error:
        raise ConfigError(f"answer.{error}.") from error
    for field in ("reward.match", "eval.match"):
        _require(
            _get(c, field) != "math_verify" or importlib.util.find_spec("math_verify"),
            f"{field} is 'math_verify', but that package is not installed: run `pip install math-verify==0.9.0`, or "
            "choose 'verify'.",
        )


def _validate_source(field: str, source: ConfigDict) -> None:
    """Raises ConfigError for a field that this kind of source ignores. The user would get unexpected data."""
    path, kind, levels = source.path, source.kind, source.levels
    _require(
        not path or kind in ("jsonl", "parquet") or functions.is_function(kind),
        f"{field}.path is {path!r}, but {field}.kind is {kind!r}, which reads no file: set it to 'jsonl' or 'parquet'.",
    )
    _require(
        not levels or kind != "gym",
        f"{field}.levels is {levels}, but tasks of Reasoning Gym have none: use {field}.config.",
    )


def _refuse_ignored(c: ConfigDict) -> None:
    """Raises ConfigError for a value that differs from its default and that a run would ignore."""
    unchanged = base()
    for field, source in READ_BY.items():
        value, default = _get(c, field), _get(unchanged, field)
        _require(
            value == default or c.labels.source == source,
            f"{field} is {value!r}, but labels.source is {c.labels.source!r}, which does not use it: set labels.source "
            f"to {source!r}, or {field} to {default!r}, and resume an older run with "
            f"--allow_change={field.partition('.')[0]}.",
        )
    for name, eval_set in c.eval.sets.items():
        for field in ("paraphrases", "labelled_column"):
            _require(
                not eval_set[field],
                f"eval.sets.{name}.{field} is {eval_set[field]!r}, but evaluations do not use it: leave it empty, and "
                "resume an older run with --allow_change=eval.",
            )
    for field, switch, is_on, remedy in (
        ("model.lora.alpha", "model.lora.rank", c.model.lora.rank, "to that of the adapters"),
        ("model.lora.rslora", "model.lora.rank", c.model.lora.rank, "to that of the adapters"),
        ("rollout.temperature_end", "rollout.temperature_steps", c.rollout.temperature_steps, "to a number of steps"),
        ("curriculum.steps", "curriculum.path", c.curriculum.path, "to a file of srt label"),
        ("reward.overlong_buffer", "rl.objective", c.rl.objective == "policy_gradient", "to 'policy_gradient'"),
    ):
        value, default = _get(c, field), _get(unchanged, field)
        _require(
            is_on or value == default,
            f"{field} is {value!r}, but {switch} is {_get(c, switch)!r}, so it is ignored: set {switch} {remedy}, or "
            f"{field} to {default!r}, and resume an older run with --allow_change={field.partition('.')[0]}.",
        )
    _refuse_threshold(c)


def _refuse_threshold(c: ConfigDict) -> None:
    """labels.threshold decides which votes are labels, so something must need such a label."""
    if c.labels.source in ("ground_truth", "none"):
        cause = f"labels.source is {c.labels.source!r}, which takes no vote"
    elif all(name in CONFIDENCES for name in reward_weights(c.reward)):
        cause = "a reward from the confidence needs no label"
    else:
        return
    _require(
        not c.labels.threshold,
        f"labels.threshold is {c.labels.threshold}, but {cause}: set it to 0.0, and resume an older run with "
        "--allow_change=labels.",
    )


def _validate_batch(c: ConfigDict) -> None:
    b = c.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    alone = c.rl.objective != "policy_gradient" or c.rl.advantage in ACROSS_PROMPTS
    alone |= functions.is_function(c.rl.advantage)
    _require(
        b.samples_per_prompt >= 2 or alone,
        f"batch.samples_per_prompt is {b.samples_per_prompt}: {c.rl.advantage} compares a sample with the others "
        "of its prompt, so give at least 2.",
    )
    _require(
        b.votes_per_prompt == 0 or b.votes_per_prompt >= b.samples_per_prompt or has_teacher(c),
        f"batch.votes_per_prompt is {b.votes_per_prompt}, below the {b.samples_per_prompt} samples_per_prompt "
        "that are trained on: give at least as many, or 0.",
    )
    _require(
        b.prompts_per_step % b.minibatches_per_step == 0,
        f"batch.minibatches_per_step is {b.minibatches_per_step}: a mini-batch has whole prompts, so choose a "
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


def check_untruncated(c: ConfigDict) -> None:
    """Raises ConfigError if evaluations sample greedily or truncated: the KL estimate needs the full policy."""
    e = c.eval
    _require(
        e.temperature > 0 and e.top_p == 1 and e.top_k == -1,
        f"eval.temperature is {e.temperature:g}, eval.top_p {e.top_p:g} and eval.top_k {e.top_k}: the KL is estimated "
        "from untruncated samples, so set a temperature above 0, top_p to 1 and top_k to -1.",
    )


def _validate_sampling(c: ConfigDict) -> None:
    _require(c.eval.top_k == -1 or c.eval.top_k >= 1, f"eval.top_k is {c.eval.top_k}: give -1 for all, or at least 1.")
    _require(0 < c.eval.top_p <= 1, f"eval.top_p is {c.eval.top_p}: it lies in (0, 1].")
    if c.eval.kl:
        check_untruncated(c)
    if c.rollout.sampler == "vllm":
        for field in ("rollout.temperature", "rollout.temperature_end", "eval.temperature"):
            _require(_get(c, field) <= 2, f"{field} is {_get(c, field)}: vLLM takes no more than 2.")
    r = c.rollout
    sampled_at = {r.temperature, r.temperature_end if r.temperature_steps else r.temperature}
    _require(
        r.old_logprobs == "trainer"
        or c.rl.objective != "policy_gradient"
        or c.rl.temperature == 0
        or sampled_at == {c.rl.temperature},
        f"rl.temperature is {c.rl.temperature}, but with rollout.old_logprobs 'sampler' old log-probs have the "
        "sampling temperature: set rl.temperature to 0, or old_logprobs to 'trainer'.",
    )
    _require(
        r.steps_ahead == 0 or r.sampler == "vllm",
        f"rollout.steps_ahead is {r.steps_ahead}, but the jax sampler shares the trainer's devices: set "
        "rollout.sampler to 'vllm', or steps_ahead to 0.",
    )
    _require(
        r.steps_ahead == 0 or c.rl.tis_cap > 0 or c.rl.objective != "policy_gradient",
        f"rollout.steps_ahead is {r.steps_ahead}, so rollouts are one update old: set rl.tis_cap (2.0 is usual).",
    )
    _require(
        r.steps_ahead == 0 or c.batch.resample_rounds == 0,
        "rollout.steps_ahead and batch.resample_rounds exclude each other: set one of them to 0.",
    )


def _validate_servers(c: ConfigDict) -> None:
    servers, gpus = tuple(c.rollout.servers), tuple(c.rollout.vllm.gpus)
    _require(
        c.rollout.sampler == "vllm" or not servers,
        "rollout.servers names vLLM servers, but rollout.sampler is 'jax': set it to 'vllm'.",
    )
    for url in servers:
        _require(_is_server_url(url), f"rollout.servers has {url!r}: give addresses like 'http://127.0.0.1:8000'.")
    _require(
        len({url.rstrip("/") for url in servers}) == len(servers),
        f"rollout.servers is {servers}, which has an address twice: name each server once.",
    )
    for url in servers:
        host = urllib.parse.urlsplit(url).hostname
        _require(
            _is_loopback(host) or c.rollout.allow_unauthenticated,
            f"rollout.servers has {url!r}, another host, but vLLM's key guards only the endpoints below /v1, so "
            "everybody who reaches that port can load other weights: use a tunnel (ssh -L), or set "
            "rollout.allow_unauthenticated to True in a network that you trust.",
        )
    v = c.rollout.vllm
    wanted = v.num_servers * v.tensor_parallel * v.data_parallel
    _require(
        len(gpus) in (0, wanted),
        f"rollout.vllm.gpus is {gpus}: give the {wanted} GPUs of rollout.vllm.num_servers={v.num_servers} x "
        f"tensor_parallel={v.tensor_parallel} x data_parallel={v.data_parallel}, or ().",
    )
    _require(len(set(gpus)) == len(gpus), f"rollout.vllm.gpus is {gpus}, which has a GPU twice: name each once.")


def _validate_labels(c: ConfigDict) -> None:
    _require(
        not has_teacher(c) or c.rollout.sampler == "jax",
        "labels.source is 'ema', whose teacher samples in this process, but rollout.sampler is 'vllm': set it to "
        "'jax', or labels.source to 'file' for a teacher that stays as it is.",
    )
    _require(
        c.labels.source != "file" or c.labels.path,
        "labels.source is 'file', but labels.path is empty: name a file that srt label wrote.",
    )
    _require(
        c.labels.source not in ("vote", "mixed")
        or votes_per_prompt(c.batch) > 1
        or not any(name in VOTED for name in reward_weights(c.reward)),
        f"batch.samples_per_prompt is {c.batch.samples_per_prompt}, and a single sample always agrees with its own "
        "vote: give more, or set batch.votes_per_prompt.",
    )
    _require(
        c.labels.source == "none" or c.rl.objective == "policy_gradient",
        f"rl.objective is {c.rl.objective!r}, which uses no reward: set labels.source to 'none'.",
    )
    _validate_paraphrases(c)
    _validate_mixture(c)
    _require(
        c.labels.source == "vote" or c.reward.shape == "agreement" or functions.is_function(c.reward.shape),
        f"reward.shape is {c.reward.shape!r}, which needs no label, but labels.source is {c.labels.source!r}: "
        "set labels.source to 'vote', or reward.shape to 'agreement'.",
    )
    _require(
        c.labels.source != "none" or c.rl.objective != "policy_gradient",
        "labels.source is 'none', so there is no reward: set rl.objective to 'cross_entropy' or 'entropy'.",
    )
    late = [name for name in reward_weights(c.reward) if name in CONFIDENCES]
    _require(
        not late or c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but the reward {''.join(late[:1])!r} is known only after "
        "sampling: set it to 0.",
    )
    _require(
        c.labels.source != "none" or c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but with labels.source 'none' all rewards agree: "
        "set it to 0.",
    )


def _validate_paraphrases(c: ConfigDict) -> None:
    """Pairs of a problem and its paraphrase, which label each other."""
    pairs = c.labels.source == "paraphrase"
    _require(
        not pairs or c.data.paraphrases,
        "labels.source is 'paraphrase', but data.paraphrases is empty: name a file of {id, paraphrase}.",
    )
    _require(
        not pairs or c.batch.prompts_per_step % 2 == 0,
        f"batch.prompts_per_step is {c.batch.prompts_per_step}, but labels.source is 'paraphrase', and half of the "
        "prompts of a step are paraphrases: give an even number.",
    )
    for field, value in (("batch.resample_rounds", c.batch.resample_rounds), ("curriculum.path", c.curriculum.path)):
        _require(
            not pairs or not value,
            f"{field} is {value!r}, which chooses single problems, but labels.source is 'paraphrase', which needs "
            f"pairs: set {field} to {value.__class__()!r}.",
        )


def _validate_mixture(c: ConfigDict) -> None:
    mixture = c.reward.mixture.to_dict()
    if not mixture:
        return
    _require(
        len(mixture) > 1,
        f"reward.mixture is {mixture}, which has a single reward: give at least two, or set reward.shape to it.",
    )
    _require(
        c.reward.shape == "agreement",
        f"reward.mixture is {mixture}, but reward.shape is {c.reward.shape!r}: put it into the mixture, and leave "
        "reward.shape at 'agreement'.",
    )
    _require(
        c.batch.samples_per_prompt > 1,
        f"batch.samples_per_prompt is {c.batch.samples_per_prompt}, but reward.mixture compares the samples of a "
        "prompt: give at least 2.",
    )
    for name, weight in mixture.items():
        _require(
            name in (*SHAPES, *CONFIDENCES),
            f"reward.mixture has {name!r}, which is no reward: choose some of {', '.join((*SHAPES, *CONFIDENCES))}.",
        )
        _require(
            isinstance(weight, int | float) and not isinstance(weight, bool) and weight != 0,
            f"reward.mixture.{name} is {weight!r}: give a number other than 0.",
        )
        _require(
            c.labels.source == "vote" or name == "agreement" or name in CONFIDENCES,
            f"reward.mixture has {name!r}, which needs votes, but labels.source is {c.labels.source!r}: set it to "
            "'vote', or leave that reward out.",
        )
    _require(
        c.labels.source != "none",
        f"reward.mixture is {mixture}, but labels.source is 'none', which uses no reward: set it to 'vote'.",
    )
    _require(
        c.labels.source == "vote" or "agreement" in mixture,
        f"reward.mixture is {mixture}, which does not use the labels of labels.source {c.labels.source!r}: add "
        "'agreement', or set labels.source to 'vote'.",
    )


def _validate_penalty(c: ConfigDict) -> None:
    _require(
        c.labels.source in ("vote", "ema", "mixed", "paraphrase"),
        f"labels.unlabelled is 'penalty', but with labels.source {c.labels.source!r} a missing label does not mean a "
        "low vote share: set labels.source to 'vote', or unlabelled to 'discard'.",
    )
    _require(
        any(name not in CONFIDENCES for name in reward_weights(c.reward)),
        "labels.unlabelled is 'penalty', but rewards from the confidence need no label, so no prompt would be "
        "penalised: set unlabelled to 'discard', or reward.shape to a reward from votes.",
    )
    _require(
        c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but labels.unlabelled 'penalty' learns from prompts "
        "without a label, which would be replaced: set it to 0, or unlabelled to 'discard'.",
    )


def _validate_learning(c: ConfigDict) -> None:
    _require(
        c.rl.objective == "policy_gradient" or c.rl.kl_coef == 0 or c.rl.kl_in == "loss",
        f"rl.kl_in is 'reward', but rl.objective {c.rl.objective!r} uses no reward: set rl.kl_coef to 0, or kl_in to "
        "'loss'.",
    )
    _require(
        c.rl.advantage not in ACROSS_PROMPTS or c.batch.resample_rounds == 0,
        f"batch.resample_rounds is {c.batch.resample_rounds}, but rl.advantage {c.rl.advantage!r} also learns from "
        "prompts whose rewards agree: set it to 0, or choose another advantage.",
    )
    _require(
        (c.labels.penalty > 0) == (c.labels.unlabelled == "penalty"),
        f"labels.penalty is {c.labels.penalty} and labels.unlabelled {c.labels.unlabelled!r}: give a positive penalty "
        "with 'penalty', and 0 otherwise.",
    )
    if c.labels.unlabelled == "penalty":
        _validate_penalty(c)
    _require(
        not c.curriculum.path or c.curriculum.steps >= 1,
        f"curriculum.steps is {c.curriculum.steps}: give the steps over which the share of hard problems changes.",
    )
    _require(
        not c.curriculum.path or c.batch.resample_rounds == 0,
        "curriculum.path and batch.resample_rounds exclude each other: replacements come from all data; drop one.",
    )


def _validate_stop(c: ConfigDict) -> None:
    validating = c.stop.validation_fraction
    _require(
        validating == 0 or VALIDATION not in c.eval.sets,
        f"stop.validation_fraction is {validating}, which makes an evaluation set {VALIDATION!r}, but eval.sets has "
        "a set of this name: rename it.",
    )
    _require(
        MEAN not in c.eval.sets,
        f"eval.sets.{MEAN} has the name of the mean over the evaluation sets: give the set another name.",
    )
    _require(
        c.stop.patience == 0 or validating > 0 or c.eval.sets,
        f"stop.patience is {c.stop.patience}, but there is nothing to validate on: set stop.validation_fraction, "
        "e.g. to 0.01.",
    )


def _validate_guard(c: ConfigDict) -> None:
    _require(
        not may_fall_back(c) or c.labels.source == "vote",
        f"guard.action is 'teacher', which replaces votes by those of a frozen teacher, but labels.source is "
        f"{c.labels.source!r}: set it to 'vote', or guard.action to 'stop'.",
    )
    _require(
        not may_fall_back(c) or c.rollout.sampler == "jax",
        "guard.action is 'teacher', whose teacher samples in this process, but rollout.sampler is 'vllm': set it to "
        "'jax', or guard.action to 'stop'.",
    )
    if not takes_readings(c):
        return
    _require(
        c.guard.votes >= LEAST_VOTES,
        f"guard.votes is {c.guard.votes}: so few votes do not show of which answers the base is sure; give at least "
        f"{LEAST_VOTES}, or 0.",
    )
    _require(
        c.eval.sets or c.stop.validation_fraction,
        f"guard.action is {c.guard.action!r}, but there are no evaluation prompts on which it could watch the policy: "
        "add a set of held-out problems to eval.sets, which needs no answers, or set guard.votes to 0.",
    )
    _require(
        c.eval.temperature > 0,
        f"eval.temperature is {c.eval.temperature:g}, so all votes of the base would be equal, but guard.action is "
        f"{c.guard.action!r}: set a temperature above 0, or guard.votes to 0.",
    )
    _require(
        c.eval.top_k != 1,
        f"eval.top_k is 1, so all votes of the base would be equal, but guard.action is {c.guard.action!r}: set it to "
        "-1, or guard.votes to 0.",
    )
    _require(
        evaluations(c) >= LEAST_READINGS,
        f"guard.action is {c.guard.action!r}, whose alarm needs {LEAST_READINGS} evaluations, but {c.steps} steps with "
        f"eval.every={c.eval.every} have {evaluations(c)}: give more steps, lower eval.every, or set guard.votes to 0.",
    )


def _validate_loss(c: ConfigDict) -> None:
    _require(
        c.rl.clip_low <= 1,
        f"rl.clip_low is {c.rl.clip_low}: a ratio of probabilities cannot fall below 0, so give at most 1.",
    )
    _require(
        c.rl.tis_cap == 0 or c.rl.objective == "policy_gradient",
        f"rl.tis_cap is {c.rl.tis_cap}, but rl.objective {c.rl.objective!r} has no token weights: set it to 0.",
    )
    _require(
        c.rl.tis_cap == 0 or c.rollout.old_logprobs == "trainer",
        "rl.tis_cap compares the trainer's log-probs with the sampler's: set rollout.old_logprobs to 'trainer'.",
    )
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
        f"optimizer.warmup_steps is {o.warmup_steps}, so no step is left for the {o.schedule} schedule over {steps} "
        "steps: give fewer.",
    )
    for field in ("final_fraction", "schedule_steps"):
        _require(
            o.schedule != "constant" or o[field] == 0,
            f"optimizer.{field} is {o[field]}, but a constant schedule ignores it: set optimizer.schedule to "
            "'cosine' or 'linear'.",
        )


def validate_devices(config: ConfigDict, num_devices: int, trains: bool = True) -> None:
    """Checks that the mesh fits the devices, and the batch fits the mesh.

    trains: whether the job makes updates. Only then must the devices divide the batch. Raises ConfigError.
    """
    shape, c = mesh_shape(config.mesh, num_devices), config.mesh
    _require(
        shape,
        f"mesh.data={c.data} x mesh.fsdp={c.fsdp} x mesh.tensor={c.tensor} does not equal the {num_devices} "
        "devices here: set mesh.fsdp to -1, which follows the devices, or mesh.cpu_devices on a CPU.",
    )
    rows, b = shape[0] * shape[1], config.batch
    minibatch = b.prompts_per_step * b.samples_per_prompt // b.minibatches_per_step
    _require(
        not trains or minibatch % rows == 0,
        f"the {minibatch} sequences of a mini-batch cannot be split over the {rows} data x fsdp shards of the "
        "mesh: change batch.prompts_per_step, or raise mesh.tensor.",
    )
    for field in ("batch.microbatch_sequences", "rollout.slots") if trains else ("rollout.slots",):
        _require(
            _get(config, field) in (-1, 0) or _get(config, field) % rows == 0,
            f"{field} is {_get(config, field)}, which the {rows} data x fsdp shards do not divide: "
            f"choose a multiple of {rows}.",
        )


def _is_loopback(host: str) -> bool:
    """Tells whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
