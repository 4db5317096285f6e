"""If one process of a run, of `srt label` or of `srt evaluate` dies, all others end and name that process.

Each trainer has a parent: the process that the user or the scheduler starts. It starts the same command again as its
child, the trainer, which holds the accelerators and does the work, be it training, labels or an evaluation. A trainer
cannot report the death of another one: it waits in a collective until JAX's coordination service ends it from C++ with
a stack of C++ functions.

The parents share no network. Each one renews <run>/processes/K.json every second (`Job.records`). The parent of process
0 reads the records of all others, and these read only its record, where it names the process that is gone. A process is
gone if

- its record says how its trainer ended, and this was no success;
- its record was not renewed for stop.peer_seconds: the parent or its host died, or the network file system is away;
- it has no record stop.join_seconds after this process started, and its trainer has not joined the others.

A trainer that a signal interrupts saves nothing more (status 130), so the others end at once. A parent also ends its
trainer if it was suspended for stop.peer_seconds. Then the parent of every other process prints
the sentence and the command that resumes the run, kills its trainer, and exits with status 75. vLLM servers end with
their trainer (rollout/vllm/guard.py). A trainer ends with its parent. JAX's own limits are a second line: they apply
where the parents do not see a fault.

A second start in the folder of a run that works must not harm that run. Each parent has an `fcntl` lock on its record.
If another one has it, the second start is refused before its trainer starts: JAX ends a run if one of its processes
joins twice. If JAX finds the numbers of the processes, the folder's lock (run/lock.py) refuses the trainer. Until then
its parent does not write. On a file system without locks both write, so readers follow the start that they saw first.
A file server may keep the lock of a host that is gone. If such a record is not renewed for stop.peer_seconds, an empty
one takes its place, and the new start goes on.

A process may start again while the others of the earlier start still live. They will soon find the old one silent, and
this is no fault of the new start. So each record names the starts that its writer follows, by their random ids, and a
new process ignores a record that follows an earlier start of itself.
"""

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import math
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from srt_jax import runtime
from srt_jax.errors import FolderInUseError
from srt_jax.files import read_json_object
from srt_jax.log import write
from srt_jax.run import interrupt, joining
from srt_jax.run.lock import boot_id, break_lock
from srt_jax.run.watchdog import STATUS
from srt_jax.runtime.place import Place, command_line, place_of

VARIABLE = "SRT_PARENT"  # in the environment of a trainer: the parent's process id and a pipe to it
POLL = 1.0  # seconds between two looks
GRACE = 20.0  # seconds in which a trainer must end by itself, if another one has ended in an orderly way
SETTLE = 5.0  # seconds in which the ends of other processes must show, after this one's trainer has refused its input
FAILED = 70  # EX_SOFTWARE in sysexits.h: the status of a trainer with an uncaught exception; its parent's status is 1
FAILURE = "ended with status 1"  # the value of `ended` in a record after an uncaught exception
# A trainer whose collective fails may end by one of these, when threads of XLA still run.
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
INTERRUPTED = "was interrupted by a signal"  # the value of `ended` after status 130
# Seconds before the records are removed. Processes that ended with status 2 still read them, to find the reason.
TIDY = 2.0
BLAME = 10.0  # seconds in which the end of another trainer must show, after this one's trainer has failed
START = 60.0  # seconds in which a trainer must have imported its modules
SIZE = 1024  # bytes of a record, which is rewritten in place: a full disk must not look like a death
SIZE_OF_ID = 20  # more bytes in it for each process that it follows
DONE = "done"  # the value of `ended` in a record after a success
PR_SET_PDEATHSIG = 1  # of prctl(2)


def needed(environ: Mapping[str, str] = os.environ) -> bool:
    """Tells whether this process must become a parent: the run has several processes, and it has none yet."""
    return place_of(environ) is not None and VARIABLE not in environ


def obey(environ: Mapping[str, str] = os.environ) -> None:
    """In a trainer: from now on it is killed when its parent dies. Does nothing without a parent."""
    if VARIABLE not in environ:
        return
    parent = int(environ[VARIABLE].split(":")[0])
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(STATUS)


