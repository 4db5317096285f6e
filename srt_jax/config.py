"""The base config, its checks, and the arithmetic it implies. Every file in configs/ starts from `base()`."""
import json
import pathlib
import urllib.parse

from ml_collections import ConfigDict

CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.reference_dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn", "splash"),
    "model.remat": ("none", "dots", "attention", "full"),
    "prompts.template": ("chat", "plain"),
    "rollout.sampler": ("jax", "vllm"),
    "rollout.old_logprobs": ("trainer", "sampler"),
    "rollout.steps_ahead": (0, 1),
    "answer.style": ("boxed", "hash", "answer_tag", "final_answer"),
    "labels.source": ("vote", "soft_vote", "ground_truth", "file", "mixed", "none"),
    "labels.unlabelled": ("discard", "zero_advantage"),
    "vote.match": ("equivalent", "string"),
    "reward.match": ("equivalent", "string", "verify"),
    "rl.objective": ("policy_gradient", "cross_entropy", "entropy"),
    "rl.advantage": ("rloo", "grpo", "dr_grpo", "reinforce", "reinforce_baseline", "reinforce_pp",
                     "reinforce_pp_baseline"),
    "rl.kl": ("k1", "k2", "k3"),
    "rl.kl_in": ("reward", "loss"),
    "rl.loss_aggregation": ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"),
    "optimizer.schedule": ("constant", "linear", "cosine"),
    "optimizer.moments_dtype": ("float32", "bfloat16"),
    "curriculum.by": ("vote_share", "pass_rate"),
    "levels_from": ("final", "best"),
}

ACROSS_PROMPTS = ("reinforce", "reinforce_baseline", "reinforce_pp")  # no prompt is its own baseline


class ConfigError(ValueError):
    """A config that cannot run; the message is one sentence with field, value and remedy."""


