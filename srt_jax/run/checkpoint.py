"""Checkpoints: the training state, written by orbax, with a record and checksums.

    <run>/checkpoints/<step>/state/           written by orbax
                             record.json      identity of the run, evaluations so far, seconds by phase
                             checksums.json   size and xxh3_64 of every other file

A background thread writes a checkpoint under a temporary name and renames it last, so a checkpoint with a final name is
complete. Before a run resumes, the checksums of the newest checkpoint are verified. If it is damaged, the run resumes
from the newest undamaged one.
"""

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import xxhash

from srt_jax.errors import CheckpointError
from srt_jax.files import flush, read_json_object, remove, says_full
from srt_jax.runtime import is_first_process, processes

CHECKSUMS = "checksums.json"
NEWEST = "newest"  # a file that is written with the first checkpoint: if it exists without any, they were lost
PARTIAL, DELETED = ".partial", ".deleted"  # a checkpoint that is being written, or removed
REPLACED = ".replaced-"  # and the step: a checkpoint whose place another one takes
READ = 1 << 24  # bytes that are hashed at a time


def best_step(scores: Mapping[int, float], kept: Iterable[int]) -> int | None:
    """The kept step with the largest score, the latest of equal ones; None if no kept step has a score."""
    return max(scores.keys() & set(kept), key=lambda step: (scores[step], step), default=None)


def retained(
    steps: Iterable[int],
    scores: Mapping[int, float],
    keep: int,
    needed: Iterable[int] = (),
    is_planned: Callable[[int], bool] = lambda step: True,
) -> set[int]:
    """The steps whose checkpoints stay: the newest, the `keep` newest planned ones, the best, and the `needed` ones.

    is_planned: tells whether the config asks for a checkpoint after a step. Others, such as that of a stop, stay only
    while they are the newest. So a run that was stopped keeps the checkpoints of one that was not.
    """
    steps = sorted(steps)
    planned = [step for step in steps if is_planned(step)][-keep:]
    return {steps[-1], *planned, best_step(scores, steps) or steps[-1], *({*needed} & {*steps})} if steps else set()