def leave_at_once(run: Callable[[], object], environ: Mapping[str, str] = os.environ) -> None:
    """Calls run(). In a trainer with a parent, wrong input and uncaught exceptions then end the process at once.

    An ordinary exit would wait for the other processes in JAX's shutdown, and these wait in a collective.
    """
    if VARIABLE not in environ:
        run()
        return
    try:
        run()
        return
    except SystemExit as e:
        if e.code != 2:
            raise
        status = 2
    except (Exception, KeyboardInterrupt):
        traceback.print_exc()
        status = FAILED
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader of a pipe may be gone
            stream.flush()
    os._exit(status)


def join(config: ConfigDict, environ: Mapping[str, str] = os.environ) -> None:
    """Starts JAX for a job with this config, and joins its other processes. In a trainer, tells its parent about it.

    A process without a parent ends with a sentence if the others have not come within stop.join_seconds.
    """
    stop = config.stop
    place, has_parent = place_of(environ), VARIABLE in environ
    place = runtime.start(
        config.mesh.cpu_devices,
        peer_seconds=stop.peer_seconds,
        join_seconds=stop.join_seconds,
        limit=joining.at_most(place, stop.join_seconds) if place and not has_parent else None,
    )
    if has_parent:
        report_joined(place, environ)


def report_joined(place: Place, environ: Mapping[str, str] = os.environ) -> None:
    """In a trainer: tells the parent that all processes have joined, and which one this is."""
    with contextlib.suppress(OSError):
        os.write(int(environ[VARIABLE].split(":")[1]), f"{place.index} {place.count}\n".encode())


@dataclasses.dataclass(frozen=True)
class Job:
    """The work that several processes share, as the parents describe it.

    name: what ends if a process dies, in words. path: the run folder, or the output file. records: the folder of the
    records, in a folder that all processes share. again: the purpose of a new start, in words. apart: the remedy if
    another start of the job uses the same path.
    """

    name: str
    path: pathlib.Path
    records: pathlib.Path
    again: str
    apart: str


def training(directory: pathlib.Path) -> Job:
    """The job that trains in a run folder."""
    return Job(
        "the run",
        directory,
        directory / "processes",
        "to resume it from its last checkpoint",
        "give this run another config.name",
    )


def watch(
    job: Job,
    peer_seconds: float,
    join_seconds: float,
    start_seconds: float = START,
    blame_seconds: float = BLAME,
) -> int:
    """Starts the trainer, watches it and the other processes, and returns the exit status of this process.

    peer_seconds, join_seconds: the fields of `stop`. start_seconds: time for the imports of a trainer, before it joins
    the others. blame_seconds: see BLAME. Raises FolderInUseError if the parent of another start of this process works
    on the same path.
    """
    check_not_started(job, place_of(os.environ), peer_seconds)
    with Trainer() as trainer:
        watched = _Watched(trainer, job, peer_seconds, join_seconds, start_seconds, blame_seconds)
        status = watched.until_the_end()
        watched.tidy()
        return status


def check_not_started(job: Job, place: Place | None, peer_seconds: float) -> None:
    """Raises FolderInUseError if the parent of another start of this process works on the same path.

    A parent on another host is gone if it does not renew its record for peer_seconds. Then an empty record takes the
    place of its own, whose lock the file server may keep.
    """
    if place is None or place.index is None:
        return
    path = job.records / f"{place.index}.json"
    holder = Holder(path)
    while _is_locked(path):
        silent = holder.look()
        if holder.lives:
            raise FolderInUseError(
                f"{job.path} is used by {holder.name()}, which is process {place.index} of another start: wait for it "
                f"or stop it, or {job.apart}."
            )
        if silent > peer_seconds:
            holder.break_lock()
            return
        if not silent:
            write(
                f"{holder.name()} has {path} locked: if it gives no sign of life for {peer_seconds:.0f} s, this start "
                "goes on ...",
                sys.stderr,
            )
        time.sleep(POLL)


def _is_locked(path: pathlib.Path) -> bool:
    """Tells whether another process has the record locked."""
    try:
        with open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the first start, or a file system without locks
        pass
    return False


