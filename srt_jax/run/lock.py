"""A run folder belongs to one trainer at a time.

Two trainers in one folder would overwrite each other's checkpoints. <run>/lock names the trainer, which holds an
`fcntl` lock on it. The kernel releases that lock when the process ends, however it ends. Some network file systems do
not show one host's lock to another host, so the trainer also renews the file's time every BEAT seconds. If the file
then names another trainer, which took the folder over, this one ends at once. Others keep the lock of a host that is
gone. If such a file is not renewed for SILENCE seconds, an empty one takes its place.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from srt_jax.errors import FolderInUseError
from srt_jax.files import parse_json
from srt_jax.log import write

BEAT = 20.0  # seconds between two renewals
STALE = 120.0  # seconds without a renewal after which a trainer on another host counts as gone
PAUSE = 1.0  # seconds between two looks at a file that is locked
SILENCE = 2.25 * BEAT  # seconds in which a trainer on another host that has the lock must renew it, to count as alive


@contextlib.contextmanager
def locked(
    directory: pathlib.Path, take_over: bool = False, waits: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Locks a run folder for this process while the block runs. Makes the folder if it does not exist.

    take_over: take the lock although a trainer on another host renewed it less than STALE seconds ago. If that trainer
    still has the lock, it must also be silent for SILENCE seconds from now on. waits: called every second of that time.
    Raises FolderInUseError if another trainer uses the folder.
    """
    path, name = directory / "lock", this_process()
    descriptor = _acquire(path, take_over, waits)
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
            with contextlib.suppress(OSError):
                if not _named_in(path) and {path} == {*directory.iterdir()} - {directory / "processes"}:
                    path.unlink()
                    directory.rmdir()
    finally:
        os.close(descriptor)


def this_process() -> dict:
    """The content of the lock file. Containers on one host have the same boot id and see each other's locks."""
    return {
        "host": socket.gethostname(),
        "boot": boot_id(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def boot_id() -> str:
    """This host since its last start. Other hosts, and this one before its start, have another id."""
    path = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()


def break_lock(path: pathlib.Path, locked_file: os.stat_result) -> None:
    """Puts an empty file in the place of a locked one, unless another process has replaced or removed that one.

    locked_file: the status of the locked file. At no moment is there no file: NFS clients would remember it.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.touch()
    try:
        # Two starts may wait for the same host. The later one must not replace the file that the earlier one locked.
        if os.path.samestat(path.stat(), locked_file):
            fresh.replace(path)
    except FileNotFoundError:
        pass
    finally:
        fresh.unlink(missing_ok=True)


def _acquire(path: pathlib.Path, take_over: bool, waits: Callable[[], object]) -> int:
    """Takes the lock; returns the open file. Raises FolderInUseError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(descriptor, path, take_over, waits):
                break_lock(path, os.fstat(descriptor))
            elif path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file has been replaced, or another process removed it between our two calls


def _lock(descriptor: int, path: pathlib.Path, take_over: bool, waits: Callable[[], object]) -> bool:
    """Locks the open file. Returns False if a trainer has the lock whose host is gone. Raises FolderInUseError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        elsewhere = _is_elsewhere(holder)
        may_be_gone = elsewhere and (take_over or _age(descriptor) >= STALE)
        if may_be_gone and _is_silent(path, holder, waits):
            return False
        remedy = " If its host is gone, add --take_over." if elsewhere and not may_be_gone else ""
        raise FolderInUseError(
            f"{path.parent} is used by {_name(holder)}: wait for it or stop it, or give this run another config.name."
            f"{remedy}"
        ) from None
    holder, age = _holder(descriptor), _age(descriptor)
    if _is_elsewhere(holder) and age < STALE and not take_over:
        raise FolderInUseError(
            f"{path.parent} was used {max(age, 0):.0f} seconds ago by {_name(holder)}: if that process is gone, wait "
            f"until {STALE:.0f} seconds have passed or add --take_over."
        )
    return True


def _is_elsewhere(holder: dict) -> bool:
    return bool(holder) and holder.get("boot") != boot_id()


def _age(descriptor: int) -> float:
    """Seconds since the last sign of life, by the clocks of this host and of the file server."""
    return time.time() - os.fstat(descriptor).st_mtime


def _is_silent(path: pathlib.Path, holder: dict, waits: Callable[[], object]) -> bool:
    """Tells whether a trainer on another host does not renew the file for SILENCE seconds from now on."""

    def sign() -> tuple:
        with path.open("rb") as file:  # NFS clients look at the server when they open a file
            return os.fstat(file.fileno()).st_mtime_ns, file.read()

    write(
        f"{_name(holder)}, has {path} locked: if it gives no sign of life for {SILENCE:.0f} s, this start goes on ...",
        sys.stderr,
    )
    waited, failed, first = 0.0, 0.0, None
    while waited < SILENCE:
        try:
            now = sign()
            waited += PAUSE  # not by a clock: a process that was suspended has missed the signs of life
        except FileNotFoundError:  # the trainer has ended
            return True
        except OSError:  # a file system that fails for a moment shows nothing
            now, failed = first, failed + PAUSE
            if failed > SILENCE:
                raise
        if now != (first := first or now):
            return False
        time.sleep(PAUSE)
        waits()
    return True


def _holder(descriptor: int) -> dict:
    """The trainer that the lock file names; {} if the last one ended in an orderly way."""
    return _named(os.pread(descriptor, 4096, 0))


def _named_in(path: pathlib.Path) -> dict:
    """The trainer that the file of this name names, which may have replaced the one that this process locked."""
    try:
        return _named(path.read_bytes()[:4096])
    except OSError:
        return {}


def _named(content: bytes) -> dict:
    try:
        found = parse_json(content)
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
        # If this process was suspended for longer than STALE seconds, another one may have taken the folder over, and
        # the next file that this one writes could damage the other's.
        if (other := _named_in(path)) not in ({}, name):
            message = f"{path.parent} was taken over by {_name(other)}: this process ends and saves nothing."
            with contextlib.suppress(OSError):  # the reader of a pipe may be gone
                os.write(2, f"\n{message}\n".encode())
            os._exit(1)
