"""The base config and the arithmetic it implies; validation.py checks it. All of configs/ starts from `base()`."""

import json
import os
import pathlib

from ml_collections import ConfigDict

from srt_jax.errors import ConfigError
from srt_jax.files import read_json_object

# Evaluation sets whose names are taken.
VALIDATION = "validation"  # the evaluation set that is held out of the training problems
MEAN = "mean"  # in the place of an evaluation set: the mean over the others


def base() -> ConfigDict:
    """All fields with the paper's numbers (SRT v1, section 4 and appendix B). Locked: unknown keys raise."""
    config = ConfigDict(
        dict(
            name="",  # run name; the run folder is <out>/<name>
            out="runs",
            seed=0,
            steps=1000,  # RL steps; one step = one rollout batch
            model=dict(
                path="",  # Hugging Face directory (or hub id) of the initial and reference model
                dtype="auto",  # compute dtype: float32 | bfloat16 | auto (bfloat16, on CPUs float32)
                reference_dtype="float32",  # the reference model's weights: float32 | bfloat16
                attention="auto",  # auto | xla | cudnn | splash; auto: cudnn on GPUs, splash on TPUs, xla on CPUs
                remat="full",  # recomputed in the backward pass: none | dots | attention | full
                head_chunk_tokens=4096,  # tokens per device whose logits exist at a time
            ),
            data=source(),
            prompts=dict(
                template="chat",  # chat (the tokenizer's own) | plain
                plain_template="{problem}",
                instruction=r"Let's think step by step and output the final answer within \boxed{}.",
                system="",
                chat_template_kwargs=ConfigDict(),  # chat: more variables of the template, e.g. enable_thinking=False
            ),
            batch=dict(
                prompts_per_step=16,
                samples_per_prompt=32,  # n: samples of a prompt that are trained on
                votes_per_prompt=0,  # samples that vote, the first n of them are trained on (TTRL); 0: n
                minibatches_per_step=1,  # optimizer updates per pass over the step's rollouts
                epochs_per_step=1,  # passes over the step's rollouts
                resample_rounds=0,  # further batches drawn at most to replace prompts whose rewards all agree (DAPO)
                max_prompt_tokens=1024,  # longer prompts are dropped, and reported
                max_response_tokens=3072,  # the stop token included
                microbatch_sequences=-1,  # rows per forward/backward, over all devices; -1: 4 each, on CPUs 1
                length_buckets=(
                    512,
                    1024,
                    2048,
                    4096,
                ),  # prompt + response; a micro-batch is cut to the smallest that fits
                packing=False,  # rows of the one length bucket hold as many sequences as fit, not one
            ),
            rollout=dict(
                sampler="jax",  # jax (in this process) | vllm (servers in processes of their own)
                temperature=1.0,
                temperature_end=1.0,  # reached over temperature_steps, then kept (SePT anneals 0.6 -> 1)
                temperature_steps=0,  # 0: always `temperature`
                old_logprobs="trainer",  # whose log-probs count as old: trainer (one more pass) | sampler
                steps_ahead=0,  # 1: sample the next step during the update, one step off-policy (vllm, rl.tis_cap)
                max_logprob_gap=0.1,  # largest mean |log-prob difference| to a server after its reload
                prompts_per_call=16,  # jax: prompts in one compiled sampler call
                prompt_buckets=(256, 512, 1024),  # jax: padded prompt lengths
                slots=0,  # jax: sequences decoded at a time, refilled as they finish; 0: a call's
                servers=(),  # vllm: URLs of servers started elsewhere; (): start our own
                vllm=dict(
                    python=".venv-vllm/bin/python",  # interpreter of the servers' environment
                    num_servers=1,
                    dtype="",  # served dtype; "": model.dtype
                    weights_directory="",  # exports for servers; "": <run>/weights; a RAM disk or local NVMe is faster
                    keep=2,  # newest exports kept
                    gpus=(),  # GPU of each server, e.g. (4, 5, 6, 7); (): not set
                    memory_fraction=0.9,  # of the GPU's memory, or GiB of KV cache on a CPU server
                    max_sequences=256,  # decoded at a time by one server
                    start_seconds=600.0,  # limit for a server to become healthy
                    seconds_per_token=1.0,  # a request may take 60 s + this x max_response_tokens
                    max_restarts=3,  # of one server, in the whole run
                ),
            ),
            answer=dict(
                style="boxed",  # boxed | hash | answer_tag | final_answer | last_number | json | regex, or several
                #                          with commas between them: the first that finds an answer
                boxes="statement",  # statement: the boxes of the last sentence are one answer | last: the last box
                field="answer",  # json: the name of the field
                pattern="",  # regex: with one group, the answer; the last match counts
            ),
            labels=dict(
                source="vote",  # vote (SRT) | soft_vote | ground_truth (RLVR) | file | mixed | none (SePT)
                path="",  # file: JSONL of {id, label}, as srt label writes it
                threshold=0.0,  # least vote share (votes of the label / n) of a label
                labelled_fraction=0.0,  # mixed: share of problems whose answer is used; 0: data.labelled_column decides
                unlabelled="discard",  # prompts without a label: discard | zero_advantage (as the released code does)
            ),
            vote=dict(match="equivalent"),  # how answers are compared for votes: equivalent | string
            reward=dict(
                match="equivalent",  # how answers are compared with a label: equivalent | string | verify (directed) |
                #                          math_verify (that package, in workers without a network)
                overlong_buffer=0,  # tokens before the limit over which up to 1 is taken off the reward (DAPO)
                drop_truncated=False,  # responses cut at the limit count in the vote, not in the loss (DAPO)
            ),
            grader=dict(workers=2, timeout=5.0),  # seconds of wall clock per comparison
            rl=dict(
                objective="policy_gradient",  # policy_gradient | cross_entropy (SePT) | entropy (EM-FT)
                advantage="rloo",  # rloo | grpo | dr_grpo | reinforce | reinforce_baseline | reinforce_pp[_baseline]
                kl="k3",  # k1 | k2 | k3: the estimate of the KL to the initial model
                kl_coef=0.001,  # of its sum over a response, in the reward; or of its token terms, in the loss
                kl_in="reward",  # reward | loss
                clip_low=0.2,  # the ratio to the old policy is clipped to [1 - clip_low, 1 + clip_high]
                clip_high=0.2,
                dual_clip=0.0,  # largest ratio that counts where the advantage is negative, e.g. 3; 0: no limit
                tis_cap=0.0,  # cap of the weight trainer / sampler probability of a token; 0: no such weight
                entropy_coef=0.0,  # of the entropy bonus
                loss_aggregation="token-mean",
                loss_scale=0.0,  # constant that seq-mean-token-sum-norm divides by; 0: batch.max_response_tokens
                temperature=0.0,  # of the loss's distribution; 0: the one sampled at
            ),
            optimizer=dict(
                learning_rate=1e-6,
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                weight_decay=0.01,
                grad_clip=1.0,
                schedule="constant",  # after the warm-up: constant | linear | cosine
                final_fraction=0.0,  # linear and cosine end at learning_rate x this
                schedule_steps=0,  # RL steps after which they end, warm-up included; 0: at the last step of the run
                warmup_steps=0,
                moments_dtype="float32",  # of AdamW's moments: float32 | bfloat16
            ),
            mesh=dict(
                data=-1,  # copies of the weights; -1: as many as the other two leave devices for
                fsdp=1,  # devices that the weights are split over; -1: all that data and tensor leave
                tensor=1,  # devices that heads, ffn and vocabulary are split over
                cpu_devices=0,  # on a CPU: simulated devices (0: leave as it is)
            ),
            eval=dict(
                sets=ConfigDict(),  # name -> source
                match="verify",  # how answers are compared with known ones, in training too: verify | math_verify
                every=100,  # steps; also at step 0 and at the last
                samples=32,
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
            ),
            curriculum=dict(
                path="",  # file of srt label: its scores tell easy problems from hard ones; "": none
                by="vote_share",  # vote_share (label-free) | pass_rate
                easy_fraction=0.33333,  # share of the problems that counts as easy
                hard_start=0.0,  # share of hard problems in a step at first, growing to
                hard_end=1.0,  # this over
                steps=0,  # these many steps
            ),
            stop=dict(
                patience=0,  # evaluations without a better validation avg@k that end the run; 0: never
                validation_fraction=0.0,  # share of the training problems held out as the evaluation set `validation`
                collapse=False,  # end the run on label-free signs of a collapse (srt_jax/run/collapse.py)
            ),
            levels=(),  # dicts of a name and changed fields: a run each, from the weights before
            levels_from="final",  # final | best weights of the level before
            checkpoint=dict(every=100),
            log=dict(
                rollouts_every=1,  # steps between saved rollouts
                shown=8,  # responses in TensorBoard's tables, and fixed eval problems shown at both ends
                profile=False,  # trace steps 3 to 5 for TensorBoard's profiler
            ),
        )
    )
    return config.lock()


