"""How far long work has come and when it will end: one line, rewritten in place on a terminal. Needs no JAX."""

import contextlib
import sys
import threading
import time
from typing import TextIO

from srt_jax.log import console, logger, write

EVERY = 60.0  # seconds between two lines where the stream is no terminal
EVERY_LIVE = 1.0  # seconds between two versions of the line on a terminal


class Progress:
    """Shows `done` of `total`, a summary, the elapsed time and the time left.

        with Progress(len(problems), "problem") as progress:
            for done, problem in enumerate(problems, 1):
                solve(problem)
                progress.update(done, f"{rate:.0f} tokens/s")

    Where the stream is no terminal, the first update writes a line, and so does the last one (`done` = `total`).
    Between them there is a line every `every` seconds, also while no update comes: a thread repeats the last one. On a
    terminal the line is rewritten every second.

    The time left is the mean pace since the first update times what is left. So neither start-up nor the first,
    compiling piece of work counts: call `update(0)` only where the work itself begins, or call `begin` there.
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
    ):
        """total: in the unit of `what`, in which `update` counts; stream: None is stderr; after: seconds before which
        there is no line, so that short work has none; percent: show no numbers but their ratio; clock: returns seconds.
        """
        self.total, self.what, self._stream = total, what, stream or sys.stderr
        self._live = self._stream.isatty()
        self._every, self._clock = (EVERY_LIVE if self._live else every), clock
        self._after, self._percent = after, percent
        self._created = clock()
        self._first, self._done, self._summary = None, 0.0, ""  # _first: (seconds, done) that the pace counts from
        self._written, self._open = None, False  # seconds of the last line; does the cursor stand in a line?
        self._end, self._paused = None, False  # _end: seconds of the end that an update gave
        self._begun = False
        self._silent = console.process > 0  # the first process shows how far all of them are
        self._closed, self._lock = threading.Event(), threading.RLock()
        console.lines.append(self)
        self._thread = threading.Thread(target=self._repeat, name=f"progress: {what}", daemon=True)
        self._thread.start()

    def update(self, done: float, summary: str = "", left: float | None = None, now: bool = False) -> None:
        """Takes note of `done` (never less than before), and writes the line where one is due, or `now`.

        left: seconds until the end, where the caller knows more than the mean pace tells.
        """
        with self._lock:
            self._done, self._summary = done, summary
            self._end, self._paused = None if left is None else self._clock() + left, False
            if self._first is None:
                self._first = (self._clock(), done)
            if now or self._due() or (done >= self.total and self._written is not None):
                self._write()

    def begin(self) -> None:
        """The pace counts from the first call of this on: what came before was compilation, or another kind of work."""
        with self._lock:
            if not self._begun and self._first is not None:
                self._begun, self._first = True, (self._clock(), self._done)

    def pause(self) -> None:
        """Nothing is written until the next update: something else has a line of its own."""
        with self._lock:
            if self._open:
                write("", self._stream)
            self._open, self._paused = False, True

    def note(self, text: str, stream: TextIO | None = None) -> None:
        """A line that stays, above the progress line; in another stream, where that is given."""
        with self._lock:
            if self._live:  # a line stands there: this one's, or another's
                write("\r\033[K", self._stream, end="")
            write(text, stream or self._stream)
            if self._open:
                self._write()

    def seconds_left(self) -> float | None:
        """Seconds until the end, by the last update or at the mean pace; None where no pace is known, or none left."""
        with self._lock:
            if self._end is not None and self._done < self.total:
                return max(0.0, self._end - self._clock())
            if self._first is None or self._done <= self._first[1] or self._done >= self.total:
                return None
            started, before = self._first
            return (self._clock() - started) / (self._done - before) * (self.total - self._done)

    def close(self) -> None:
        """Ends the line on a terminal, and the thread."""
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
        """The line as it stands now."""
        left = self.seconds_left()
        done = f"{self._done / self.total:.0%}" if self._percent else f"{self._done:.0f}/{self.total:.0f}"
        parts = [
            f"{self.what} {done}",
            self._summary,
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
        if self._live:
            write(f"\r\033[K{self.line()}", self._stream, end="")
        else:
            write(self.line(), self._stream)

    def _repeat(self) -> None:
        """Writes the line again where nothing has been written for a while."""
        while not self._closed.wait(min(1.0, self._every)):
            with self._lock:
                if self._due():
                    self._write()


@contextlib.contextmanager
def announced(text: str, every: float = EVERY):
    """Says on stdout what begins, every `every` seconds that it goes on, and how long it took: `text` is a participle.

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
    """A sampler's `advanced` callback: tells `progress` how far a call has come, and its tokens a second.

    before and size: what was done before the call, and what the call does, in the unit of `progress`; name: what the
    line says first; check(), if given, may raise to end the call. The rate counts from the first piece of decoding on,
    and so does the pace: before it come the prompts, and every program is used for the first time.
    """

    def __init__(self, progress: Progress, before: float, size: float, name: str = "", check=None):
        self._progress, self._before, self._size, self._name, self._check = progress, before, size, name, check
        self._first: tuple[int, float] | None = None  # (tokens, seconds) after the first piece

    def __call__(self, share: float, tokens: int) -> None:
        if self._check:
            self._check()
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
