"""Checkpoints: the training state with orbax, and what must be true for a run to go on from it."""
import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from srt_jax.config import differing_fields


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or that belongs to another run; one sentence for the user."""


class Checkpoints:
    """<run>/checkpoints/: the last state and the one with the best evaluation, each with a JSON record beside it.

    Orbax writes under a temporary name and renames; an older checkpoint is deleted only once the new one is complete.
    """

    def __init__(self, run_directory: pathlib.Path):
        self._directory = (run_directory / "checkpoints").absolute()
        keep = preservation_policy.AnyPreservationPolicy([
            preservation_policy.LatestN(1),
            preservation_policy.BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False),
        ])
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(preservation_policy=keep, enable_async_checkpointing=False))

    def last_step(self) -> int | None:
        """The newest complete step, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state, record: dict, score: float | None = None) -> None:
        """Writes the state and its JSON record; `score` (of an evaluation at this step) decides which one is best.

        Raises CheckpointError where it cannot be written; what was there before is untouched.
        """
        if self.last_step() == step:
            return
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)),
                metrics=None if score is None else {"score": score})
            self._manager.wait_until_finished()
        except Exception as e:  # orbax passes on what the file system, tensorstore or its threads raise
            reason = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:200]
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self._directory} ({reason}): free some space "
                f"and start again, the run goes on from step {self.last_step()}.") from e

    def record(self) -> dict:
        """The JSON record of the newest checkpoint."""
        return self._manager.restore(
            self.last_step(), args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]

    def restore(self, state, step: int | None = None):
        """The state of a kept step (default: the newest), placed like `state` (arrays or abstract arrays).

        The arrays of `state` are given up first: two states may not fit on the devices.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        for x in jax.tree.leaves(state):
            if isinstance(x, jax.Array):
                x.delete()
        step = self.last_step() if step is None else step
        return self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def check_same_run(there: dict, here: dict, directory) -> None:
    """Raises CheckpointError unless the recorded config, data, label files and model are those of this run."""
    for what, remedy in (("config", "give the run another name, or the old config"),
                         ("data", "restore the data file, or give the run another name"),
                         ("labels", "restore the label files, or give the run another name"),
                         ("model", "restore the initial model, or give the run another name")):
        if there[what] != here[what]:
            names = differing_fields(there[what], here[what]) if what == "config" else [f"{what} contents"]
            raise CheckpointError(f"{directory} holds a run that differs in {'; '.join(names[:5])}: {remedy}.")
