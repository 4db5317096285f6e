"""Runs a vLLM server until the process that started it ends, and then removes the server's files from this machine.

    python guard.py PARENT_PID RECORD COMMAND ...

The guard and the command form a new process group. When the command or the parent ends (also by kill -9), the guard
kills the whole group. A killed server leaves sockets in its temporary folder and segments of up to 250 MB in /dev/shm.
The record is a file that lists them. The guard has an flock on it, removes the listed files, and at last the record. If
the guard was killed, too, the next start of the run does the same. Needs only the standard library.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

SHARED_MEMORY = pathlib.Path("/dev/shm")
PROCESSES = pathlib.Path("/proc")
LOOK_SECONDS = 2.0  # between two looks for new segments
TRACKER_SECONDS = 1.0  # in which Python's resource trackers must remove the segments of their dead processes
EMPTY_SECONDS = 5.0  # longest wait for killed processes to go
TRACKER = b"multiprocessing.resource_tracker"
LONGEST_SOCKET = 107 - len("/12345678-1234-1234-1234-123456789012")  # bytes of a folder in which vLLM makes sockets


def main() -> None:
    """Starts the command and watches it and the parent."""
    parent, record = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    # SIGTERM should end the command and not this process. The command would inherit SIG_IGN, but not a handler.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL)
    looked, noted = time.monotonic(), set()
    with contextlib.suppress(OSError), open(record, "a") as file:
        file.write(f"{os.getpgrp()}\n")
    # The parent's id changes when it dies. A pipe would not work, since its other children may keep it open.
    while command.poll() is None and os.getppid() == parent:
        time.sleep(0.2)
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            with contextlib.suppress(OSError):  # e.g. the disk is full: then the resource tracker removes them
                noted |= note_segments(record, noted)
    status = command.returncode
    try:
        print("the trainer is gone" if status is None else f"the server ended with status {status}", flush=True)
    finally:  # also where the log's disk is full
        try:
            end_group(os.getpgrp())
            remove_recorded(record)
        finally:
            os.killpg(0, signal.SIGKILL)


# ---- the record, one entry on a line: the temporary folder, the process group, and "inode name" of each segment


def new_record(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, int]:
    """Makes a temporary folder and its record in `folder`. Returns (record, temporary folder, locked open record)."""
    temporary = pathlib.Path(tempfile.mkdtemp(prefix="srt-vllm-"))
    # PyTorch calls g++ without quotes, so a space in the name would end a server that compiles.
    if len(os.fsencode(temporary)) > LONGEST_SOCKET or len(str(temporary).split()) > 1:
        temporary.rmdir()
        temporary = pathlib.Path(tempfile.mkdtemp(prefix="srt-vllm-", dir="/tmp"))
    record = folder / f".{temporary.name}"
    descriptor = os.open(record, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, f"{temporary}\n".encode())
    return record, temporary, descriptor


def remove_old(folder: pathlib.Path) -> None:
    """Removes the files of killed servers by the records in `folder`, unless their guard still runs."""
    for record in folder.glob(".srt-vllm-*"):
        with contextlib.suppress(OSError), open(record, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_recorded(record)


def remove_recorded(record: pathlib.Path) -> None:
    """Ends the process group of a record, and removes its folder, its segments and the record.

    Another process group may have the same number by now, so one of its processes must have the temporary folder. A
    segment that another process uses stays.
    """
    try:
        first, group, *lines = [*record.read_text().splitlines(), "", ""]
    except (OSError, ValueError):
        return
    temporary = pathlib.Path(first)
    if f".{temporary.name}" == record.name:
        if group.isdecimal() and any(_has_folder(pid, temporary) for pid in members(int(group))):
            end_group(int(group))
        shutil.rmtree(temporary, ignore_errors=True)
    used = {inode for process in PROCESSES.glob("[0-9]*") for inode in mapped(process)}
    for line in lines:
        number, _, name = line.partition(" ")
        path = SHARED_MEMORY / pathlib.Path(name).name
        with contextlib.suppress(OSError, ValueError):
            if int(number) == path.stat().st_ino and int(number) not in used:
                path.unlink()
    record.unlink(missing_ok=True)


def note_segments(record: pathlib.Path, noted: set[str]) -> set[str]:
    """Appends the segments in /dev/shm that this process group uses to the record, except those in `noted`."""
    inodes = {inode for pid in members(os.getpgrp()) for inode in mapped(PROCESSES / str(pid))}
    found = {f"{path.stat().st_ino} {path.name}" for path in SHARED_MEMORY.iterdir() if path.stat().st_ino in inodes}
    if found - noted:
        with open(record, "a") as file:
            file.write("".join(f"{line}\n" for line in sorted(found - noted)))
    return found


def mapped(process: pathlib.Path) -> Iterator[int]:
    """The inodes of the segments in /dev/shm that a process has mapped. process: its folder in /proc.

    Names would not do: semaphores are mapped under a temporary name.
    """
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        for line in (process / "maps").read_bytes().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(b"/dev/shm/"):
                yield int(fields[4])


# ---- processes


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == group:
                state = (process / "stat").read_bytes().rpartition(b") ")[2][:1]
                found += [int(process.name)] if state not in (b"Z", b"X") else []
    return found


def _has_folder(pid: int, temporary: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return pid != os.getpid() and b"TMPDIR=" + os.fsencode(temporary) in (
            PROCESSES / str(pid) / "environ"
        ).read_bytes().split(b"\0")
    return False


def end_group(group: int) -> None:
    """Kills the processes of a group, except this one: Python's resource trackers last.

    A tracker removes the segments of its processes after their death, and ends.
    """
    start = time.monotonic()
    while (left := [pid for pid in members(group) if pid != os.getpid()]) and time.monotonic() < start + EMPTY_SECONDS:
        for pid in left:
            with contextlib.suppress(OSError):
                waits = TRACKER in (PROCESSES / str(pid) / "cmdline").read_bytes()
                if not waits or time.monotonic() > start + TRACKER_SECONDS:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
