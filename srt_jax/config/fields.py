"""All fields of a config, each with its default, its allowed values and a comment. configs/ starts from `base()`.

The defaults are the paper's numbers (SRT v1, section 4 and appendix B). allowed.py defines `one_of`, `positive` and the
other rules. A new or renamed field needs an entry in versions.py, so that older runs can be resumed.
"""

from ml_collections import ConfigDict

from srt_jax.config.allowed import (
    below_one,
    defaults,
    names_of,
    not_negative,
    one_of,
    one_of_or_function,
    positive,
    positive_or_auto,
    share,
    some_of,
    tuple_of,
    update_size,
)

# Names that no evaluation set of a config may have.
VALIDATION = "validation"  # The evaluation set of stop.validation_fraction.
MEAN = "mean"  # The mean over all evaluation sets.
# Values of reward.shape that read the policy's tokens and no answers (srt_jax/rl/confidence.py).
CONFIDENCES = ("self_certainty", "negative_entropy", "mean_logprob", "sum_logprob")
# Values of reward.shape that read the vote or the responses (srt_jax/reward/shapes.py).
SHAPES = (
    "agreement",
    "soft_vote",
    "empo",
    "scrl_like",
    "restrain_like",
    "minority_penalty",
    "random",
    "format",
    "brevity",
)


def base() -> ConfigDict:
    """All fields of `FIELDS` with their defaults. Locked: an unknown field raises an error."""
    return ConfigDict(defaults(FIELDS)).lock()


def source(**fields) -> ConfigDict:
    """A source of problems: all fields of `SOURCE` with their defaults, except for the given values."""
    config = ConfigDict(defaults(SOURCE))
    config.update(fields)
    return config


# The training data and each evaluation set are sources of problems with these fields.
SOURCE = dict(
    # A file, a named set, a task of Reasoning Gym, or a function (srt_jax/data/function.py).
    kind=one_of_or_function("jsonl", "parquet", "set", "gym"),
    limit=not_negative(0),  # Only this many problems are read, from the start (0: all).
    # jsonl and parquet
    path="",  # The file.
    prompt_column="problem",
    answer_column="answer",
    id_column="id",
    level_column="level",
    duplicates=one_of("refuse", "first"),  # Rows with the same id are an error, or the first of equal rows is kept.
    labelled_column="",  # labels.source mixed: this column says (true, false) whether training may use the answer.
    paraphrases="",  # labels.source paraphrase: a JSONL file of {id, paraphrase} for training problems.
    levels=tuple_of(str, int),  # Only problems of these levels are read (empty: all).
    # set
    name="",  # A name in srt_jax/data/sets.py.
    root="",  # The folder of NAME.jsonl or NAME.parquet (empty: $SRT_JAX_DATA, then the Hugging Face hub).
    # gym
    task="",
    config={},  # The task's own fields.
    seed=0,
    size=positive(1000),  # This many problems are generated.
)

