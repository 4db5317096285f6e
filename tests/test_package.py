"""The wheel holds all of srt_jax, its data and the config files. Its extras are what the requirements files name."""

import importlib.util
import subprocess
import sys
import tomllib
import zipfile

import pytest

from srt_jax import __main__
from tests.helpers import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def tracked() -> list[str]:
    """Files of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in names if name and (REPOSITORY / name).exists()]


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_data_and_the_configs(tmp_path):
    if not importlib.util.find_spec("setuptools"):
        pytest.skip("no setuptools in this environment, which builds the wheel without a network")
    files = [name for name in tracked() if name.startswith(("srt_jax/", "configs/")) or "/" not in name]
    for name in files:  # a copy: building writes into its source folder
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes((REPOSITORY / name).read_bytes())
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(tmp_path), str(tmp_path / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.rpartition("/")[2]: name for name in archive.namelist() if name not in there}
        metadata, entry_points = (archive.read(about[name]).decode() for name in ("METADATA", "entry_points.txt"))
    expected = {name for name in files if name.startswith("srt_jax/") and name.endswith((".py", ".json"))}
    expected |= {f"srt_jax/{name}" for name in files if name.startswith("configs/")}
    assert there == expected
    assert entry_points.split() == ["[console_scripts]", "srt", "=", "srt_jax.__main__:main"]
    assert "Version: 0.2.0" in metadata and "Requires-Dist: jax<0.13,>=0.10" in metadata
    for extra in PROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"]:
        assert f"Provides-Extra: {extra}" in metadata
        assert f'extra == "{extra}"' in metadata


def test_no_requirements_file_of_the_package_includes_another():
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    named = [dynamic["dependencies"], *dynamic["optional-dependencies"].values()]
    for name in {file for entry in named for file in entry["file"]}:  # setuptools refuses -r in them
        lines = [line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
        assert any(lines) and not any(line.startswith("-") for line in lines), name


def test_the_command_without_a_job_lists_all_jobs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["srt"])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    listed = capsys.readouterr().out
    assert caught.value.code == 2 and all(f"\n  {job} " in listed for job in __main__.JOBS)
    assert all(importlib.util.find_spec(module) for module, _ in __main__.JOBS.values())
