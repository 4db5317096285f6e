"""The progress line: its intervals, its ETA, and its output on a terminal."""

import io
import re
import time

import pytest

from srt_jax.run.progress import Progress, SamplerProgress, announced, duration


class Clock:
    """Seconds that only the test advances."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_a_line_at_once_then_one_a_minute_and_the_last(clock):
    stream = io.StringIO()
    with Progress(1000, "step", stream, clock=clock) as progress:
        for step in range(1, 1001):
            clock.seconds += 0.5
            progress.update(step, "share 0.5")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 500 // 60 + 1
    assert lines[0] == "step 1/1000  share 0.5  elapsed 0:00"
    assert lines[1] == "step 121/1000  share 0.5  elapsed 1:00  ETA 7:20"
    assert lines[-1] == "step 1000/1000  share 0.5  elapsed 8:20"


def test_the_last_line_is_written_once(clock):
    """A sampler may report its end twice: with its last piece, and when it returns."""
    stream = io.StringIO()
    with Progress(2, "step", stream, clock=clock) as progress:
        for step in (0, 1, 2, 2):
            progress.update(step)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["0/2", "2/2"]


def test_the_eta_counts_neither_start_up_nor_the_first_compiling_step(clock):
    with Progress(11, "step", io.StringIO(), clock=clock) as progress:
        clock.seconds += 300  # start-up
        progress.update(1)
        assert progress.seconds_left() is None
        for step in (2, 3):
            clock.seconds += 10
            progress.update(step)
        assert progress.seconds_left() == pytest.approx(80)
        clock.seconds += 500
        progress.begin()
        clock.seconds += 20
        progress.update(4)
        assert progress.seconds_left() == pytest.approx(140)
    with Progress(10, "step", io.StringIO(), clock=clock) as progress:  # a run that resumes after step 5
        progress.update(5)
        clock.seconds += 3
        progress.update(6)
        assert progress.seconds_left() == pytest.approx(12)


def test_the_prompts_of_a_sampler_are_no_part_of_its_pace(clock, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", clock)
    stream = io.StringIO()
    with Progress(100, "evaluation", stream, every=0, clock=clock) as progress:
        progress.update(0, "preparing the sampler")
        first, second = (SamplerProgress(progress, before, 50, name) for before, name in ((0, "a"), (50, "b")))
        clock.seconds += 60  # prompts and the first step of decoding
        first(0.02, 64)
        assert progress.seconds_left() is None
        clock.seconds += 10
        first(0.12, 384)
        assert progress.seconds_left() == pytest.approx(10 / 5 * 94)
        clock.seconds += 10
        second(0.02, 64)
        assert progress.seconds_left() == pytest.approx(20 / 50 * 49)  # the pace continues from the previous set
    assert "a  384 tokens  32 tokens/s" in stream.getvalue() and "ETA 3:08" in stream.getvalue()


def test_a_terminal_sees_one_line_and_notes_above_it(clock):
    stream = Terminal()
    with Progress(3, "problem", stream, clock=clock) as progress:
        for done in (1, 2, 3):
            clock.seconds += 2
            progress.update(done)
        progress.note("sums: avg@4 0.5")
    text = stream.getvalue()
    assert text.count("\n") == 2  # the note's, and the one that ends the line
    assert [part.split("  ")[0] for part in text.split("\r\033[K")] == [
        "",
        "problem 1/3",
        "problem 2/3",
        "problem 3/3",
        "sums: avg@4 0.5\n",
        "problem 3/3",
    ]


def test_a_line_comes_although_the_work_reports_nothing():
    stream = io.StringIO()
    with Progress(10, "call", stream, every=0.05) as progress:
        progress.update(0, "compiling")
        deadline = time.monotonic() + 60
        while stream.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    written = stream.getvalue()
    assert written.count("call 0/10  compiling") >= 3
    time.sleep(0.2)
    assert stream.getvalue() == written  # closed: the thread has ended


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_line_says_what_happens_at_the_moment(clock):
    phase = ["sampling 40%"]
    with Progress(9, "step", io.StringIO(), clock=clock, activity=lambda: phase[0]) as progress:
        progress.update(1, "reward 0.5")
        assert progress.line() == "step 1/9  reward 0.5  sampling 40%  elapsed 0:00"
        phase[0] = ""
        assert progress.line() == "step 1/9  reward 0.5  elapsed 0:00"


def test_an_eta_that_the_caller_knows_counts_down(clock):
    with Progress(10, "step", io.StringIO(), clock=clock) as progress:
        progress.update(1, "", left=100)
        clock.seconds += 30
        assert progress.seconds_left() == 70 and progress.line() == "step 1/10  elapsed 0:30  ETA 1:10"
        clock.seconds += 90
        assert progress.seconds_left() == 0  # later than it was thought
        progress.update(10, "", left=0)
        assert progress.seconds_left() is None


def test_now_is_at_once_and_a_pause_is_silent(clock):
    stream = io.StringIO()
    with Progress(10, "step", stream, clock=clock) as progress:
        for step in (1, 2, 3):
            progress.update(step, now=step == 3)
        assert [line[:9] for line in stream.getvalue().splitlines()] == ["step 1/10", "step 3/10"]
        progress.pause()
        clock.seconds += 100
        time.sleep(1.2)  # the thread that repeats the line has looked at the clock
        assert stream.getvalue().count("\n") == 2
        progress.update(4)
        assert stream.getvalue().count("\n") == 3


def test_what_takes_long_is_announced_and_repeated(monkeypatch):
    stream, deadline = io.StringIO(), time.monotonic() + 60
    monkeypatch.setattr("sys.stdout", stream)  # capsys might lose what the thread writes while it is read
    with announced("compiling", every=0.05):
        while stream.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    first, *repeated, last = stream.getvalue().splitlines()
    assert first == "compiling ..." and len(repeated) >= 2
    assert all(re.fullmatch(r"compiling \.\.\. \d+:\d\d", line) for line in repeated)
    assert re.fullmatch(r"compiling: done after \d+ s", last)
    written = len(stream.getvalue())
    with pytest.raises(ValueError), announced("compiling"):
        raise ValueError
    assert stream.getvalue()[written:] == "compiling ...\n"
