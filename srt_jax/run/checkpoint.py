"""Checkpoints: the training state with orbax, and what must be true for a run to go on from it."""

import pathlib
from collections.abc import Iterable, Mapping

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from srt_jax.config import differing_fields
from srt_jax.errors import CheckpointError

# Fields that follow the devices where the config leaves them open.
FOLLOW_HARDWARE = ("mesh.", "batch.microbatch_sequences", "model.dtype")


def best_step(scores: Mapping[int, float], held: Iterable[int]) -> int | None:
    """The step with the largest score among those that are held, the later one of two alike; None: none has a score."""
    return max(scores.keys() & set(held), key=lambda step: (scores[step], step), default=None)


class LatestAndBest(preservation_policy.PreservationPolicy):
    """Keeps the newest checkpoint and the one with the largest of `scores`.

    Orbax's own choice of the best knows a score only where it was there when the checkpoint was written.
    """

    def __init__(self):
        self.scores: Mapping[int, float] = {}

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Which of the checkpoints stay."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step in (max(steps), best_step(self.scores, steps)) for step in steps]


class Checkpoints:
    """<run>/checkpoints/: the last state and the one with the best evaluation, each with a JSON record beside it.

    Orbax writes under a temporary name and renames; an older checkpoint is deleted only once the new one is complete.
    """

    def __init__(self, run_directory: pathlib.Path):
        self._directory = (run_directory / "checkpoints").absolute()
        self._policy = LatestAndBest()
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(preservation_policy=self._policy, enable_async_checkpointing=False),
        )

    def last_step(self) -> int | None:
        """The newest complete step, None where there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All steps that are kept."""
        return list(self._manager.all_steps())

    def save(self, step: int, state, record: dict, scores: Mapping[int, float] | None = None) -> None:
        """Writes the state and its JSON record; the scores of all evaluated steps so far tell which one is best.

        Raises CheckpointError where it cannot be written; what was there before is untouched.
        """
        if self.last_step() == step:
            return
        self._policy.scores = scores or {}
        try:
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record))
            )
            self._manager.wait_until_finished()
        except Exception as e:  # orbax passes on what the file system, tensorstore or its threads raise
            reason = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:200]
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self._directory} ({reason}): free some space "
                f"and start again, the run goes on from step {self.last_step()}."
            ) from e

    def record(self) -> dict:
        """The JSON record of the newest checkpoint."""
        return self._manager.restore(self.last_step(), args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]

    def restore(self, state, step: int | None = None):
        """The state of a kept step (default: the newest), placed like `state` (arrays or abstract arrays).

        The arrays of `state` are given up first: two states may not fit on the devices.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        for x in jax.tree.leaves(state):
            if isinstance(x, jax.Array):
                x.delete()
        step = self.last_step() if step is None else step
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def check_same_run(there: dict, here: dict, directory) -> None:
    """Raises CheckpointError unless the recorded config, data, prompts, label files and model are this run's."""
    for what, remedy in (
        ("config", "give the run another name, or the old config"),
        ("data", "restore the data file, or give the run another name"),
        ("prompts", "restore the tokenizer, its chat template and the evaluation files, or give the run another name"),
        ("labels", "restore the label files, or give the run another name"),
        ("model", "restore the initial model, or give the run another name"),
    ):
        if there.get(what) != here[what]:
            names = differing_fields(there[what], here[what]) if what == "config" else [f"{what} contents"]
            on_others = all(name.startswith(FOLLOW_HARDWARE) for name in names)
            advice = (
                "give it the devices that it had, or set these fields to what they were there, or give the run "
                "another name"
                if on_others
                else remedy
            )
            raise CheckpointError(f"{directory} holds a run that differs in {'; '.join(names[:5])}: {advice}.")