def source(**fields) -> ConfigDict:
    """Where problems come from: a file (path and columns), a named set (name, root), a Reasoning Gym task (rest)."""
    config = ConfigDict(
        dict(
            kind="jsonl",  # jsonl | parquet | set (a name in srt_jax/data/sets.py) | gym
            limit=0,  # problems kept, from the start; 0: all
            path="",
            prompt_column="problem",
            answer_column="answer",
            id_column="id",
            level_column="level",
            duplicates="refuse",  # rows with one id: refuse | first (keeps the first of equal rows, e.g. DAPO's)
            labelled_column="",  # true/false: may this problem's answer be trained on? for labels.source mixed
            levels=(),  # keep only problems of these levels (as text); (): of all
            name="",
            root="",  # set; root: folder of NAME.jsonl or NAME.parquet; "": $SRT_JAX_DATA, then the hub
            task="",
            config=ConfigDict(),
            seed=0,
            size=1000,  # gym; config: the task's own fields
        )
    )
    config.update(fields)
    return config


def describe(config: ConfigDict, num_devices: int) -> str:
    """The arithmetic of one step, e.g. '16 prompts x 32 samples = 512 sequences; 1 update; ...'."""
    b = config.batch
    sequences = b.prompts_per_step * b.samples_per_prompt
    updates = b.minibatches_per_step * b.epochs_per_step
    return (
        f"{b.prompts_per_step} prompts x {b.samples_per_prompt} samples = {sequences} sequences; "
        f"{updates} update{'s' if updates != 1 else ''}; "
        f"{'at most ' * b.packing}{sequences // b.microbatch_sequences} micro-batches of "
        f"{b.microbatch_sequences} on {num_devices} "
        f"device{'s' if num_devices != 1 else ''}; prompts <= {b.max_prompt_tokens} + responses <= "
        f"{b.max_response_tokens} tokens; {config.steps} steps = "
        f"{config.steps * b.prompts_per_step} prompts, {config.steps * sequences} rollouts"
    )