class Holder:
    """The parent that has a record locked.

    lives: it is on this host, where the kernel releases the lock of a process that ends, or it has renewed the record.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self.lives = path, False
        self._record: dict | None = None
        self._file: os.stat_result | None = None
        self._silent, self._before = 0.0, time.monotonic()

    def look(self) -> float:
        """Reads the record. Returns the seconds for which it has not changed, as far as this process ran."""
        now = time.monotonic()
        # A process that was suspended has missed the signs of life.
        passed, self._before = min(now - self._before, 2 * POLL), now
        try:
            file = self._path.stat()
            record = read_json_object(self._path)
        except OSError:  # a file system that fails for a moment shows no sign of life
            return self._silent
        except ValueError:  # it is being written, or its host died before that
            record = {}
        self.lives |= record.get("boot") == boot_id() or self._record not in (None, record)
        self._silent = self._silent + passed if record == self._record else 0.0
        self._record, self._file = record, file
        return self._silent

    def break_lock(self) -> None:
        """Puts an empty record in the place of the silent one."""
        if self._file is not None:
            break_lock(self._path, self._file)

    def name(self) -> str:
        """The process in words."""
        if not self._record:
            return "another process"
        return f"process {self._record.get('pid')} on {self._record.get('host')}"


class Trainer:
    """The child process, with this process's streams, as a context manager. Signals to this process go on to it."""

    def __init__(self) -> None:
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {VARIABLE: f"{os.getpid()}:{theirs}"},
            pass_fds=[theirs],
        )
        os.close(theirs)
        self.pid = self._process.pid
        self.suspended = 0.0  # seconds for which it has been suspended
        self.signals = 0  # number of signals to this process

    def __enter__(self) -> "Trainer":
        # Another reader of signals (run/interrupt.py) would end this process before its trainer has saved.
        self._wakeup = signal.set_wakeup_fd(-1)
        self._handlers = {s: signal.signal(s, self._forward) for s in interrupt.watched()}
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe)

    def _forward(self, number: int, _: object) -> None:
        self.signals += 1
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, seconds: float) -> int | None:
        """The exit status (negative: minus the number of a signal) if the trainer ends within the time, else None."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.suspended = self.suspended + seconds if self._is_suspended() else 0.0
            return None

    def kill(self) -> None:
        """Ends the trainer, if it has not ended, and waits for its end."""
        self._process.kill()
        self._process.wait()

    def joined(self) -> Place | None:
        """The trainer's place in the run, when all processes have joined; None before that, and if it was read."""
        with contextlib.suppress(BlockingIOError):
            if line := os.read(self._pipe, 100).split():
                return Place(int(line[0]), int(line[1]), "")
        return None

    def _is_suspended(self) -> bool:
        with contextlib.suppress(OSError):  # it has just ended, or there is no /proc
            return pathlib.Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"T", b"t")
        return False