class Checkpoints:
    """The checkpoints of a run. With several processes each calls the same methods in the same order."""

    def __init__(
        self, run_directory: pathlib.Path, keep: int = 3, is_planned: Callable[[int], bool] = lambda step: True
    ):
        self._directory = (run_directory / "checkpoints").absolute()
        self._keep, self._is_planned = keep, is_planned
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future] | None = None

    @functools.cached_property
    def _checkpointer(self):
        """Orbax, whose import takes half a second, which a run without a checkpoint need not wait for."""
        import orbax.checkpoint as ocp

        return ocp.StandardCheckpointer()

    def steps(self) -> list[int]:
        """The steps with a checkpoint, in order, including damaged ones."""
        if not self._directory.is_dir():
            return []
        names = {path.name.removeprefix(REPLACED) for path in self._directory.iterdir()}
        return sorted(int(name) for name in names if name.isdecimal())

    def newest_whole(self) -> tuple[int | None, list[tuple[int, str]]]:
        """(newest step with an undamaged checkpoint, [(step, fault)] of the newer ones). Changes nothing.

        The step is None if the run has not written a checkpoint. Raises CheckpointError if it has, but none is whole.
        """
        damaged = []
        for step in reversed(self.steps()):
            path = self._directory / str(step)
            # A process that was killed between two renames has left the old checkpoint; `open` gives it its name back.
            fault = find_fault(path if path.exists() else self._directory / f"{REPLACED}{step}")
            if fault is None:
                return step, damaged
            damaged.append((step, fault))
        if damaged or (self._directory / NEWEST).exists():
            reason = f"that of step {damaged[0][0]}: {damaged[0][1]}" if damaged else "all were removed"
            raise CheckpointError(
                f"no checkpoint in {self._directory} is whole ({reason}): restore one from a copy, or delete "
                f"{self._directory.parent} to start again."
            )
        return None, []

    def open(self, damaged: Iterable[int]) -> None:
        """Makes the folder ready for this process, which must be the only one that trains in it.

        Removes checkpoints that a killed process wrote or deleted in part, and renames damaged ones to <step>.damaged,
        because the run will write these steps again.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.glob(f"{REPLACED}*"):
            if not (final := self._directory / path.name.removeprefix(REPLACED)).exists():
                path.rename(final)
        for path in self._directory.glob(".*"):
            remove(path)
        for step in damaged:
            remove(self._directory / f"{step}.damaged")
            (self._directory / str(step)).rename(self._directory / f"{step}.damaged")

    def save(
        self,
        step: int,
        state,
        record: dict,
        scores: Mapping[int, float] | None = None,
        needed: Iterable[int] = (),
        replace: bool = False,
    ) -> None:
        """Starts to write the state and its record. The caller may donate the state as soon as this returns.

        scores: those of all evaluated steps so far, to find the best checkpoint. needed: steps whose checkpoints stay,
        too. replace: whether to overwrite a checkpoint of this step. Raises CheckpointError if this checkpoint or the
        one before cannot be written. Older ones are unchanged.
        """
        if self._writing and self._writing[0] == step and not replace:
            return
        self.wait()
        # The first process looks, because the others may not see a checkpoint on a shared file system yet.
        if not replace and processes.from_first(lambda: step in self.steps()):
            return
        copy = None
        try:
            if jax.process_count() == 1:  # orbax needs longer to begin than the copy takes, so the thread lets it begin
                copy = on_host(state)
            else:  # orbax lets the processes wait for each other in a program, and so does the caller of this method
                self._begin(state)
        except Exception as e:
            raise self._failure(step, e) from e
        written = json.dumps(record)  # now, because the caller changes it later
        self._writing = step, self._thread.submit(self._write, step, copy, written, dict(scores or {}), {*needed})

    def wait(self) -> None:
        """Waits until the last checkpoint is complete. Raises CheckpointError if it cannot be written."""
        if self._writing is None:
            return
        (step, future), self._writing = self._writing, None
        try:
            if not is_first_process():
                future.result()
            processes.from_first(future.result)
        except Exception as e:  # orbax raises errors of the file system, of tensorstore and of its threads
            raise self._failure(step, e) from e

    def check(self, step: int, use: str) -> None:
        """Raises CheckpointError if the checkpoint of a step is damaged or missing. use: a clause with its purpose."""
        path = self._directory / str(step)
        fault = find_fault(path) if path.is_dir() else "it is missing"
        if fault:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._directory}, {use}, is not whole ({fault}): restore it from a "
                f"copy, or delete {self._directory.parent} to start again."
            )

    def record(self, step: int) -> dict:
        """The JSON record of a checkpoint."""
        return read_record(self._directory / str(step))

    def restore(self, state, step: int):
        """The state of a step, placed like `state` (arrays or abstract arrays).

        The arrays of `state` are deleted first: two states may not fit on the devices.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        for x in jax.tree.leaves(state):
            if isinstance(x, jax.Array):
                x.delete()
        return self._checkpointer.restore(self._directory / str(step) / "state", abstract)

    def close(self) -> None:
        """Waits for the checkpoint that is being written. Raises CheckpointError if it cannot be written."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if "_checkpointer" in vars(self):
                self._checkpointer.close()

    def _begin(self, state) -> None:
        """Orbax begins to write the state. It returns when the state is copied."""
        partial = self._directory / PARTIAL
        processes.from_first(lambda: partial.mkdir(parents=True))
        self._checkpointer.save(partial / "state", state)

    def _write(
        self, step: int, copy: Any | None, record: str, scores: Mapping[int, float], needed: Iterable[int]
    ) -> None:
        """Lets orbax write the copy of the state, adds record and checksums, and gives the checkpoint its name.

        Then it deletes older ones. copy: None if orbax has begun.
        """
        if copy is not None:
            self._begin(copy)
        self._checkpointer.wait_until_finished()
        if not is_first_process():
            return
        partial = self._directory / PARTIAL
        (partial / "record.json").write_text(record + "\n")
        (partial / CHECKSUMS).write_text(json.dumps(checksums(partial, to_disk=True), indent=0) + "\n")
        flush(partial / CHECKSUMS)
        path, replaced = self._directory / str(step), self._directory / f"{REPLACED}{step}"
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        (self._directory / NEWEST).write_text(f"{step}\n")
        flush(self._directory)
        remove(replaced)
        steps = self.steps()
        for old in set(steps) - retained(steps, scores, self._keep, needed, self._is_planned):
            gone = self._directory / DELETED
            remove(gone)
            (self._directory / str(old)).rename(gone)  # first, because a partly deleted checkpoint must not look whole
            remove(gone)

    def _failure(self, step: int, e: Exception) -> CheckpointError:
        if is_first_process():
            shutil.rmtree(self._directory / PARTIAL, ignore_errors=True)
        reason = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:200]
        # The cause may be a connection to another process, which is gone. Then the parents name that process.
        remedy = "free some space" if says_full(e) else "remove the cause"
        before = self.steps()
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self._directory} ({reason}): {remedy} and "
            f"start the run again. It resumes from {f'step {before[-1]}' if before else 'its start'}."
        )


def on_host(state):
    """A copy of the state (arrays) in the host's memory, with the same division into shards."""
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding.with_memory_kind("pinned_host"), state))


def checksums(directory: pathlib.Path, to_disk: bool = False) -> dict[str, list]:
    """{relative path: [bytes, xxh3_64]} of all files of a checkpoint except checksums.json.

    to_disk: also flushes each file to the disk.
    """
    found = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / CHECKSUMS):
        digest, size = xxhash.xxh3_64(), 0
        with path.open("rb") as file:
            while block := file.read(READ):
                digest.update(block)
                size += len(block)
            if to_disk:
                os.fsync(file.fileno())
        found[str(path.relative_to(directory))] = [size, digest.hexdigest()]
    return found


def find_fault(directory: pathlib.Path) -> str | None:
    """A few words about the damage of a checkpoint; None if every file has its checksum."""
    if (directory / "record").is_dir():  # written before there were checksums
        return None
    try:
        wanted = read_json_object(directory / CHECKSUMS)
        found = checksums(directory)
    except (OSError, ValueError) as e:
        return f"{CHECKSUMS} or another file cannot be read: {e}"
    for name, value in {"record.json": None, **wanted}.items():  # an empty list of checksums proves nothing
        if name not in found or found[name] != value:
            return f"{name} {'has changed' if name in found else 'is missing'}"
    return None


def read_record(directory: pathlib.Path) -> dict:
    """The record of a checkpoint. Checkpoints from before there were checksums are read, too."""
    old = directory / "record" / "metadata"
    try:
        return read_json_object(old if old.is_file() else directory / "record.json")
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"the record of the checkpoint {directory} cannot be read ({e}): delete that folder, and the run resumes "
            "from the one before."
        ) from None