def base() -> ConfigDict:
    """All fields with the paper's numbers (SRT v1, section 4 and appendix B). Locked: unknown keys raise."""
    config = ConfigDict(dict(
        name="",                     # run name; the run folder is <out>/<name>
        out="runs",
        seed=0,
        steps=1000,                  # RL steps; one step = one rollout batch
        model=dict(
            path="",                 # Hugging Face directory (or hub id) of the initial and reference model
            dtype="bfloat16",        # compute dtype; master weights and optimizer are float32
            reference_dtype="float32",  # the reference model's weights: float32 | bfloat16
            attention="auto",        # auto | xla | cudnn | splash; auto: cudnn on GPUs, splash on TPUs, xla on CPUs
            remat="full",            # recomputed in the backward pass: none | dots | attention | full
            head_chunk_tokens=4096,  # tokens per device whose logits exist at a time
        ),
        data=source(),
        prompts=dict(
            template="chat",         # chat (the tokenizer's own) | plain
            plain_template="{problem}",
            instruction=r"Let's think step by step and output the final answer within \boxed{}.",
            system="",
        ),
        batch=dict(
            prompts_per_step=16,
            samples_per_prompt=32,   # n: samples of a prompt that are trained on
            votes_per_prompt=0,      # samples that vote, the first n of them are trained on (TTRL); 0: n
            minibatches_per_step=1,  # optimizer updates per pass over the step's rollouts
            epochs_per_step=1,       # passes over the step's rollouts
            resample_rounds=0,       # further batches drawn at most to replace prompts whose rewards all agree (DAPO)
            max_prompt_tokens=1024,  # longer prompts are dropped, and reported
            max_response_tokens=3072,  # the stop token included
            microbatch_sequences=32,  # rows per forward/backward, over all devices; a row is a sequence
            length_buckets=(512, 1024, 2048, 4096),  # prompt + response; a micro-batch is cut to the smallest that fits
            packing=False,           # rows of the one length bucket hold as many sequences as fit, not one
        ),
        rollout=dict(
            sampler="jax",           # jax (in this process) | vllm (servers in processes of their own)
            temperature=1.0,
            temperature_end=1.0,     # reached over temperature_steps, then kept (SePT anneals 0.6 -> 1)
            temperature_steps=0,     # 0: always `temperature`
            old_logprobs="trainer",  # whose log-probs of the rollouts count as old: trainer (one more pass) | sampler
            steps_ahead=0,           # 1: sample the next step during the update, one step off-policy (vllm, rl.tis_cap)
            max_logprob_gap=0.1,     # largest mean |log-prob difference| to a server after its reload
            prompts_per_call=16,     # jax: prompts in one compiled sampler call
            prompt_buckets=(256, 512, 1024),  # jax: padded prompt lengths
            slots=0,                 # jax: sequences decoded at a time, refilled as they finish; 0: a call's
            servers=(),              # vllm: URLs of servers started elsewhere; (): start our own
            vllm=dict(
                python=".venv-vllm/bin/python",  # interpreter of the servers' environment
                num_servers=1,
                dtype="",            # served dtype; "": model.dtype
                weights_directory="",  # exports for the servers; "": <run>/weights; a RAM disk or local NVMe is faster
                keep=2,              # newest exports kept
                gpus=(),             # GPU of each server, e.g. (4, 5, 6, 7); (): not set
                memory_fraction=0.9,  # of the GPU's memory, or GiB of KV cache on a CPU server
                max_sequences=256,   # decoded at a time by one server
                start_seconds=600.0,  # limit for a server to become healthy
                seconds_per_token=1.0,  # a request may take 60 s + this x max_response_tokens
                max_restarts=3,      # of one server, in the whole run
            ),
        ),
        answer=dict(style="boxed"),  # boxed | hash | answer_tag | final_answer
        labels=dict(
            source="vote",           # vote (SRT) | soft_vote | ground_truth (RLVR) | file | mixed | none (SePT)
            path="",                 # file: JSONL of {id, label}, as srt_jax.label writes it
            threshold=0.0,           # least vote share (votes of the label / n) of a label
            labelled_fraction=0.0,   # mixed: share of problems whose answer is used; 0: data.labelled_column decides
            unlabelled="discard",    # prompts without a label: discard | zero_advantage (as the released code does)
        ),
        vote=dict(match="equivalent"),  # how answers are compared for votes: equivalent | string
        reward=dict(
            match="equivalent",      # how answers are compared with a label: equivalent | string | verify (directed)
            overlong_buffer=0,       # tokens before the limit over which up to 1 is taken off the reward (DAPO)
            drop_truncated=False,    # responses cut at the limit count in the vote, not in the loss (DAPO)
        ),
        grader=dict(workers=2, timeout=5.0),  # seconds of wall clock per comparison
        rl=dict(
            objective="policy_gradient",  # policy_gradient | cross_entropy (SePT) | entropy (EM-FT)
            advantage="rloo",        # rloo | grpo | dr_grpo | reinforce | reinforce_baseline | reinforce_pp[_baseline]
            kl="k3",                 # k1 | k2 | k3: the estimate of the KL to the initial model
            kl_coef=0.001,           # of its sum over a response, in the reward; or of its token terms, in the loss
            kl_in="reward",          # reward | loss
            clip_low=0.2,            # the ratio to the old policy is clipped to [1 - clip_low, 1 + clip_high]
            clip_high=0.2,
            tis_cap=0.0,             # cap of the weight trainer / sampler probability of a token; 0: no such weight
            entropy_coef=0.0,        # of the entropy bonus
            loss_aggregation="token-mean",
            temperature=0.0,         # of the loss's distribution; 0: the one sampled at
        ),
        optimizer=dict(
            learning_rate=1e-6, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0,
            schedule="constant",     # after the warm-up: constant | linear | cosine, the last two to 0 at the last step
            warmup_steps=0,
            moments_dtype="float32",  # of AdamW's moments: float32 | bfloat16
        ),
        mesh=dict(
            data=-1,                 # -1: whatever the other two leave
            fsdp=1,
            tensor=1,
            cpu_devices=0,           # on a CPU: simulated devices (0: leave as it is)
        ),
        eval=dict(
            sets=ConfigDict(),       # name -> source
            every=100,               # steps; also at step 0 and at the last
            samples=32,
            temperature=1.0,
            top_p=1.0,
            top_k=-1,
        ),
        curriculum=dict(
            path="",                 # file of srt_jax.label: its scores tell easy problems from hard ones; "": none
            by="vote_share",         # vote_share (label-free) | pass_rate
            easy_fraction=0.33333,   # share of the problems that counts as easy
            hard_start=0.0,          # share of hard problems in a step at first, growing to
            hard_end=1.0,            # this over
            steps=0,                 # these many steps
        ),
        stop=dict(
            patience=0,              # evaluations without a better validation avg@k that end the run; 0: never
            validation_fraction=0.0,  # share of the training problems held out as the evaluation set `validation`
            collapse=False,          # end the run on label-free signs of a collapse (srt_jax/collapse.py)
        ),
        levels=(),                   # dicts of a name and changed fields: a run each, from the weights before
        levels_from="final",         # final | best weights of the level before
        checkpoint=dict(every=100),
        log=dict(
            rollouts_every=1,        # steps between saved rollouts
            shown=8,                 # responses in TensorBoard's tables, and fixed eval problems shown at both ends
            profile=False,           # trace steps 3 to 5 for TensorBoard's profiler
        ),
    ))
    return config.lock()


