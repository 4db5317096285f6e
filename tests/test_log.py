"""Messages go through one logger, which knows its process and a terminal's progress line."""

import ast
import io
import pathlib
import subprocess
import sys

import pytest

import srt_jax
from srt_jax.log import console, logger
from srt_jax.run.progress import Progress
from tests.helpers import REPOSITORY

# Command lines print results and errors; two of these modules run in processes that have a log of their own.
PRINTS = {
    "cli.py",
    "__main__.py",
    "main.py",
    "log.py",
    "run/progress.py",
    "miniature/accept.py",
    "miniature/pretrain.py",
} | {
    "rollout/vllm/guard.py",
    "rollout/vllm/command.py",
}
COMMANDS = ("jobs/", "study/")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_messages_are_plain_lines_and_warnings_go_to_stderr(capsys):
    logger.info("compiling the update ...")
    logger.warning("no answer is found")
    assert capsys.readouterr() == ("compiling the update ...\n", "warning: no answer is found\n")


def test_another_process_prints_warnings_only(capsys, monkeypatch):
    monkeypatch.setattr(console, "process", 3)
    logger.info("compiling the update ...")
    logger.warning("no answer is found")
    with Progress(10, "step") as progress:
        progress.update(1)
    assert capsys.readouterr() == ("", "process 3: warning: no answer is found\n")


@pytest.mark.parametrize("write", [logger.info, logger.warning], ids=["info", "warning"])
def test_a_message_stands_above_the_line_of_a_terminal(write, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(10, "step", clock=lambda: 0.0) as progress:  # its thread never finds the line due
        progress.update(1)
        write("a message")
    _, before, after = terminal.getvalue().split("\r\033[K")[1:4]
    assert before.endswith("a message\n") and after.startswith("step 1/10") and not console.lines


def test_only_results_and_errors_are_printed():
    package = pathlib.Path(srt_jax.__file__).parent
    printing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert {path for path in printing if not path.startswith(COMMANDS)} <= PRINTS


def test_a_refusal_whose_reader_is_gone_has_its_status():
    command = [sys.executable, "-m", "srt_jax.main", "--config=no_such_file.py"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=60) == 2


@pytest.mark.parametrize("job", [[], ["train"], ["study"]])  # the last two print theirs by absl and by argparse
def test_a_help_whose_reader_is_gone_is_no_error(job):
    command = [sys.executable, "-m", "srt_jax", *job, "--help"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == ("", 0)


def test_a_reader_that_goes_away_ends_no_work():
    script = (
        "import sys\nfrom srt_jax.log import logger\nfrom srt_jax.run.progress import Progress\n"
        "logger.info('first')\nsys.stdin.readline()\n"
        "with Progress(3, 'step', stream=sys.stdout) as progress:\n"
        "    for step in range(4):\n        logger.info('x' * 9999)\n        progress.update(step, now=True)\n"
        "logger.warning('the work is done')\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, text=True, **pipes)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.close()  # now it goes on
    assert process.stderr.read() == "warning: the work is done\n" and process.wait(timeout=30) == 0
