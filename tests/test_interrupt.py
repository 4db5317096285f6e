"""Ctrl-C and SIGTERM, also while the main thread is where Python runs no handlers."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import REPOSITORY

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which the processes would inherit

# Stands for a compiled program that runs for minutes: the main thread waits in C, for a lock that it holds itself.
BUSY = (
    "import ctypes; print('ready', flush=True); lock = ctypes.create_string_buffer(64); "
    "[ctypes.CDLL(None).pthread_mutex_lock(lock) for _ in range(2)]"
)
ASLEEP = "import time; print('ready', flush=True); time.sleep(60)"
AT_ONCE = 15.0  # seconds on a busy machine, less than the grace period; a free one takes a tenth of a second


def interrupted(body, *signals, leave=True, grace=1.0, apart=0.2, same=0.5):
    """(exit status, stderr, seconds from the first signal to the end) of a process that gets signals in its work."""
    script = (
        f"from srt_jax.run import interrupt\ninterrupt.GRACE, interrupt.SAME = {grace}, {same}\n"
        f"def work():\n    {body}\n    return 0\n"
        + (
            "raise SystemExit(interrupt.run(work, 'interrupted: nothing is written.'))"
            if leave
            else "with interrupt.Signals('finishing', leave=False) as s:\n    work()\nprint(s.requested)"
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for number in signals:
        time.sleep(apart)
        process.send_signal(number)
    rest, errors = process.communicate(timeout=30)
    return process.returncode, errors.strip(), time.monotonic() - started, rest.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_sentence_and_status_130_at_once(number):
    status, errors, seconds, _ = interrupted(ASLEEP, number, grace=20.0)
    assert (status, errors) == (130, "interrupted: nothing is written.") and seconds < AT_ONCE


def test_the_process_ends_only_after_its_sentence_is_written():
    slow = (  # the thread writes the sentence for a second; the main thread answers before that
        "import hashlib, os, time; write = os.write; os.write = lambda *a: (time.sleep(1), write(*a)); "
        "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000); time.sleep(60)"
    )
    status, errors, _, _ = interrupted(slow, signal.SIGTERM, grace=20.0)
    assert (status, errors) == (130, "interrupted: nothing is written.")


def test_a_reader_of_the_messages_that_is_gone_changes_nothing():
    script = (
        "from srt_jax.run import interrupt\nimport time\nwith interrupt.Signals('stop', False) as signals:\n"
        "    print('ready', flush=True)\n    for _ in range(3000):\n        signals.requested or time.sleep(0.01)\n"
        "print(signals.requested)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "True\n" and process.wait(timeout=30) == 0


def test_nohup_still_works():
    body = "import time; print('ready', flush=True); time.sleep(1)"
    script = f"from srt_jax.run import interrupt\nwith interrupt.Signals('stop', True):\n    {body}\nprint('done')"
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=30)[0] == "done\n" and process.returncode == 0


def test_a_main_thread_that_does_not_answer_is_left_after_the_grace():
    status, errors, seconds, _ = interrupted(BUSY, signal.SIGINT)
    assert (status, errors) == (130, "interrupted: nothing is written.") and seconds < AT_ONCE


@pytest.mark.parametrize("leave", [True, False])
def test_a_second_ctrl_c_ends_it_at_once(leave):
    status, _, seconds, _ = interrupted(
        BUSY, signal.SIGINT, signal.SIGINT, leave=leave, grace=50.0, apart=0.7, same=0.1
    )
    assert status == 130 and seconds < AT_ONCE


@pytest.mark.parametrize("leave", [True, False])
def test_a_signal_that_a_launcher_passes_on_as_well_is_one_signal(leave):
    body = (
        f"import time; print('ready', flush=True)\n    try: time.sleep({60 if leave else 1})\n"
        "    finally: time.sleep(1); print('saved')"
    )
    twice = signal.SIGINT, signal.SIGINT
    status, errors, _, rest = interrupted(body, *twice, leave=leave, apart=0.05, grace=20.0, same=5.0)
    assert errors.count("\n") == 0 and "saved" in rest and status == (130 if leave else 0)


def test_a_run_that_finishes_its_step_only_learns_that_it_shall_stop():
    body = "import time; print('ready', flush=True)\n    while not s.requested: time.sleep(0.01)"
    status, errors, _, rest = interrupted(body, signal.SIGTERM, leave=False)
    assert (status, errors, rest) == (0, "finishing", "True")


def test_an_import_is_not_interrupted_by_an_exception(tmp_path):
    """C++ libraries may crash if one is raised while they are imported, so the process ends without it."""
    (tmp_path / "slow.py").write_text(
        "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    "
        "print('raised', flush=True)\n    time.sleep(60)\n"
    )
    body = f"import sys; sys.path.append({str(tmp_path)!r}); import slow"
    status, errors, seconds, rest = interrupted(body, signal.SIGINT, grace=20.0)
    assert (status, errors, rest) == (130, "interrupted: nothing is written.", "") and seconds < AT_ONCE


def test_an_exception_that_a_callback_loses_is_raised_again():
    """Python prints exceptions of callbacks, such as the garbage collector's, and drops them."""
    body = (
        "import time; sleep = lambda _: (print('ready', flush=True), time.sleep(60)); "
        "type('Loser', (), {'__del__': sleep})(); time.sleep(60)"
    )
    status, errors, seconds, _ = interrupted(body, signal.SIGINT, grace=20.0)
    assert (status, errors) == (130, "interrupted: nothing is written.") and seconds < AT_ONCE


@pytest.mark.parametrize(
    "program", [["srt_jax.main"], *(["srt_jax", job] for job in ("train", "evaluate", "figures", "study", "plan"))]
)
def test_ctrl_c_during_the_imports_is_one_sentence(program):
    command = [sys.executable, "-m", *program, "--config=configs/quickstart.py"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    handled = 1 << (signal.SIGTERM - 1)  # Python itself handles SIGINT only
    status = pathlib.Path(f"/proc/{process.pid}/status")
    while not handled & int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    sentence = "interrupted: what was complete before is unchanged. The same command starts again."
    if program == ["srt_jax.main"]:
        sentence = "stopped: nothing has begun."
    assert process.communicate(timeout=30)[1].strip() == sentence and process.returncode == 130