def source(**fields) -> ConfigDict:
    """Where problems come from: a file (path and columns), a named set (name, root), a Reasoning Gym task (rest)."""
    config = ConfigDict(dict(
        kind="jsonl",                # jsonl | parquet | set (a name in srt_jax/data/sets.py) | gym
        limit=0,                     # problems kept, from the start; 0: all
        path="", prompt_column="problem", answer_column="answer", id_column="id", level_column="level",
        labelled_column="",          # true/false: may this problem's answer be trained on? for labels.source mixed
        levels=(),                   # keep only problems of these levels (as text); (): of all
        name="", root="",            # set; root: folder of NAME.jsonl or NAME.parquet; "": $SRT_JAX_DATA, then the hub
        task="", config=ConfigDict(), seed=0, size=1000,  # gym; config: the task's own fields
    ))
    config.update(fields)
    return config


def validate(config: ConfigDict) -> None:
    """Checks all that needs no data and no model. Raises ConfigError."""
    c = config
    _require(c.name, "name is empty: give the run a name, e.g. --config.name=my_run.")
    _require(c.model.path, "model.path is empty: give a Hugging Face directory or hub id.")
    for field, allowed in CHOICES.items():
        _choice(c, field, allowed)
    for field in ("steps", "batch.prompts_per_step", "batch.samples_per_prompt", "batch.microbatch_sequences",
                  "batch.minibatches_per_step", "batch.epochs_per_step", "batch.max_prompt_tokens",
                  "batch.max_response_tokens", "rollout.prompts_per_call", "eval.every", "eval.samples",
                  "checkpoint.every", "grader.workers", "model.head_chunk_tokens", "mesh.fsdp", "mesh.tensor",
                  "log.rollouts_every", "rollout.vllm.num_servers", "rollout.vllm.keep", "rollout.vllm.max_sequences"):
        _require(_get(c, field) >= 1, f"{field} is {_get(c, field)}: it must be at least 1.")
    for field in ("rollout.temperature", "rollout.temperature_end", "rollout.max_logprob_gap",
                  "optimizer.learning_rate", "optimizer.grad_clip", "grader.timeout", "rollout.vllm.memory_fraction",
                  "rollout.vllm.start_seconds", "rollout.vllm.seconds_per_token"):
        _require(_get(c, field) > 0, f"{field} is {_get(c, field)}: it must be positive.")
    for field in ("rl.kl_coef", "rl.clip_low", "rl.clip_high", "rl.tis_cap", "rl.entropy_coef", "rl.temperature",
                  "batch.resample_rounds", "rollout.temperature_steps", "rollout.slots", "reward.overlong_buffer",
                  "optimizer.warmup_steps", "curriculum.steps", "stop.patience", "rollout.vllm.max_restarts"):
        _require(_get(c, field) >= 0, f"{field} is {_get(c, field)}: it must not be negative.")
    for field in ("labels.threshold", "labels.labelled_fraction", "curriculum.easy_fraction", "curriculum.hard_start",
                  "curriculum.hard_end"):
        _require(0 <= _get(c, field) <= 1, f"{field} is {_get(c, field)}: a share lies in [0, 1].")
    _validate_batch(c)
    _validate_sampling(c)
    _validate_learning(c)


