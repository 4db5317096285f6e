"""guard.action = teacher: after an alarm the run returns to the chosen checkpoint, whose votes label all later steps.

Step a raises the alarm, and the guard chooses the checkpoint of a step c before it (run/collapse.py). Step a + 1 starts
from the weights and the optimizer of step c. A frozen copy of these weights, the teacher, gives the labels of that step
and of all later ones. No step is made twice: the steps up to a stay in the records, and data order and random numbers
continue with step a + 1. The checkpoint of step a stores the restored state, and all later ones record the fallback.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from srt_jax.config import has_teacher, plans_checkpoint
from srt_jax.log import logger
from srt_jax.model import lora, sharding
from srt_jax.rl.optimizer import TrainState, experiment_optimizer, init_state
from srt_jax.rollout.sampler import Sampler
from srt_jax.run.checkpoint import retained
from srt_jax.run.collapse import Detector, Fallback
from srt_jax.run.loading import load_weights
from srt_jax.run.setup import Run, RunState, judgement_so_far
from srt_jax.runtime import is_first_process, processes


def voting_teacher(run: Run, now: RunState) -> Sampler | None:
    """The sampler of the teacher whose votes are the labels now; None if the policy's own votes are."""
    return run.teacher if has_teacher(run.config) or now.fallback else None


def fall_back(run: Run, now: RunState) -> None:
    """Returns to the chosen checkpoint, and makes its weights the teacher's. Updates `now` in place.

    Does nothing if no checkpoint from before the alarm is left: the alarm stays. The samplers still need the weights.
    Raises CheckpointError if the chosen checkpoint is damaged.
    """
    run.checkpoints.wait()
    # The first process decides, because a shared file system may show each process other checkpoints for a while.
    choice = processes.from_first(lambda: now.detector.choice(now.step, [0, *choosable(run, now)]))
    if choice.step == now.step or now.detector.alarm is None:
        return
    if choice.step:
        processes.from_first(lambda: run.checkpoints.check(choice.step, "to which the guard returns"))
    fallback = Fallback(now.step, choice.step, choice.rule, now.detector.alarm)
    with jax.transfer_guard_host_to_device("allow"):  # the training loop disallows transfers like these
        now.train_state = with_step(state_of(run, now.train_state, choice.step), now.step)
    now.fallback, now.frozen = fallback, jax.tree.map(jnp.copy, now.train_state.params)
    readings = [reading for reading in now.detector.readings if not fallback.undoes(reading.step)]
    now.detector, now.diagnosis = judgement_so_far(run, readings, fallback)
    if str(now.step) in now.evals:  # its checkpoint has the chosen weights now
        now.evals[str(now.step)] = now.evals.get(str(choice.step), {})
    run.log.text("guard", describe(fallback), now.step)
    if is_first_process():
        logger.warning(describe(fallback))


def choosable(run: Run, now: RunState) -> set[int]:
    """The steps with a checkpoint that the guard may choose: none that a fallback undid."""
    steps, keep = run.checkpoints.steps(), run.config.checkpoint.keep
    is_planned = functools.partial(plans_checkpoint, run.config)
    found = kept_without_answers(steps, now.detector, keep, now.fallback, is_planned)
    return found - undone(found, now.fallback)


def undone(steps: Iterable[int], fallback: Fallback | None) -> set[int]:
    """Those of `steps` that a fallback undid. The checkpoint of the step of the alarm has the restored weights."""
    return {step for step in steps if fallback and fallback.undoes(step) and step != fallback.step}


def kept_without_answers(
    steps: Iterable[int],
    detector: Detector,
    keep: int,
    fallback: Fallback | None,
    is_planned: Callable[[int], bool] = lambda step: True,
) -> set[int]:
    """Those of `steps` that would have a checkpoint if no answer was known and the run had not been stopped.

    The best one by known answers is left out, and those that only a stop saved. Otherwise a choice would depend on the
    answers or on stops. keep: checkpoint.keep. The steps were retained when the newest one was saved, with the readings
    of that time.
    """
    planned = [step for step in steps if is_planned(step)]
    then = Detector(readings=[reading for reading in detector.readings if reading.step <= max(planned, default=0)])
    return retained(planned, {}, keep, then.needed() | ({fallback.chosen} if fallback else set()))


def describe(fallback: Fallback) -> str:
    """One sentence for the log."""
    weights = f"the weights of step {fallback.chosen}" if fallback.chosen else "the initial weights"
    return (
        f"after step {fallback.step} the run returns to {weights} ({fallback.rule}); the votes of these weights label "
        "all later steps (guard.action)."
    )


def state_of(run: Run, state: TrainState, step: int) -> TrainState:
    """The state after a step: that of its checkpoint, or for step 0 the initial one. `state` is deleted first."""
    if step:
        return run.checkpoints.restore(state, step)
    for x in jax.tree.leaves(state):
        x.delete()
    params = load_weights(run.config, run.prepared.model, run.learner.mesh)[1]
    return init_state(lora.split(params)[0], experiment_optimizer(run.config), run.learner.mesh)


def with_step(state: TrainState, step: int) -> TrainState:
    """The state with another number of RL steps."""
    return dataclasses.replace(state, step=sharding.place(np.asarray(step, np.int32), state.step.sharding))
