"""The base config, its checks, and the arithmetic it implies. Every file in configs/ starts from `base()`."""
import json
import pathlib

from ml_collections import ConfigDict


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
            remat=True,              # recompute each layer in the backward pass
            logprob_chunk=512,       # positions whose logits exist at a time
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
            samples_per_prompt=32,
            max_prompt_tokens=1024,  # longer prompts are dropped, and reported
            max_response_tokens=3072,  # the stop token included
            microbatch_sequences=32,  # sequences per forward/backward, over all devices
            length_buckets=(1024, 2048, 4096),  # prompt + response, padded to the smallest that holds the batch
        ),
        rollout=dict(
            sampler="jax",
            temperature=1.0,
            prompts_per_call=16,     # prompts in one compiled sampler call
            prompt_buckets=(256, 512, 1024),
            old_logprobs="trainer",  # whose log-probs of the rollouts enter the KL: trainer (one more pass) | sampler
        ),
        answer=dict(style="boxed"),  # boxed | hash | answer_tag | final_answer
        labels=dict(
            source="vote",           # vote (SRT) | ground_truth (RLVR)
            threshold=0.0,           # least vote share (votes of the label / n) of a label
        ),
        vote=dict(match="equivalent"),  # how answers are compared for votes: equivalent | string
        reward=dict(match="equivalent"),  # how answers are compared with a voted label: equivalent | string
        grader=dict(workers=2, timeout=5.0),  # seconds of wall clock per comparison
        rl=dict(
            advantage="rloo",        # rloo | grpo | dr_grpo | reinforce
            kl="k3",                 # k1 | k2 | k3: the estimate of the KL to the initial model
            kl_coef=0.001,           # of its sum over a response, in the reward
            loss_aggregation="token-mean",
        ),
        optimizer=dict(learning_rate=1e-6, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0),
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
        checkpoint=dict(every=100),
        log=dict(
            rollouts_every=1,        # steps between saved rollouts
            shown=8,                 # responses in TensorBoard's tables, and fixed eval problems shown at both ends
        ),
    ))
    return config.lock()


def source(**fields) -> ConfigDict:
    """Where problems come from: JSONL (path and columns) or a Reasoning Gym task (task, config, seed, size)."""
    config = ConfigDict(dict(
        kind="jsonl", path="", prompt_column="problem", answer_column="answer", id_column="id", level_column="level",
        task="", config=ConfigDict(), seed=0, size=1000, limit=0,
    ))
    config.update(fields)
    return config