def _validate_batch(c: ConfigDict) -> None:
    b = c.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    alone = c.rl.objective != "policy_gradient" or c.rl.advantage in ACROSS_PROMPTS
    _require(b.samples_per_prompt >= 2 or alone,
             f"batch.samples_per_prompt is {b.samples_per_prompt}: {c.rl.advantage} compares a sample with the others "
             "of its prompt, so give at least 2.")
    _require(b.votes_per_prompt == 0 or b.votes_per_prompt >= b.samples_per_prompt,
             f"batch.votes_per_prompt is {b.votes_per_prompt}, below the {b.samples_per_prompt} samples_per_prompt "
             "that are trained on: give at least as many, or 0.")
    _require(b.prompts_per_step % b.minibatches_per_step == 0,
             f"batch.minibatches_per_step is {b.minibatches_per_step}: a mini-batch holds whole prompts, so choose a "
             f"divisor of the {b.prompts_per_step} batch.prompts_per_step.")
    _require(sequences % (b.minibatches_per_step * b.microbatch_sequences) == 0,
             f"batch.microbatch_sequences is {b.microbatch_sequences}, which does not divide the {sequences} sequences "
             f"of a step into {b.minibatches_per_step} mini-batches: choose a divisor of "
             f"{sequences // b.minibatches_per_step}.")
    longest = b.max_prompt_tokens + b.max_response_tokens
    _buckets(c, "batch.length_buckets", longest, "batch.max_prompt_tokens + batch.max_response_tokens")
    _require(not b.packing or len(b.length_buckets) == 1,
             f"batch.packing is True, which fills rows of one length, but batch.length_buckets is "
             f"{tuple(b.length_buckets)}: set it to {(b.length_buckets[-1],)}.")
    if c.rollout.sampler == "jax":
        _buckets(c, "rollout.prompt_buckets", b.max_prompt_tokens, "batch.max_prompt_tokens")
    _require(c.reward.overlong_buffer < b.max_response_tokens,
             f"reward.overlong_buffer is {c.reward.overlong_buffer}: it must be shorter than the "
             f"{b.max_response_tokens} batch.max_response_tokens.")