FIELDS = dict(
    name="",  # The run's folder is <out>/<name>.
    out="runs",
    seed=0,
    steps=positive(1000),  # One step samples one batch of rollouts and learns from it.
    model=dict(
        path="",  # A Hugging Face directory or hub id: the initial model, which is also the reference model.
        dtype=one_of("auto", "float32", "bfloat16"),  # The compute dtype; auto is float32 on CPUs, else bfloat16.
        # The dtype of the reference model's weights; with model.lora it is model.dtype.
        reference_dtype=one_of("float32", "bfloat16"),
        attention=one_of("auto", "xla", "cudnn", "splash"),  # auto is cudnn on GPUs, splash on TPUs, xla on CPUs.
        remat=one_of("full", "attention", "dots", "none"),  # The backward pass recomputes these activations.
        head_chunk_tokens=positive(4096),  # A device has about as many logits in memory as so many tokens have.
        lora=dict(  # Low-rank adapters in place of the model's own weights, with PEFT's meaning (docs/lora.md).
            rank=not_negative(0),  # 0 trains the model itself.
            alpha=positive(32.0),  # The adapters' output is multiplied by alpha / rank.
            rslora=False,  # It is multiplied by alpha / sqrt(rank) instead.
            targets=some_of("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            path="",  # Training starts from this PEFT adapter (empty: from the model itself).
            merged=False,  # Each exported adapter has a merged float32 model beside it, e.g. <run>/final_merged.
        ),
    ),
    data=SOURCE,
    prompts=dict(
        template=one_of("chat", "plain"),  # The tokenizer's chat template, or plain_template.
        plain_template="{problem}",
        instruction=r"Let's think step by step and output the final answer within \boxed{}.",
        system="",  # The system message of the chat template (empty: the template's own).
        chat_template_kwargs={},  # Further variables of the chat template, e.g. enable_thinking=False.
    ),
    batch=dict(
        prompts_per_step=positive(16),
        samples_per_prompt=positive(32),  # This many responses to each prompt are trained on.
        # TTRL: this many responses vote, and the first are trained on (0: all are); with a teacher, its responses vote.
        votes_per_prompt=not_negative(0),
        minibatches_per_step=positive(1),  # Each epoch over a step's rollouts makes this many optimizer updates.
        epochs_per_step=positive(1),
        resample_rounds=not_negative(0),  # DAPO: at most this many more batches replace prompts whose rewards agree.
        max_prompt_tokens=positive(1024),  # Longer prompts are dropped and reported.
        max_response_tokens=positive(3072),  # The stop token counts.
        microbatch_sequences=positive_or_auto(
            -1
        ),  # Sequences per backward pass of all devices (-1: 4 each, on CPUs 1).
        length_buckets=(512, 1024, 2048, 4096),  # A micro-batch is padded to the smallest of these that fits.
        packing=False,  # A row holds as many sequences as fit; this needs a single length bucket.
    ),
    rollout=dict(
        sampler=one_of("jax", "vllm"),  # In this process, or in vLLM servers.
        temperature=positive(1.0),
        temperature_end=positive(1.0),  # The temperature changes linearly to this over temperature_steps (SePT).
        temperature_steps=not_negative(0),  # 0 keeps `temperature` for the whole run.
        old_logprobs=one_of("trainer", "sampler"),  # Old log-probs come from the trainer's forward pass or the sampler.
        steps_ahead=one_of(0, 1),  # vllm: 1 samples the next step during the update, with weights one step old.
        max_logprob_gap=positive(0.1),  # vllm: a larger mean |log-prob difference| after a reload is an error.
        prompts_per_call=positive(16),  # jax: the most prompts of a compiled call.
        prompt_buckets=(256, 512, 1024),  # jax: prompts are padded to the smallest of these that fits.
        slots=not_negative(0),  # jax: continuous batching of this many sequences (0: static batching).
        servers=tuple_of(str),  # vllm: URLs of servers that run already (empty: the run starts its own).
        allow_unauthenticated=False,  # vllm: servers may be on other hosts, where others could load weights into them.
        vllm=dict(
            python=".venv-vllm/bin/python",  # The servers' Python interpreter.
            num_servers=positive(1),
            dtype=one_of("", "float32", "bfloat16", "float16"),  # The servers' dtype (empty: model.dtype).
            weights_directory="",  # Weights for the servers (empty: <run>/weights); memory or a local disk is faster.
            keep=positive(2),  # This many of the newest exported weights are kept.
            tensor_parallel=positive(1),  # A server splits the model over this many GPUs.
            data_parallel=positive(1),  # A server has this many copies of the model, each on GPUs of its own.
            gpus=tuple_of(int),  # The GPUs of all servers in order, e.g. (4, 5, 6, 7) (empty: not set).
            memory_fraction=positive(0.9),  # A server's share of a GPU's memory; on CPUs, GiB of its KV cache.
            max_sequences=positive(256),  # A server decodes at most this many sequences at a time.
            start_seconds=positive(600.0),  # A server that is not healthy by then is an error.
            seconds_per_token=positive(1.0),  # A request may take 60 s + this x batch.max_response_tokens.
            max_restarts=not_negative(3),  # A server is restarted at most this often in a run.
        ),
    ),
    answer=dict(
        # How a response marks its answer; of several names the first that finds an answer counts.
        style=names_of("boxed", "hash", "answer_tag", "final_answer", "last_number", "json", "regex"),
        boxes=one_of("statement", "last"),  # All boxes of the last statement are one answer, or only the last box is.
        field="answer",  # json: the name of the field with the answer.
        pattern="",  # regex: one group encloses the answer, and the last match counts.
    ),
    labels=dict(
        # vote is SRT, ground_truth is RLVR, mixed takes some answers and votes on the rest, none is for SePT and EM-FT.
        # ema is the vote of a teacher that follows the policy, wrong is a control with wrong answers only.
        # paraphrase lets a problem and its paraphrase label each other.
        # A function labels one prompt (srt_jax/reward/functions.py).
        source=one_of_or_function("vote", "ground_truth", "file", "mixed", "none", "ema", "wrong", "paraphrase"),
        path="",  # file: a JSONL file of {id, label}, as srt label writes it.
        ema_rate=share(0.01),  # ema: teacher <- (1 - ema_rate) teacher + ema_rate policy, after each update.
        threshold=share(0.0),  # A label needs at least this vote share: its votes / all responses that vote.
        labelled_fraction=share(0.0),  # mixed: the share of problems with answers (0: data.labelled_column decides).
        # Prompts without a label are left out, or count in the denominators with advantage 0 (as in the released code).
        # They can also be trained on with the advantage -penalty.
        unlabelled=one_of("discard", "zero_advantage", "penalty"),
        penalty=not_negative(0.0),  # RESTRAIN: prompts whose vote share is below labels.threshold have no label.
    ),
    vote=dict(
        match=one_of("equivalent", "string"),  # Answers vote together if they are equivalent, or the same string.
    ),
    reward=dict(
        # The rewards of a prompt's samples, by its vote or by the policy's confidence (docs/algorithms.md).
        shape=one_of_or_function(*SHAPES, *CONFIDENCES),
        mixture={},  # {value of shape: weight}, e.g. {"agreement": 1.0, "self_certainty": 0.5} (empty: only shape).
        # How answers are compared with a label: verify has tolerances, math_verify is the package of that name.
        match=one_of("equivalent", "string", "verify", "math_verify"),
        overlong_buffer=not_negative(0),  # DAPO: up to 1 is subtracted in this many tokens before the length limit.
        drop_truncated=False,  # DAPO: responses that reach the length limit vote, but are not trained on.
    ),
    grader=dict(
        workers=positive(2),  # Processes that compare answers.
        # A comparison may take this many seconds, but 3 s after the first one of a prompt starts, no other one starts.
        timeout=positive(5.0),
    ),
    rl=dict(
        objective=one_of("policy_gradient", "cross_entropy", "entropy"),  # SePT has cross_entropy, EM-FT entropy.
        advantage=one_of_or_function(  # A function is documented in srt_jax/rl/advantages.py.
            "rloo",
            "grpo",
            "dr_grpo",
            "reinforce",
            "reinforce_baseline",
            "reinforce_pp",
            "reinforce_pp_baseline",
        ),
        kl=one_of("k3", "k1", "k2"),  # The estimator of the KL divergence from the policy to the reference model.
        kl_coef=not_negative(0.001),  # The weight of the KL penalty (0: no penalty, and no reference model).
        kl_in=one_of("reward", "loss"),  # A response's summed KL lowers its reward, or each token's KL is in the loss.
        clip_low=positive(0.2),  # The probability ratio to the old policy is clipped to [1 - clip_low, 1 + clip_high].
        clip_high=positive(0.2),
        dual_clip=not_negative(0.0),  # The largest ratio where the advantage is negative, e.g. 3 (0: no limit).
        tis_cap=not_negative(0.0),  # Token weights trainer / sampler probability are capped at this (0: no weights).
        entropy_coef=not_negative(0.0),  # The weight of the entropy bonus.
        loss_aggregation=one_of(  # verl's names and verl's meaning.
            "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
        ),
        loss_scale=not_negative(0.0),  # seq-mean-token-sum-norm divides by this (0: by batch.max_response_tokens).
        mask_answer=False,  # The tokens of a response's answer are left out of the loss (OM-GRPO).
        temperature=not_negative(0.0),  # The loss divides logits by this (0: by the sampling temperature).
    ),
    optimizer=dict(
        learning_rate=update_size(1e-6),
        b1=below_one(0.9),
        b2=below_one(0.999),
        eps=positive(1e-8),
        weight_decay=not_negative(0.01),
        grad_clip=positive(1.0),
        schedule=one_of("constant", "linear", "cosine"),  # The schedule of the learning rate after the warm-up.
        final_fraction=share(0.0),  # linear and cosine end at learning_rate x this.
        schedule_steps=not_negative(0),  # linear and cosine end at this update, warm-up included (0: the last step).
        warmup_steps=not_negative(0),
        moments_dtype=one_of("float32", "bfloat16"),  # The dtype of AdamW's moments.
    ),
    mesh=dict(
        data=positive_or_auto(-1),  # Copies of the weights (-1: as many as the devices allow).
        fsdp=positive_or_auto(1),  # Devices that share one copy of the weights (-1: as many as there are).
        tensor=positive(1),  # Devices that share heads, feed-forward layers and vocabulary.
        cpu_devices=not_negative(0),  # Simulated devices on a CPU (0: XLA_FLAGS decides).
    ),
    eval=dict(
        sets={},  # Name -> source().
        match=one_of("verify", "math_verify"),  # How an answer is compared with the known one, in training, too.
        every=positive(100),  # Steps between evaluations; there is also one at step 0 and one at the last step.
        samples=positive(32),
        temperature=not_negative(1.0),
        top_p=1.0,
        top_k=-1,
        kl=False,  # Evaluations measure the KL to the initial model; without a KL penalty its weights take memory.
    ),
    curriculum=dict(
        path="",  # A file of srt label, whose scores rank the problems from easy to hard (empty: no curriculum).
        by=one_of("vote_share", "pass_rate"),  # The score in that file; vote_share needs no answers.
        easy_fraction=share(0.33333),  # The share of the problems that count as easy; all others are hard.
        hard_start=share(0.0),  # The share of hard problems in the first step.
        hard_end=share(1.0),  # The share of hard problems in step `steps` and later ones.
        steps=not_negative(0),  # The share of hard problems changes linearly over this many steps.
    ),
    stop=dict(
        patience=not_negative(0),  # The run ends after this many evaluations without a better score (0: never).
        validation_fraction=below_one(0.0),  # This share of the training problems becomes the set `validation`.
        hang_seconds=not_negative(600.0),  # A longer time without progress ends the run (0: never; run/watchdog.py).
        # One of several processes that gives no sign of life for this long ends the run (run/parent.py).
        peer_seconds=positive(30.0),
        join_seconds=positive(50.0),  # One of several processes that starts this much later than another ends the run.
    ),
    guard=dict(
        # The reaction to a collapse, which is found without answers (docs/collapse.md).
        # teacher: the run returns to the chosen checkpoint, whose votes are its labels from then on.
        action=one_of("off", "warn", "stop", "teacher"),
        votes=not_negative(64),  # The base's votes on each evaluation prompt (0: only signs in the metrics of steps).
    ),
    levels=tuple_of(dict),  # Consecutive runs, each from the previous weights: dicts of a name and changed fields.
    levels_from=one_of("final", "best"),  # A level starts from these weights of the previous level.
    checkpoint=dict(
        every=positive(100),  # Steps between two checkpoints.
        keep=positive(3),  # This many of the newest checkpoints stay, and also the one with the best evaluation.
    ),
    log=dict(
        rollouts_every=positive(1),  # Steps between two saved rollouts.
        shown=positive(8),  # Responses in TensorBoard's tables, and evaluation problems shown before and after a run.
        profile=False,  # Steps 3 to 5 are traced for TensorBoard's profiler.
    ),
)
