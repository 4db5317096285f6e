"""The progress and the remaining time of long work: one line, rewritten in place on a terminal. Needs no JAX."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from srt_jax.log import console, logger, write

EVERY = 60.0  # seconds between two lines if the stream is no terminal
EVERY_LIVE = 1.0  # seconds between two versions of the line on a terminal


class Progress:
    """Shows `done` of `total`, a summary, the elapsed time and the time left.

        with Progress(len(problems), "problem") as progress:
            for done, problem in enumerate(problems, 1):
                solve(problem)
                progress.update(done, f"{rate:.0f} tokens/s")

    If the stream is no terminal, the first and the last update (`done` = `total`) write a line. Between them a line is
    written every `every` seconds, even without an update: a thread repeats the last one. On a terminal the line is
    rewritten every second. Processes of a run other than the first one write nothing.

    The time left is the remaining work times the mean pace since the first update. Start-up and compilation must not
    count: call `update(0)`, or `begin`, when the work itself begins.
    """

    def __init__(
        self,
        total: float,
        what: str,
        stream: TextIO | None = None,
        every: float = EVERY,
        after: float = 0.0,
        percent: bool = False,
        clock=time.monotonic,
        activity: Callable[[], str] = lambda: "",
    ):
        """total: amount of work in units of `what`; stream: None is stderr; after: no line is written in the first
        `after` seconds, so that short work has none; percent: show done / total as a percentage; clock: in seconds;
        activity: returns a few words on what happens at the moment, "" for nothing.
        """
        self.total, self.what, self._stream = total, what, stream or sys.stderr
        self._live = self._stream.isatty()
        self._every, self._clock = (EVERY_LIVE if self._live else every), clock
        self._after, self._percent = after, percent
        self._created = clock()
        self._first: tuple[float, float] | None = None  # (seconds, done) at which the pace starts
        self._done, self._summary = 0.0, ""
        self._written, self._open = None, False  # time of the last line; whether the cursor is in a line
        self._is_last_written = False  # whether a line with done = total is written
        self._end, self._paused = None, False  # _end: time of the end, from the last update
        self._begun = False
        self._silent = console.process > 0  # the first process shows the progress of all
        self._activity = activity
        self._closed, self._lock = threading.Event(), threading.RLock()
        console.lines.append(self)
        self._thread = threading.Thread(target=self._repeat, name=f"progress: {what}", daemon=True)
        self._thread.start()

    def update(self, done: float, summary: str = "", left: float | None = None, now: bool = False) -> None:
        """Sets `done` (never less than before), and writes the line if it is due or `now` is true.

        left: seconds until the end, if the caller knows better than the mean pace.
        """
        with self._lock:
            self._done, self._summary = done, summary
            self._end, self._paused = None if left is None else self._clock() + left, False
            if self._first is None:
                self._first = (self._clock(), done)
            is_last = done >= self.total and self._written is not None and not self._is_last_written
            if now or self._due() or is_last:
                self._write()

    def begin(self) -> None:
        """Measures the pace from the first call of this on: the work before it was compilation or of another kind."""
        with self._lock:
            if not self._begun and self._first is not None:
                self._begun, self._first = True, (self._clock(), self._done)

    def pause(self) -> None:
        """Writes nothing until the next update, while another line is shown."""
        with self._lock:
            if self._open:
                write("", self._stream)
            self._open, self._paused = False, True

    def note(self, text: str, stream: TextIO | None = None) -> None:
        """Writes a permanent line above the progress line, to another stream if one is given."""
        with self._lock:
            if self._live:  # there may be a line, of this or another Progress
                write("\r\033[K", self._stream, end="")
            write(text, stream or self._stream)
            if self._open:
                self._write()

    def seconds_left(self) -> float | None:
        """Seconds until the end, from the last update or the mean pace; None if unknown, or if the work is done."""
        with self._lock:
            if self._end is not None and self._done < self.total:
                return max(0.0, self._end - self._clock())
            if self._first is None or self._done <= self._first[1] or self._done >= self.total:
                return None
            started, before = self._first
            return (self._clock() - started) / (self._done - before) * (self.total - self._done)

    def close(self) -> None:
        """Ends the line on a terminal, and stops the thread."""
        self._closed.set()
        if self in console.lines:
            console.lines.remove(self)
        with self._lock:
            if self._open:
                write("", self._stream)
            self._open = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def line(self) -> str:
        """The text of the line now."""
        left = self.seconds_left()
        done = f"{self._done / self.total:.0%}" if self._percent else f"{self._done:.0f}/{self.total:.0f}"
        parts = [
            f"{self.what} {done}",
            self._summary,
            self._activity(),
            f"elapsed {duration(self._clock() - self._created)}",
            "" if left is None else f"ETA {duration(left)}",
        ]
        return "  ".join(part for part in parts if part)

    def _due(self) -> bool:
        if self._written is None:
            return self._first is not None and self._clock() - self._created >= self._after
        return self._clock() - self._written >= self._every

    def _write(self) -> None:
        if self._closed.is_set() or self._paused or self._silent:
            return
        self._written, self._open = self._clock(), self._live
        self._is_last_written = self._done >= self.total
        if self._live:
            write(f"\r\033[K{self.line()}", self._stream, end="")
        else:
            write(self.line(), self._stream)

    def _repeat(self) -> None:
        """Writes the line again whenever it is due."""
        while not self._closed.wait(min(1.0, self._every)):
            with self._lock:
                if self._due():
                    self._write()


@contextlib.contextmanager
def announced(text: str, every: float = EVERY):
    """Reports the start of a block, every `every` seconds that it still runs, and its duration. text: a participle.

    with announced("compiling the update"): ...
    """
    started, ended = time.monotonic(), threading.Event()

    def repeat():
        while not ended.wait(every):
            logger.info(f"{text} ... {duration(time.monotonic() - started)}")

    logger.info(f"{text} ...")
    thread = threading.Thread(target=repeat, name=text, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    logger.info(f"{text}: done after {time.monotonic() - started:.0f} s")


class SamplerProgress:
    """A sampler's `advanced` callback, which shows the progress of a call and its tokens per second.

    before and size: the work before the call and that of the call, in units of `progress`; name: the start of the line;
    check(share, tokens), if given, may raise to end the call. Rate and pace are measured from the first piece of
    decoding on: before it the prompts are processed, and every program runs for the first time.
    """

    def __init__(self, progress: Progress, before: float, size: float, name: str = "", check=None):
        self._progress, self._before, self._size, self._name, self._check = progress, before, size, name, check
        self._first: tuple[int, float] | None = None  # (tokens, seconds) after the first piece

    def __call__(self, share: float, tokens: int) -> None:
        if self._check:
            self._check(share, tokens)
        now, rate = time.perf_counter(), ""
        if self._first is not None and now > self._first[1]:
            rate = f"{(tokens - self._first[0]) / (now - self._first[1]):,.0f} tokens/s"
        parts = self._name, f"{tokens:,} tokens", rate
        self._progress.update(self._before + share * self._size, "  ".join(part for part in parts if part))
        if self._first is None:
            self._first = tokens, now
            self._progress.begin()


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