def _validate_sampling(c: ConfigDict) -> None:
    _require(c.eval.top_k == -1 or c.eval.top_k >= 1, f"eval.top_k is {c.eval.top_k}: give -1 for all, or at least 1.")
    _require(0 < c.eval.top_p <= 1, f"eval.top_p is {c.eval.top_p}: it lies in (0, 1].")
    _require(c.eval.temperature >= 0, f"eval.temperature is {c.eval.temperature}: it must not be negative.")
    _require(c.rollout.sampler == "vllm" or not c.rollout.servers,
             "rollout.servers names vLLM servers, but rollout.sampler is 'jax': set it to 'vllm'.")
    if c.rollout.sampler == "vllm":
        for field in ("rollout.temperature", "rollout.temperature_end", "eval.temperature"):
            _require(_get(c, field) <= 2, f"{field} is {_get(c, field)}: vLLM takes no more than 2.")
    for url in c.rollout.servers:
        _require(_is_server_url(url), f"rollout.servers has {url!r}: give addresses like 'http://127.0.0.1:8000'.")
    addresses = [url.rstrip("/") for url in c.rollout.servers]
    _require(len(set(addresses)) == len(addresses),
             f"rollout.servers is {tuple(c.rollout.servers)}, which has an address twice: name each server once.")
    gpus, servers = tuple(c.rollout.vllm.gpus), c.rollout.vllm.num_servers
    _require(len(gpus) in (0, servers),
             f"rollout.vllm.gpus is {gpus}: give a GPU for each of the {servers} rollout.vllm.num_servers, or ().")
    r = c.rollout
    sampled_at = {r.temperature, r.temperature_end if r.temperature_steps else r.temperature}
    _require(r.old_logprobs == "trainer" or c.rl.objective != "policy_gradient" or c.rl.temperature == 0
             or sampled_at == {c.rl.temperature},
             f"rl.temperature is {c.rl.temperature}, but with rollout.old_logprobs 'sampler' old log-probs are of the "
             "sampling temperature: set rl.temperature to 0, or old_logprobs to 'trainer'.")
    ahead = c.rollout.steps_ahead
    _require(ahead == 0 or c.rollout.sampler == "vllm",
             f"rollout.steps_ahead is {ahead}, but the jax sampler shares the trainer's devices: set rollout.sampler "
             "to 'vllm', or steps_ahead to 0.")
    _require(ahead == 0 or c.rl.tis_cap > 0,
             f"rollout.steps_ahead is {ahead}, so that rollouts are one update old: set rl.tis_cap (2.0 is usual).")
    _require(ahead == 0 or c.batch.resample_rounds == 0,
             "rollout.steps_ahead and batch.resample_rounds exclude each other: set one of them to 0.")
    _require(c.rl.tis_cap == 0 or c.rollout.old_logprobs == "trainer",
             "rl.tis_cap weighs the trainer's log-probs against the sampler's: set rollout.old_logprobs to 'trainer'.")


def _validate_learning(c: ConfigDict) -> None:
    _require(c.labels.source != "file" or c.labels.path,
             "labels.source is 'file', but labels.path is empty: name a file that srt_jax.label wrote.")
    _require(c.labels.source == "none" or c.rl.objective == "policy_gradient",
             f"rl.objective is {c.rl.objective!r}, which knows no reward: set labels.source to 'none'.")
    _require(c.labels.source != "none" or c.rl.objective != "policy_gradient",
             "labels.source is 'none', so there is no reward: set rl.objective to 'cross_entropy' or 'entropy'.")
    _require(c.rl.objective == "policy_gradient" or c.rl.kl_coef == 0 or c.rl.kl_in == "loss",
             f"rl.kl_in is 'reward', but rl.objective {c.rl.objective!r} knows none: set rl.kl_coef to 0, or kl_in to "
             "'loss'.")
    _require(c.rl.advantage not in ACROSS_PROMPTS or c.batch.resample_rounds == 0,
             f"batch.resample_rounds is {c.batch.resample_rounds}, but rl.advantage {c.rl.advantage!r} learns from "
             "prompts whose rewards agree, too: set it to 0, or choose another advantage.")
    _require(c.labels.source != "none" or c.batch.resample_rounds == 0,
             f"batch.resample_rounds is {c.batch.resample_rounds}, but with labels.source 'none' all rewards agree: "
             "set it to 0.")
    _require(c.optimizer.schedule == "constant" or c.optimizer.warmup_steps < c.steps,
             f"optimizer.warmup_steps is {c.optimizer.warmup_steps}, which leaves a {c.optimizer.schedule} schedule "
             f"none of the {c.steps} steps: give fewer.")
    _require(not c.curriculum.path or c.curriculum.steps >= 1,
             f"curriculum.steps is {c.curriculum.steps}: over how many steps shall the share of hard problems grow?")
    _require(not c.curriculum.path or c.batch.resample_rounds == 0,
             "curriculum.path and batch.resample_rounds exclude each other: replacements come from all data; drop one.")
    validating = c.stop.validation_fraction
    _require(0 <= validating < 1, f"stop.validation_fraction is {validating}: it lies in [0, 1).")
    _require(c.stop.patience == 0 or validating > 0 or c.eval.sets,
             f"stop.patience is {c.stop.patience}, but there is nothing to validate on: set stop.validation_fraction, "
             "e.g. to 0.01.")


