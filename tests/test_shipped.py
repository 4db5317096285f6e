"""--config takes a path or the name of a shipped config, from any folder; config files need no package `configs`."""

import ast
import subprocess
import sys

import pytest
from absl import flags

from srt_jax import cli
from srt_jax.experiments import load, shipped
from tests.helpers import REPOSITORY


@pytest.mark.parametrize("path", ["srt", "srt.py", "configs/srt.py", "configs/srt"])
def test_a_shipped_config_is_found_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.find(path) == str(REPOSITORY / "configs" / "srt.py")


@pytest.mark.parametrize("path", ["srt.py", "configs/srt.py", "srt"])
def test_a_file_that_exists_wins(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("mine")
    assert shipped.find(path) == path


def test_a_folder_does_not_hide_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "srt").mkdir()
    assert shipped.find("srt") == str(REPOSITORY / "configs" / "srt.py")


@pytest.mark.parametrize(
    ("path", "near"),
    [("srtt", "srt"), ("configs/quikstart.py", "quickstart"), ("zzz", "srt, srt_as")],
)
def test_an_unknown_name_is_refused_with_the_nearest_names(path, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"'{path}' is neither a config file nor .* such as .*{near}"):
        shipped.find(path)


@pytest.mark.parametrize(
    "path", ["quickstart", "quickstart.py:ground_truth", "configs/quickstart.py", "figures:v1_fig2,srt_dapo"]
)
def test_the_flag_loads_a_shipped_config_with_its_overrides(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["main", f"--config={path}", "--config.steps=7"]
    monkeypatch.setattr("sys.argv", arguments)  # ml_collections looks for overrides there
    before = set(flags.FLAGS)
    try:
        cli.define_config("an experiment")
        flags.FLAGS(arguments)
        config = flags.FLAGS.config
        assert config.steps == 7 and config.is_locked
        assert config.labels.source == ("ground_truth" if path.endswith("ground_truth") else "vote")
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def test_the_command_refuses_an_unknown_name_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "srt_jax", "train", "--config=qickstart:tiny"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "'qickstart' is neither" in done.stderr and "quickstart" in done.stderr


def test_no_config_file_imports_the_package_configs():
    files = sorted((REPOSITORY / "configs").rglob("*.py"))
    assert [file.relative_to(REPOSITORY / "configs").with_suffix("").as_posix() for file in files] == shipped.names()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.partition(".")[0] == "configs" for name in names), file


def test_load_reads_a_shipped_config_once_and_refuses_other_names():
    assert load("sept") is load("sept") and load("sept").SEPT["labels.source"] == "none"
    with pytest.raises(ValueError, match=r"there is no shipped config 'nothing': give one of .*srt"):
        load("nothing")
