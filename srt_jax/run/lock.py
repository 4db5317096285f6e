"""A run folder belongs to one trainer at a time.

Two trainers in one folder would overwrite each other's checkpoints. <run>/lock names the trainer, which holds an
`fcntl` lock on it. The kernel releases that lock when the process ends, however it ends. Some network file systems do
not show one host's lock to another host, so the trainer also renews the file's time every BEAT seconds. If the file
then names another trainer, which took the folder over, this one ends at once.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

from srt_jax.errors import FolderInUseError
from srt_jax.files import parse_json

BEAT = 20.0  # seconds between two renewals
STALE = 120.0  # seconds without a renewal after which a trainer on another host counts as gone


@contextlib.contextmanager
def locked(directory: pathlib.Path, take_over: bool = False) -> Iterator[None]:
    """Locks a run folder for this process while the block runs. Makes the folder if it does not exist.

    take_over: take the lock although a trainer on another host renewed it less than STALE seconds ago. Raises
    FolderInUseError if another trainer uses the folder.
    """
    path, name = directory / "lock", this_process()
    descriptor = _acquire(path, take_over)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(name).encode() + b"\n", 0)
        ended = threading.Event()
        beat = threading.Thread(target=_renew, args=(path, descriptor, name, ended), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            if _holder(descriptor) == name:
                os.ftruncate(descriptor, 0)
            # The run was refused before it wrote anything. The parents remove `processes` last (run/parent.py).
            if {path} == {*directory.iterdir()} - {directory / "processes"}:
                path.unlink()
                with contextlib.suppress(OSError):
                    directory.rmdir()
    finally:
        os.close(descriptor)


def this_process() -> dict:
    """The content of the lock file. Containers on one host have the same boot id and see each other's locks."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _acquire(path: pathlib.Path, take_over: bool) -> int:
    """Takes the lock; returns the open file. Raises FolderInUseError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path, take_over)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process removed the file between our two calls


def _lock(descriptor: int, path: pathlib.Path, take_over: bool) -> None:
    """Locks the open file. Raises FolderInUseError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _name(_holder(descriptor))
        raise FolderInUseError(
            f"{path.parent} is used by {who}: wait for it or stop it, or give this run another config.name."
        ) from None
    holder = _holder(descriptor)
    age = time.time() - os.fstat(descriptor).st_mtime
    elsewhere = holder and holder.get("boot") != this_process()["boot"]
    if elsewhere and age < STALE and not take_over:
        raise FolderInUseError(
            f"{path.parent} was used {max(age, 0):.0f} seconds ago by {_name(holder)}: if that process is gone, wait "
            f"until {STALE:.0f} seconds have passed or add --take_over."
        )


def _holder(descriptor: int) -> dict:
    """The trainer that the lock file names; {} if the last one ended in an orderly way."""
    try:
        found = parse_json(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(holder: dict) -> str:
    """The trainer in words. It may have locked the file and not yet written its name."""
    if not holder:
        return "another process, which has just started"
    return f"process {holder.get('pid')} on {holder.get('host')}, which started {holder.get('started')}"


def _renew(path: pathlib.Path, descriptor: int, name: dict, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):  # a file system that fails for a moment does not end the run
            os.utime(descriptor)
            # If this process was suspended for longer than STALE seconds, another one may have taken the folder over,
            # and the next file that this one writes could damage the other's.
            if (other := _holder(descriptor)) not in ({}, name):
                message = f"{path.parent} was taken over by {_name(other)}: this process ends and saves nothing."
                with contextlib.suppress(OSError):  # the reader of a pipe may be gone
                    os.write(2, f"\n{message}\n".encode())
                os._exit(1)
