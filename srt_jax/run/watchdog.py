"""The watchdog: stops a run that hangs, after it has written the stacks of all threads to a file.

A run hangs if it makes no progress for stop.hang_seconds or ten median steps, whichever is longer. Progress is the
start and the end of each phase of a step, and each further token of the sampler. Compilation, evaluations, checkpoints
and exports may take SLOW times stop.hang_seconds, and so may the first steps, which have no median yet.

The main thread may wait in a compiled program or a system call that Python cannot interrupt. So a second thread does
everything, and then ends the process. A function that never releases Python's global lock stops this thread, too, but
not the timer of the operating system that the thread sets again and again. When that timer expires, the process writes
the stacks and ends.
"""

import contextlib
import faulthandler
import os
import pathlib
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from srt_jax.run.progress import duration
from srt_jax.runtime.place import command_line

STATUS = 75  # EX_TEMPFAIL in sysexits.h: the same command may succeed
MEDIANS = 10  # a step may take this many times the median
SLOW = 6  # SLOW_PHASES and the first steps may take this many times stop.hang_seconds
FIRST_STEPS = 3  # number of steps before the median counts
RECENT = 20  # number of steps in the median: response lengths change over a run
POLL = 1.0  # seconds between two looks
# Phases as the progress line names them.
ACTIVITIES = {
    "sample": "sampling",
    "wait": "waiting for the sampler",
    "score": "scoring",
    "update": "updating",
    "load": "bringing the weights to the sampler",
    "save": "saving",
}
SLOW_PHASES = ("start", "eval", "save", "export")


def limit(seconds: float, phase: str, steps: Sequence[float], at_least: float = 0.0) -> float:
    """The longest time without progress, in seconds, that is no hang.

    seconds: stop.hang_seconds. phase: the name of the current phase. steps: seconds of the last steps. at_least: a
    lower bound for phases that have their own time limits.
    """
    slow = phase in SLOW_PHASES or len(steps) < FIRST_STEPS
    allowed = max(seconds * SLOW if slow else seconds, at_least)
    return max(allowed, MEDIANS * statistics.median(steps)) if steps else allowed


class Watchdog:
    """Watches a run during the block `with watchdog.watching(rescue)`.

    The other threads call `progress`, `sampled` and `finished`. `phase` is the name of the current phase.
    """

    def __init__(self, directory: pathlib.Path, seconds: float, step: int = 0, at_least: float = 0.0, process: int = 0):
        """directory: the run folder; the stacks are written to hang.log there (hang-K.log in process K > 0).

        seconds: stop.hang_seconds (0: nothing is watched). step: the last finished step. at_least: see `limit`.
        """
        self._path = directory / (f"hang-{process}.log" if process else "hang.log")
        self._seconds, self._step, self._at_least = seconds, step, at_least
        self._prefix = f"process {process}: " if process else ""
        self.phase = "start"
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._silent = 0.0  # seconds since the last progress
        self._sampled: tuple[float, int] | None = None

    def progress(self, phase: str | None = None) -> None:
        """Something has happened; phase: the name of the phase that begins."""
        self._silent = 0.0
        if phase == "sample":
            self._sampled = None
        self.phase = phase or self.phase

    def sampled(self, share: float, tokens: int) -> None:
        """A callback for samplers, who may call it without progress."""
        if (share, tokens) != self._sampled:
            self._sampled = share, tokens
            self.progress()

    def activity(self) -> str:
        """A few words on the present phase for the progress line, "" where it shows nothing."""
        share, _ = self.last_sampled
        done = f" {share:.0%}" if self.phase == "sample" and 0 < share < 1 else ""
        return ACTIVITIES.get(self.phase, "") + done

    @property
    def last_sampled(self) -> tuple[float, int]:
        """The arguments of the last call of `sampled`."""
        return self._sampled or (0.0, 0)

    def finished(self, step: int, seconds: float) -> None:
        """A step has ended, which took this many seconds without evaluation and checkpoint."""
        self._step = step
        self._steps.append(seconds)
        self.progress("step")

    @contextlib.contextmanager
    def watching(self, rescue: Callable[[], str]) -> Iterator[None]:
        """Watches the run during the block.

        rescue() saves the last finished state if that is possible, and returns a clause about the newest checkpoint. It
        is called in another thread, and may take as long as the limit that was exceeded.
        """
        if not self._seconds:
            yield
            return
        ended, file = threading.Event(), self._path.open("a")
        faulthandler.register(signal.SIGPROF, file, all_threads=True, chain=True)
        thread = threading.Thread(target=self._watch, args=(ended, file, rescue), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.unregister(signal.SIGPROF)
            file.close()
            if not self._path.stat().st_size:
                self._path.unlink()

    def _limit(self) -> float:
        return limit(self._seconds, self.phase, self._steps, self._at_least)

    def _watch(self, ended: threading.Event, file: TextIO, rescue: Callable[[], str]) -> None:
        before = time.monotonic()
        while not ended.wait(POLL):
            now = time.monotonic()
            # A process that was suspended (SIGSTOP) has not hung, so its time counts only while this thread runs.
            self._silent += min(now - before, 2 * POLL)
            before = now
            # This timer counts the processor's time, which does not pass while the process is suspended.
            signal.setitimer(signal.ITIMER_PROF, 2 * self._limit())
            if self._silent > self._limit():
                self._stop(file, rescue)

    def _stop(self, file: TextIO, rescue: Callable[[], str]) -> None:
        """Writes the stacks, saves, and ends the process."""
        seconds = self._limit()
        signal.setitimer(signal.ITIMER_PROF, 0)
        # The standard streams or the file system may be what hangs, so another thread uses them.
        thread = threading.Thread(target=self._report, args=(seconds, file, rescue), name="hang", daemon=True)
        thread.start()
        thread.join(seconds + POLL)
        os._exit(STATUS)

    def _report(self, seconds: float, file: TextIO, rescue: Callable[[], str]) -> None:
        where = f"no progress for {duration(self._silent)} in phase `{self.phase}` after step {self._step}"
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}: {where}\n")
        file.writelines(f"thread {t.ident:#018x} is {t.name}\n" for t in threading.enumerate())
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        self._say(f"the run hangs: {where} (limit {duration(seconds)}); the stacks of all threads are in {self._path}")
        try:
            state = rescue()
        except Exception as e:  # whatever hangs may also fail
            state = f"the state could not be saved ({type(e).__name__}: {e})"
        self._say(f"stopped: {state}; this command resumes the run: {command_line(os.environ, sys.orig_argv)}")

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the reader of a pipe may be gone
            os.write(2, f"\n{self._prefix}{text}\n".encode())  # sys.stderr may be locked by a thread that hangs
