"""The numbers that follow from a config: votes, the mesh for a number of devices, sequences and updates of a step."""

from ml_collections import ConfigDict


def describe(config: ConfigDict, num_devices: int) -> str:
    """The arithmetic of one step, e.g. '16 prompts x 32 samples = 512 sequences; 1 update; ...'."""
    b = config.batch
    drawn, sequences = policy_samples(config), b.prompts_per_step * b.samples_per_prompt
    trained = f"{b.samples_per_prompt} of {drawn}" if drawn > b.samples_per_prompt else f"{drawn}"
    of_teacher = f" and {teacher_samples(config)} votes of the teacher each" if has_teacher(config) else ""
    per_prompt = drawn + teacher_samples(config)
    updates = b.minibatches_per_step * b.epochs_per_step
    return (
        f"{b.prompts_per_step} prompts x {trained} samples = {sequences} sequences{of_teacher}; "
        f"{updates} update{'s' if updates != 1 else ''}; "
        f"{'at most ' * b.packing}{sequences // b.microbatch_sequences} micro-batches of "
        f"{b.microbatch_sequences} on {num_devices} "
        f"device{'s' if num_devices != 1 else ''}; prompts <= {b.max_prompt_tokens} + responses <= "
        f"{b.max_response_tokens} tokens; {config.steps} steps = "
        f"{config.steps * b.prompts_per_step} prompts, {config.steps * b.prompts_per_step * per_prompt} rollouts"
    )


def votes_per_prompt(batch: ConfigDict) -> int:
    """The number of samples of each prompt that vote in training. batch: the section of the config."""
    return batch.votes_per_prompt or batch.samples_per_prompt


def reward_weights(reward: ConfigDict) -> dict[str, float]:
    """{reward: weight}: the mixture, or the one reward of `shape`. reward: the section of the config."""
    return {name: float(weight) for name, weight in reward.mixture.items()} or {reward.shape: 1.0}


def has_teacher(config: ConfigDict) -> bool:
    """Does a second set of weights, the teacher, sample the votes?"""
    return config.labels.source == "ema"


def may_fall_back(config: ConfigDict) -> bool:
    """Does an alarm of the guard replace the votes of the policy by those of a frozen teacher?"""
    return config.guard.action == "teacher"


def stores_teacher(config: ConfigDict) -> bool:
    """Do the weights of a teacher need memory, from the start or after an alarm?"""
    return has_teacher(config) or may_fall_back(config)


def needs_reference(config: ConfigDict) -> bool:
    """Does the run need the initial weights beside the trained ones, for a KL?"""
    return config.rl.kl_coef > 0 or config.eval.kl


def takes_readings(config: ConfigDict) -> bool:
    """Does the guard compare the policy with votes of the base at evaluations?"""
    return config.guard.action != "off" and config.guard.votes > 0


def evaluations(config: ConfigDict) -> int:
    """The number of evaluations of a run: of step 0, of every eval.every-th step, and of the last one."""
    return 1 + -(-config.steps // config.eval.every)


def teacher_samples(config: ConfigDict) -> int:
    """The number of the teacher's samples of each prompt, which only vote. 0 without a teacher."""
    return votes_per_prompt(config.batch) if has_teacher(config) else 0


def policy_samples(config: ConfigDict) -> int:
    """The number of the policy's samples of each prompt in training. Without a teacher all of them vote."""
    return config.batch.samples_per_prompt if has_teacher(config) else votes_per_prompt(config.batch)


def prompts_per_call(config: ConfigDict) -> int:
    """The prompts in a call of the in-process sampler in training.

    Static batching decodes empty rows like full ones, so a call has no more rows than a step has prompts.
    """
    r = config.rollout
    return r.prompts_per_call if r.slots else min(r.prompts_per_call, config.batch.prompts_per_step)


def plans_checkpoint(config: ConfigDict, step: int) -> bool:
    """Tells whether the config asks for a checkpoint after this step. A signal and the end of a run ask for others."""
    return step % config.checkpoint.every == 0 or step % config.eval.every == 0


def mesh_shape(mesh: ConfigDict, num_devices: int) -> tuple[int, int, int] | None:
    """(data, fsdp, tensor) for `num_devices` devices; None if the config's mesh does not fit that number."""
    data, fsdp, tensor = mesh.data, mesh.fsdp, mesh.tensor
    if fsdp == -1:  # if data is -1 too, the weights are split over as many devices as possible
        fsdp = num_devices // (max(data, 1) * tensor)
    if data == -1 and fsdp > 0:
        data = num_devices // (fsdp * tensor)
    return (data, fsdp, tensor) if data * fsdp * tensor == num_devices and min(data, fsdp) > 0 else None