def validate_devices(config: ConfigDict, num_devices: int) -> None:
    """Checks that the mesh fits the devices and the batch fits the mesh. Raises ConfigError."""
    fixed = config.mesh.fsdp * config.mesh.tensor
    data = num_devices // fixed if config.mesh.data == -1 else config.mesh.data
    _require(data * fixed == num_devices,
             f"mesh.data={config.mesh.data} x mesh.fsdp={config.mesh.fsdp} x mesh.tensor={config.mesh.tensor} does not "
             f"make the {num_devices} devices: change one of them, or mesh.cpu_devices on a CPU.")
    rows = data * config.mesh.fsdp
    for field in ("batch.microbatch_sequences", "rollout.slots"):
        _require(_get(config, field) % rows == 0,
                 f"{field} is {_get(config, field)}, which the {rows} data x fsdp shards do not divide: "
                 f"choose a multiple of {rows}.")


def describe(config: ConfigDict, num_devices: int) -> str:
    """The arithmetic of one step, e.g. '16 prompts x 32 samples = 512 sequences; 1 update; ...'."""
    b = config.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    updates = b.minibatches_per_step * b.epochs_per_step
    return (f"{b.prompts_per_step} prompts x {b.samples_per_prompt} samples = {sequences} sequences; "
            f"{updates} update{'s' if updates != 1 else ''}; "
            f"{'at most ' * b.packing}{sequences // b.microbatch_sequences} micro-batches of "
            f"{b.microbatch_sequences} on {num_devices} "
            f"device{'s' if num_devices != 1 else ''}; prompts <= {b.max_prompt_tokens} + responses <= "
            f"{b.max_response_tokens} tokens; {config.steps} steps = "
            f"{config.steps * b.prompts_per_step} prompts, {config.steps * sequences} rollouts")


def fingerprint_fields(config: ConfigDict) -> dict:
    """The fields that must not change when a run is resumed: all but its length and what it only shows or saves.

    The length may change only where the learning rate does not depend on it.
    """
    fields = json.loads(config.to_json_best_effort())
    for shown in ("out", "name", "log", "checkpoint", "grader"):
        del fields[shown]
    if config.optimizer.schedule == "constant":
        del fields["steps"]
    # Other machines may go on with the run, at another limit of what counts as rounding; in another dtype they may not.
    fields["rollout"]["vllm"] = {"dtype": config.rollout.vllm.dtype}
    for where in ("servers", "max_logprob_gap"):
        del fields["rollout"][where]
    return fields


def differing_fields(there: dict, here: dict, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two resolved configs differ, with both values."""
    names = []
    for key in sorted(there.keys() | here.keys()):
        x, y = there.get(key), here.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            names += differing_fields(x, y, f"{prefix}{key}.")
        elif x != y:
            names.append(f"{prefix}{key} ({x!r} there, {y!r} here)")
    return names


def run_directory(config: ConfigDict) -> pathlib.Path:
    """<out>/<name>."""
    return pathlib.Path(config.out) / config.name


def _is_server_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 80) > 0 and not (
            parts.path.strip("/") or parts.query or parts.fragment)
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
    _require(buckets and list(buckets) == sorted(set(buckets)) and buckets[0] > 0,
             f"{field} is {buckets}: give increasing positive lengths.")
    _require(buckets[-1] >= longest,
             f"{field} ends at {buckets[-1]}, but {what} is {longest}: add a bucket of at least {longest}.")