class Record:
    """The record K.json of process K, written by its parent.

    It is not written while the parent of another start of process K has it locked.
    """

    def __init__(self, folder: pathlib.Path, index: int, pid: int, count: int = 1, patience: float = math.inf):
        """Raises OSError.

        count: number of processes of the run. patience: seconds after which a parent on another host that has the
        record locked and does not renew it counts as gone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # NFS clients remember for up to a minute that a file is missing, so the records of all processes exist.
        for i in {*range(count), index}:
            (folder / f"{i}.json").touch()
        self.index, self.id = index, secrets.token_hex(4)
        self._path, self._patience = folder / f"{index}.json", patience
        self._size = SIZE + SIZE_OF_ID * (count if index == 0 else 1)
        self._descriptor: int | None = None
        self._holder = Holder(self._path)
        who = {"id": self.id, "host": socket.gethostname(), "boot": boot_id(), "pid": pid}
        self._fields: dict = {**who, "beat": 0}
        self.renew()

    def renew(self, **fields: object) -> None:
        """Renews the sign of life, and changes these fields.

        ended: how the trainer ended. verdict: who is gone. follows: {index of another process: the id of its start}.
        """
        self._fields = self._fields | fields | {"beat": self._fields["beat"] + 1}
        with contextlib.suppress(OSError):  # the others decide whether this host is gone
            if self._descriptor is None:
                self._descriptor = self._lock()
            if self._descriptor is not None:
                os.pwrite(self._descriptor, json.dumps(self._fields).encode().ljust(self._size), 0)
                os.fsync(self._descriptor)

    def is_ours(self) -> bool:
        """Tells whether this process writes the record. Another start may have put its own in the place of this one."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError as e:  # removed by the last process, or a file system that fails for a moment
            return e.errno != errno.ESTALE

    def _lock(self) -> int | None:
        """Opens and locks the record. Returns None if another process has it locked. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if self._holder.look() > self._patience and not self._holder.lives:
                self._holder.break_lock()
            return None
        except OSError:  # a file system without locks
            pass
        return descriptor

    def all_over(self) -> bool:
        """Tells whether there are records, and each of them says how its process ends, or is empty: it never began."""
        folder = self._path.parent
        try:
            records = [read_json_object(path) for path in folder.glob("*.json") if path.stat().st_size]
        except (OSError, ValueError):  # one is being removed or written
            return False
        return folder.is_dir() and all("ended" in record or "verdict" in record for record in records)

    def remove_all(self) -> None:
        """Removes the records of all processes, and their folder."""
        with contextlib.suppress(OSError):
            for path in self._path.parent.glob("*.json"):
                path.unlink(missing_ok=True)
            self._path.parent.rmdir()

    def remove(self) -> None:
        """Removes the record, with the last one also its folder, and the folder around it if nothing else is in it."""
        if self.is_ours():
            with contextlib.suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()
                self._path.parent.parent.rmdir()


class Peer:
    """Another process of the run, as its record shows it."""

    def __init__(self, folder: pathlib.Path, index: int, reader: Record | None = None):
        """reader: the record of this process."""
        self.index, self._reader = index, reader
        self._path = folder / f"{index}.json"
        self.seen, self.done, self.silent = False, False, 0.0
        # Perhaps that of an earlier start of the run. Read at once, because a trainer may die in its first second.
        self._last = self._read() or {}

    def _read(self) -> dict | None:
        """The record; {} if there is none, or if it is empty before its first renewal; None if it cannot be read."""
        try:
            return read_json_object(self._path) if self._path.stat().st_size else {}
        except FileNotFoundError:
            self.done |= self.seen  # removed after a success
            return {}
        except (OSError, ValueError):  # then it becomes silent
            return None

    def look(self, seconds: float) -> None:
        """Reads the record. seconds: since the last look."""
        self.silent += seconds
        record = self._read()
        if not record or record == self._last or self._is_of_another_start(record):
            return
        if not self.seen or record.get("id") == self._last.get("id"):
            self._last, self.silent, self.seen = record, 0.0, True
            self.done |= record.get("ended") == DONE

    def _is_of_another_start(self, record: dict) -> bool:
        """Tells whether the record follows an earlier start of this process."""
        follows = record.get("follows")
        if self._reader is None or not isinstance(follows, dict):
            return False
        return follows.get(str(self._reader.index), self._reader.id) != self._reader.id

    def id(self) -> str | None:
        """The id of its start, if it has been seen."""
        return self._last.get("id") if self.seen else None

    def verdict(self) -> str | None:
        """The process that this one has found gone, in words; None if it has found none."""
        return self._last.get("verdict") if self.seen else None

    def ended(self) -> str | None:
        """The end of its trainer in words, if others must end for that reason."""
        ended = self._last.get("ended") if self.seen else None
        return f"{self.name()} {ended}" if ended and ended != DONE else None

    def orderly(self) -> bool:
        """Tells whether its trainer ended by itself, with an exit status."""
        return "status" in str(self._last.get("ended"))

    def interrupted(self) -> bool:
        """Tells whether a signal interrupted its trainer."""
        return self._last.get("ended") == INTERRUPTED

    def over(self) -> bool:
        """Tells whether the process has ended, or ends now, for a known reason."""
        return self.done or self.ended() is not None or self.verdict() is not None

    def has_left(self) -> bool:
        """Tells whether its parent has ended, too."""
        return self.done or (self.ended() is not None and self.silent > SETTLE)

    def name(self) -> str:
        """The process in words, with its host if that is known."""
        host = self._last.get("host") if self.seen else None
        return f"process {self.index}" + (f" on {host}" if host else "")


class _Watched:
    """The view of one parent on its trainer and on the other processes."""

    def __init__(
        self,
        trainer: Trainer,
        job: Job,
        peer_seconds: float,
        join_seconds: float,
        start_seconds: float,
        blame_seconds: float,
    ):
        self._trainer, self._job = trainer, job
        self._peer_seconds, self._join_seconds, self._start_seconds = peer_seconds, join_seconds, start_seconds
        self._blame_seconds = blame_seconds
        self._started = self._before = time.monotonic()
        self._running = 0.0  # seconds without those in which this process was suspended
        self._place, self._joined = place_of(os.environ), False
        self._record: Record | None = None
        self._peers: list[Peer] = []
        self._waiting = 0.0  # seconds of GRACE so far
        self._register()

    def _register(self) -> None:
        if self._record or self._place.index is None:
            return
        # If JAX has found the index, a parent that is gone could not be found before. The others wait for peer_seconds.
        patience = self._peer_seconds / 2
        self._record = Record(self._job.records, self._place.index, self._trainer.pid, self._place.count, patience)
        others = range(1, self._place.count) if self._place.index == 0 else (0,)
        self._peers = [Peer(self._job.records, index, self._record) for index in others]

    def until_the_end(self) -> int:
        """Watches until this process must end. Returns its exit status."""
        while (status := self._trainer.wait(POLL)) is None:
            if sentence := self.look():
                self._trainer.kill()
                return self.end(sentence)
        return self.ended(status)

    def tidy(self) -> None:
        """Removes all records if every process has said how it ends, so that the last one to say it removes them.

        A process that vanished without a word may come back and look for the reason in the others' records.
        """
        if self._record and self._record.is_ours() and self._record.all_over():
            time.sleep(TIDY)
            if self._record.all_over():
                self._record.remove_all()

    def look(self) -> str | None:
        """Renews the record and looks at all others. Returns the sentence with which this process must end, or None."""
        passed = self._passed()
        self._look_at_peers(passed)
        if self._record is None:
            return None
        if self._trainer.suspended > self._peer_seconds:
            ended = f"was suspended for {self._peer_seconds:.0f} s"
            self._record.renew(ended=ended)
            return f"process {self._place.index} on {socket.gethostname()} {ended}"
        return self._gone(passed) or self._not_joined()

    def _passed(self) -> float:
        """Seconds since the last call, without those in which this process was suspended."""
        now = time.monotonic()
        # A process that was suspended with its trainer has missed the signs of life of the others.
        passed, self._before = min(now - self._before, 2 * POLL), now
        self._running += passed
        return passed

    def _look_at_peers(self, passed: float) -> None:
        """Renews the record and reads all others. Notes that all trainers have joined."""
        if joined := self._trainer.joined():
            self._place, self._joined = dataclasses.replace(self._place, index=joined.index, count=joined.count), True
            self._register()
            for peer in self._peers:
                peer.silent = 0.0  # from now on all must give signs of life
        if self._record is not None:
            self._record.renew(follows={str(peer.index): peer.id() for peer in self._peers if peer.seen})
            for peer in self._peers:
                peer.look(passed)

    def _gone(self, passed: float) -> str | None:
        """The process that is gone, in words, when this trainer has had its time to end by itself."""
        if faults := self._faults():
            sentence, grace = faults[0]
            self._waiting += passed
            if self._waiting > grace:
                return sentence
        else:
            self._waiting = 0.0
        return None

    def _faults(self) -> list[tuple[str, float]]:
        """(sentence, seconds) for each process that is gone, or that process 0 names, in the order of the seconds.

        seconds: the time in which this process's trainer may end by itself.
        """
        return sorted(self._find_faults(), key=lambda fault: fault[1])

    def _find_faults(self) -> Iterator[tuple[str, float]]:
        for peer in self._peers:
            if verdict := peer.verdict():
                yield verdict, 0.0
            elif ended := peer.ended():
                # Launchers send a signal to all processes, and then each one ends with its own sentence.
                interrupted = peer.interrupted() and self._trainer.signals > 0
                yield ended, GRACE if peer.orderly() or interrupted else 0.0
            elif peer.done:
                continue
            elif peer.seen and peer.silent > self._peer_seconds:
                yield f"{peer.name()} gave no sign of life for {self._peer_seconds:.0f} s", 0.0
            elif self._joined and peer.silent > self._peer_seconds:
                silent = f"gave no sign of life for {self._peer_seconds:.0f} s"
                yield f"{peer.name()} {silent}, or does not share {self._job.records.parent}", 0.0
            elif not peer.seen and not self._joined and self._running > self._join_seconds:
                yield (
                    f"{peer.name()} has not started within {self._join_seconds:.0f} s (stop.join_seconds), or does not "
                    f"share {self._job.records.parent}",
                    0.0,
                )

    def _not_joined(self) -> str | None:
        limit = self._join_seconds + self._start_seconds
        if self._joined or self._running < limit:
            return None
        where = self._place.address or "process 0"
        return (
            f"the trainers have not come together at {where} within {limit:.0f} s, although their parents run (is this "
            "port open between the hosts?)"
        )

    def ended(self, status: int) -> int:
        """After the end of this trainer: prints a sentence unless it was a success. Returns the exit status."""
        own = STATUS if status < 0 else 1 if status == FAILED else status
        if self._record is None:
            return own
        if status == 0:
            self._record.renew(ended=DONE)
            self._record.remove()
            return 0
        if status in (FAILED, *CRASHES) and (fault := self._fault_of_another(status)):
            return self.end(fault)
        how = f"ended with status {own}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        how = INTERRUPTED if status == interrupt.STATUS else how
        self._record.renew(ended=how)
        if status < 0:  # otherwise the trainer has printed its reason
            self._say(f"process {self._place.index} on {socket.gethostname()} {how}")
        if own == 2 and (fault := self._after_refusal()):
            return self.end(fault)
        return own

    def _fault_of_another(self, status: int) -> str | None:
        """After this trainer failed: the process whose end was the reason, in words; None if none is found.

        Gloo and NCCL fail at once. The end of a trainer shows in the records some seconds later, and that of a parent
        after peer_seconds. A signal ends the search. After a wrong access to memory it is short: this trainer is then
        rather the reason than the victim, and the others must find its end in the time that they search.
        """
        waited, signals = 0.0, self._trainer.signals
        by_memory = status in (-signal.SIGSEGV, -signal.SIGBUS)
        limit = self._blame_seconds / 2 if by_memory else self._peer_seconds + self._blame_seconds
        while waited < limit and self._trainer.signals == signals:
            passed = self._passed()
            waited += passed
            self._look_at_peers(passed)
            if faults := self._faults():
                sentence, _ = faults[0]
                # If both trainers failed, both have printed a traceback, and nobody knows which failed first.
                return None if status == FAILED and sentence.endswith(FAILURE) else sentence
            if waited > self._blame_seconds and self._sees_all_alive(self._blame_seconds / 2):
                return None
            time.sleep(POLL / 4)
        return None

    def _sees_all_alive(self, seconds: float) -> bool:
        """Tells whether all other parents live, as far as they have started. Process 0 alone sees more than one.

        seconds: since their last sign of life, at most. It is less than the time of the search by more than the pause
        between two looks: the last sign of life of a dead one may be seen when the search begins.
        """
        started = [peer for peer in self._peers if peer.seen or self._joined]
        alive = all(peer.silent < seconds for peer in started)
        return alive and (self._place.index == 0 or self._place.count == 2)

    def _after_refusal(self) -> str | None:
        """After status 2: the process whose death was the reason, in words; None if none is found.

        A death can look like wrong input: a checkpoint that several processes write fails if one dies. Otherwise,
        removes the record if the processes that read it end, too. If one of them continues, a record that is gone would
        look like a success. Process 0, which alone sees all others, may still find a dead one, so the others wait until
        it has left. A signal ends the wait.
        """
        waited, signals = 0.0, self._trainer.signals
        this = f"process {self._place.index} on {socket.gethostname()} "
        limit = self._peer_seconds + self._blame_seconds
        while waited < limit and self._record.is_ours() and self._trainer.signals == signals:
            passed = self._passed()
            waited += passed
            self._look_at_peers(passed)
            for sentence, grace in self._faults():
                if not grace and not sentence.startswith(this):
                    return sentence
            if all(peer.over() if self._place.index == 0 else peer.has_left() for peer in self._peers):
                self._record.remove()
                return None
            if waited > SETTLE and self._sees_all_alive(SETTLE / 2):
                return None
            time.sleep(POLL / 4)
        return None

    def end(self, sentence: str) -> int:
        """Prints why this process ends. Process 0 also tells the others. Returns the exit status."""
        self._record.renew(verdict=sentence)
        self._say(sentence)
        return STATUS

    def _say(self, sentence: str) -> None:
        prefix = f"process {self._place.index}: " if self._place.index else ""
        again = how_to_resume(self._job, os.environ, sys.orig_argv)
        write(f"\n{prefix}{self._job.name} ends: {sentence}; {again}", sys.stderr)


def how_to_resume(job: Job, environ: Mapping[str, str], command: Sequence[str]) -> str:
    """The sentence that says how to resume the job; command: that of this process."""
    if "SLURM_JOB_ID" in environ:
        return f"submit the SLURM job again {job.again}"
    return f"start all processes again {job.again}, this one by {command_line(environ, command)}"