def mesh_shape(mesh: ConfigDict, num_devices: int) -> tuple[int, int, int] | None:
    """(data, fsdp, tensor) on so many devices; None where the config's numbers do not make them."""
    data, fsdp, tensor = mesh.data, mesh.fsdp, mesh.tensor
    if fsdp == -1:  # where both are open, the weights are split as far as possible
        fsdp = num_devices // (max(data, 1) * tensor)
    if data == -1 and fsdp > 0:
        data = num_devices // (fsdp * tensor)
    return (data, fsdp, tensor) if data * fsdp * tensor == num_devices and min(data, fsdp) > 0 else None


def fingerprint_fields(config: ConfigDict) -> dict:
    """The fields that must not change when a run is resumed: all but its length and what it only shows or saves.

    The length may change only where the learning rate does not depend on it.
    """
    fields = json.loads(config.to_json_best_effort())
    for shown in ("out", "name", "log", "checkpoint", "grader"):
        del fields[shown]
    if config.optimizer.schedule == "constant" or config.optimizer.schedule_steps:
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


def expanded(path: str) -> str:
    """The path with the home directory for a `~` in front: shells put it there only where a word begins with `~`."""
    return os.path.expanduser(path)


def run_directory(config: ConfigDict) -> pathlib.Path:
    """<out>/<name>."""
    return pathlib.Path(config.out) / config.name


def recorded(directory: pathlib.Path) -> ConfigDict:
    """The config of a run folder, with the defaults of fields that it does not know. Raises ConfigError."""
    config = base().unlock()
    try:
        config.update(ConfigDict(read_json_object(directory / "config.json")))
        for name, judge in config.eval.sets.items():
            config.eval.sets[name] = source(**judge)
    except OSError:
        raise ConfigError(f"{directory} holds no config.json: name the folder of a run.") from None
    except ValueError as e:
        raise ConfigError(f"{directory}/config.json is damaged ({e}): restore it, or make the run anew.") from None
    except TypeError as e:
        raise ConfigError(
            f"{directory}/config.json is of another version ({e}): use the version that made the run."
        ) from None
    return config
