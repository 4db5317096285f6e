"""A file is complete or does not exist, and the files of a killed process are recognised."""

import signal
import subprocess
import sys

import pytest

from srt_jax import files
from srt_jax.errors import DataError
from srt_jax.run import metrics_log
from srt_jax.run.checkpoint import Checkpoints
from srt_jax.run.setup import step_to_go_on_from

DEAD = 99_999_999  # larger than any process number
# Begins to replace what argv[1] names, says so, and waits to be killed.
WRITER = """
import sys, time
from srt_jax import files
with getattr(files, sys.argv[2])(sys.argv[1]) as new:
    (new / "half").write_text("half") if sys.argv[2] == "replaced_folder" else new.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path, how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), how], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        files.remove_leftovers(path.parent)
        assert names(path.parent) == [f".{path.name}.partial-{writer.pid}"]  # it still runs
        writer.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("how", ["replaced_file", "replaced_folder"])
def test_what_a_killed_writer_left_is_removed(how, tmp_path):
    path = tmp_path / "runs" / "final"
    path.parent.mkdir()
    killed_while_writing(path, how)
    assert len(names(path.parent)) == 1
    files.remove_leftovers(path.parent)
    assert names(path.parent) == []


@pytest.mark.parametrize("how", ["replaced_file", "replaced_folder"])
def test_the_next_writer_of_a_name_removes_leftovers_of_that_name(how, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f".{name}.partial-{DEAD}").write_text("half")
    with getattr(files, how)(tmp_path / "a"):
        pass
    assert names(tmp_path) == [f".b.partial-{DEAD}", "a"]


@pytest.mark.parametrize("how", ["replaced_file", "replaced_folder"])
def test_after_an_exception_the_old_one_is_there(how, tmp_path):
    path = tmp_path / "x"
    files.write_file(path, "old") if how == "replaced_file" else path.mkdir()
    with pytest.raises(ZeroDivisionError), getattr(files, how)(path) as new:
        (new / "half").write_text("half") if how == "replaced_folder" else new.write(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["x"]
    assert path.read_text() == "old" if how == "replaced_file" else names(path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "final"
    for content in ("first", "second"):
        with files.replaced_folder(path) as folder:
            (folder / content).write_text(content)
    assert names(tmp_path) == ["final"] and names(path) == ["second"]


def test_a_kill_between_the_two_renames_of_a_folder_loses_nothing(tmp_path):
    (tmp_path / f".final.old-{DEAD}").mkdir()
    (tmp_path / f".final.old-{DEAD}" / "model").write_text("whole")
    (tmp_path / f".final.partial-{DEAD}").mkdir()
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["final"] and (tmp_path / "final" / "model").read_text() == "whole"
    (tmp_path / f".final.old-{DEAD}").mkdir()  # killed after the second rename
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["final"] and (tmp_path / "final" / "model").read_text() == "whole"


def test_only_names_of_leftovers_are_removed(tmp_path):
    kept = [".hidden", ".final.partial", "final.partial-1", f".final.partial-{DEAD}x", f"final.partial-{DEAD}"]
    for name in kept:
        (tmp_path / name).write_text("")
    files.remove_leftovers(tmp_path)
    files.remove_leftovers(tmp_path / "missing")
    assert names(tmp_path) == sorted(kept)


def test_a_run_that_starts_removes_what_a_killed_one_left(tmp_path):
    for name in (f".final.partial-{DEAD}", f".best.partial-{DEAD}", f"rollouts/.step_000001.npz.partial-{DEAD}"):
        (tmp_path / name).mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert step_to_go_on_from(checkpoints, tmp_path, 1) == 0
    checkpoints.close()
    assert names(tmp_path) == ["checkpoints", "rollouts"] and names(tmp_path / "rollouts") == []


def test_json_lines_come_back_and_a_bad_one_is_named(tmp_path):
    path, rows = tmp_path / "rows.jsonl", [{"a": "\u2028"}, {"a": 1.5}]
    files.write_jsonl(path, rows)
    assert list(files.read_jsonl(path)) == [(1, rows[0]), (2, rows[1])]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match=rf"^{path} line 4 is not valid JSON \(.*\); correct or delete that line\.$"):
        list(files.read_jsonl(path))
    assert [row for _, row in files.read_jsonl(path, "surrogateescape")] == [*rows, {"a": "\udcff"}]


def test_records_end_where_a_kill_cut_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert metrics_log.last_recorded_step(tmp_path) == 0
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert metrics_log.read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
    assert metrics_log.last_recorded_step(tmp_path) == 2


def test_text_is_utf8_and_bytes_are_bytes(tmp_path):
    for content in ("é\n", b"\xff\n"):
        files.write_file(tmp_path / "x", content)
        assert (tmp_path / "x").read_bytes() == (content.encode() if isinstance(content, str) else content)