def validate(config: ConfigDict) -> None:
    """Checks all that needs no data and no model. Raises ConfigError."""
    c = config
    sequences = c.batch.prompts_per_step * c.batch.samples_per_prompt
    _require(c.name, "name is empty: give the run a name, e.g. --config.name=my_run.")
    _require(c.model.path, "model.path is empty: give a Hugging Face directory or hub id.")
    _choice(c, "model.dtype", ("float32", "bfloat16"))
    _choice(c, "prompts.template", ("chat", "plain"))
    _choice(c, "rollout.sampler", ("jax",))
    _choice(c, "rollout.old_logprobs", ("trainer", "sampler"))
    _choice(c, "answer.style", ("boxed", "hash", "answer_tag", "final_answer"))
    _choice(c, "labels.source", ("vote", "ground_truth"))
    _choice(c, "vote.match", ("equivalent", "string"))
    _choice(c, "reward.match", ("equivalent", "string"))
    _choice(c, "rl.advantage", ("rloo", "grpo", "dr_grpo", "reinforce"))
    _choice(c, "rl.kl", ("k1", "k2", "k3"))
    _choice(c, "rl.loss_aggregation",
            ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"))
    for field in ("steps", "batch.prompts_per_step", "batch.samples_per_prompt", "batch.microbatch_sequences",
                  "batch.max_prompt_tokens", "batch.max_response_tokens", "rollout.prompts_per_call", "eval.every",
                  "eval.samples", "checkpoint.every", "grader.workers", "model.logprob_chunk", "mesh.fsdp",
                  "mesh.tensor", "log.rollouts_every"):
        _require(_get(c, field) >= 1, f"{field} is {_get(c, field)}: it must be at least 1.")
    for field in ("rollout.temperature", "optimizer.learning_rate", "optimizer.grad_clip", "grader.timeout"):
        _require(_get(c, field) > 0, f"{field} is {_get(c, field)}: it must be positive.")
    _require(c.rl.advantage == "reinforce" or c.batch.samples_per_prompt >= 2,
             f"batch.samples_per_prompt is {c.batch.samples_per_prompt}: {c.rl.advantage} compares a sample with the "
             "others of its prompt, so give at least 2.")
    _require(sequences % c.batch.microbatch_sequences == 0,
             f"batch.microbatch_sequences is {c.batch.microbatch_sequences}, which does not divide the {sequences} "
             "sequences of a step: choose a divisor.")
    _require(0 <= c.labels.threshold <= 1, f"labels.threshold is {c.labels.threshold}: a vote share lies in [0, 1].")
    _require(c.rl.kl_coef >= 0, f"rl.kl_coef is {c.rl.kl_coef}: it must not be negative.")
    longest = c.batch.max_prompt_tokens + c.batch.max_response_tokens
    _buckets(c, "batch.length_buckets", longest, "batch.max_prompt_tokens + batch.max_response_tokens")
    _buckets(c, "rollout.prompt_buckets", c.batch.max_prompt_tokens, "batch.max_prompt_tokens")
    _require(c.eval.top_k == -1 or c.eval.top_k >= 1, f"eval.top_k is {c.eval.top_k}: give -1 for all, or at least 1.")
    _require(0 < c.eval.top_p <= 1, f"eval.top_p is {c.eval.top_p}: it lies in (0, 1].")


def validate_devices(config: ConfigDict, num_devices: int) -> None:
    """Checks that the mesh fits the devices and the batch fits the mesh. Raises ConfigError."""
    fixed = config.mesh.fsdp * config.mesh.tensor
    data = num_devices // fixed if config.mesh.data == -1 else config.mesh.data
    _require(data * fixed == num_devices,
             f"mesh.data={config.mesh.data} x mesh.fsdp={config.mesh.fsdp} x mesh.tensor={config.mesh.tensor} does not "
             f"make the {num_devices} devices: change one of them, or mesh.cpu_devices on a CPU.")
    rows = data * config.mesh.fsdp
    for field in ("batch.microbatch_sequences", "rollout.prompts_per_call"):
        _require(_get(config, field) % rows == 0,
                 f"{field} is {_get(config, field)}, which the {rows} data x fsdp shards do not divide: "
                 f"choose a multiple of {rows}.")


def describe(config: ConfigDict, num_devices: int) -> str:
    """The arithmetic of one step, e.g. '16 prompts x 32 samples = 512 sequences; 1 update; ...'."""
    b = config.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    return (f"{b.prompts_per_step} prompts x {b.samples_per_prompt} samples = {sequences} sequences; 1 update; "
            f"{sequences // b.microbatch_sequences} micro-batches of {b.microbatch_sequences} on {num_devices} "
            f"device{'s' if num_devices != 1 else ''}; prompts <= {b.max_prompt_tokens} + responses <= "
            f"{b.max_response_tokens} tokens; {config.steps} steps = "
            f"{config.steps * b.prompts_per_step} prompts, {config.steps * sequences} rollouts")


def fingerprint_fields(config: ConfigDict) -> dict:
    """The fields that must not change when a run is resumed: all but its length and what it only shows or saves."""
    fields = json.loads(config.to_json_best_effort())
    for shown in ("steps", "out", "name", "log", "checkpoint", "grader"):
        del fields[shown]
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

