"""Jobs of several processes without parents end with one sentence if a process never comes."""

import re
import sys
import time

import pytest

from srt_jax.run import joining
from srt_jax.run.watchdog import STATUS
from srt_jax.runtime.place import Place
from tests.several_processes import finish, reserved_port, start

JOIN_SECONDS = {2: 4, 3: 12}  # by the number of processes: two that import JAX take longer than one
CHECK = "check", "--config=configs/quickstart.py"
DRY_RUN = "train", "--config=configs/quickstart.py", "--dry_run"


@pytest.mark.parametrize(
    "job, count, missing",
    [
        (CHECK, 2, 0),
        (CHECK, 2, 1),
        (DRY_RUN, 2, 0),
        (DRY_RUN, 2, 1),
        *(pytest.param(CHECK, 3, missing, marks=pytest.mark.long) for missing in range(3)),
    ],
)
def test_a_process_never_comes(job, count, missing, tmp_path):
    here = [index for index in range(count) if index != missing]
    limits = f"--config.stop.join_seconds={JOIN_SECONDS[count]}", f"--config.out={tmp_path}"
    begun = time.monotonic()
    started = start(count, [sys.executable, "-m", "srt_jax", *job, *limits], here)
    ends = finish(started, STATUS, seconds=120)
    print(f"all have ended after {time.monotonic() - begun:.1f} s")
    for index, (printed, said) in zip(here, ends):
        reason = "process 0 does not answer there"
        if missing:
            reason = "process 1 has not come" if count == 2 else f"not all of {'them' if index else '.*'} have come"
        waited = rf"has waited {JOIN_SECONDS[count]} s \(stop\.join_seconds\) for the others at localhost:\d+"
        sentence = (
            rf"process {index} of {count} {waited}, but {reason}: start the same command in all {count} processes"
        )
        assert re.fullmatch(
            rf"{sentence} at the same time with this address, and open this port between the hosts\.",
            said.splitlines()[-1],
        ), said
        assert "Traceback" not in said and "***" not in said and "verdict" not in printed
    assert not list(tmp_path.iterdir())


def test_the_sentence_of_processes_that_a_scheduler_starts():
    assert joining.missing(Place(1, 4, ""), 50, False) == (
        "process 1 of 4 has waited 50 s (stop.join_seconds) for the others, but not all of them have come: start the "
        "same command in all 4 processes at the same time."
    )
    assert joining.missing(Place(None, None, ""), 50, False) == (
        "this process has waited 50 s (stop.join_seconds) for the others, which JAX looks for: start the same command "
        "on all hosts at the same time."
    )


def test_a_port_at_which_nobody_listens():
    assert not joining.answers(f"localhost:{reserved_port()}", 5)
    assert not joining.answers("localhost", 5) and not joining.answers("localhost:port", 5)
