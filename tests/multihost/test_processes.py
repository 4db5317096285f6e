"""A run in two processes, as on two hosts: the figures and files of one process with the same devices."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.several_processes import check_in_one_process, finish, lines, reserved_port, start, wait_for_steps

CONFIG = """
import pathlib

from tests.helpers import small_config


def get_config():
    config = small_config(pathlib.Path({model!r}), pathlib.Path({out!r}), "run", 1)
    config.mesh.fsdp, config.mesh.tensor, config.rollout.slots = 4, 2, 16  # fsdp reaches over both processes
    config.eval.sets.heldout.limit, config.eval.samples, config.checkpoint.every = 8, 8, 1  # one sampler program
    config.eval.kl = True
    return config
"""


def begin(model, out: pathlib.Path, processes: int, *arguments) -> list[subprocess.Popen]:
    """Starts the experiment in so many processes."""
    out.mkdir(exist_ok=True)
    config = out / "config.py"
    config.write_text(CONFIG.format(model=str(model), out=str(out)))
    devices = f"--config.mesh.cpu_devices={8 // processes}"
    return start(processes, [sys.executable, "-m", "srt_jax.main", f"--config={config}", devices, *arguments])


def run(model, out: pathlib.Path, processes: int, *arguments):
    """Runs the experiment; returns what each process printed."""
    return finish(begin(model, out, processes, *arguments))


JOIN = """
from srt_jax import runtime
from srt_jax.log import logger
from srt_jax.run.progress import Progress
runtime.start(1)
import jax
logger.info(f"joined {jax.process_count()}")
logger.warning("look at this")
with Progress(2, "piece") as progress:
    progress.update(1)
"""


@pytest.mark.timeout(330)
def test_processes_join_past_a_proxy(monkeypatch):
    """Clusters name one for downloads; nothing answers at this one's port, and nothing needs to."""
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    names = "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"
    proxies = dict.fromkeys(names, f"http://localhost:{reserved_port()}")
    printed = finish(start(2, [sys.executable, "-c", JOIN], **proxies), seconds=300)
    assert printed[0][0] == "joined 2\n" and printed[0][1].startswith("warning: look at this\npiece 1/2")
    assert printed[1] == ("", "process 1: warning: look at this\n")


@pytest.fixture(scope="module")
def runs(miniature, tmp_path_factory):
    """The folders of a run of one step in one process and in two; the output of each of the two processes."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    run(miniature, one, 1)
    return one / "run", two / "run", run(miniature, two, 2)


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_the_first_step_has_the_figures_of_one_process(runs):
    one, two = (records(directory) for directory in runs[:2])
    assert [r["step"] for r in two] == [r["step"] for r in one] == [0, 1]
    for a, b in zip(one, two):
        timed = ("time/", "rollout/tokens_per_second", "workers/", "update/mfu")
        names = [name for name in a if not name.startswith(timed)]
        assert names == [name for name in b if not name.startswith(timed)]
        np.testing.assert_allclose([b[n] for n in names], [a[n] for n in names], rtol=1e-4, atol=1e-6)
    assert 0 < two[1]["eval/heldout/kl"] < 1


def files(directory):
    return sorted(
        str(f.relative_to(directory))
        for f in directory.rglob("*")
        if f.is_file() and "tfevents" not in f.name and "checkpoints" not in f.relative_to(directory).parts
    )


def test_the_same_files_are_written_once(runs):
    one, two, printed = runs
    assert files(two) == files(one)
    assert len(list(two.glob("*tfevents*"))) == 1
    assert (two / "rollouts/step_000001.jsonl.gz").read_bytes() == (one / "rollouts/step_000001.jsonl.gz").read_bytes()
    for said in ("mesh: data=1 x fsdp=4", "step 1/1", "final holds the model"):
        assert said in "".join(printed[0]) and said not in "".join(printed[1])


def test_the_exported_weights_are_those_of_one_process(runs):
    one, two = (load_file(directory / "final" / "model.safetensors") for directory in runs[:2])
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)


SAMPLE = """
import pathlib, sys
from srt_jax import runtime
runtime.start(1)
import jax
import numpy as np
from srt_jax.rollout.jax import sampler as module
from srt_jax.rollout.sampler import Sampling
from srt_jax.run.loading import load_weights, open_mesh, open_sampler
from srt_jax.run.prepare import read_model
from tests.helpers import small_config
module.PIECE_STEPS = 2
config = small_config(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "run", 1)
model, mesh = read_model(config), open_mesh(config)
graphdef, params = load_weights(config, model, mesh)
sampler = open_sampler(config, model, graphdef, mesh, pathlib.Path(sys.argv[2]))
sampler.load(params, 0)
pieces = []


def draw(advanced):
    rollouts = sampler.generate([[3 + p, 13, 5] for p in range(8)], 4, Sampling(18), np.arange(8), None, advanced)
    return rollouts.tokens.sum()


def stop(share, tokens):
    pieces.append(share)
    if jax.process_index() == 1 and len(pieces) == 3:
        raise ValueError("process 1 stops")


whole = draw(lambda *_: None)
try:
    draw(stop)
except ValueError as e:
    print("stopped:", e, len(pieces))
print(bool(draw(lambda *_: None) == whole))
"""


def test_one_process_stops_the_sampling_of_both_between_two_pieces(miniature, tmp_path):
    said = finish(start(2, [sys.executable, "-c", SAMPLE, str(miniature), str(tmp_path)]), seconds=240)
    assert [lines(out) for out, _ in said] == [["stopped: process 1 stops 3", "True"]] * 2


def test_a_signal_to_one_of_two_processes_stops_both_and_the_run_goes_on_in_one(runs, miniature):
    directory, out = runs[1], runs[1].parent
    two = begin(miniature, out, 2, "--config.steps=400")
    wait_for_steps(directory, 3, two, seconds=300)
    two[1].send_signal(signal.SIGTERM)
    (said, errors), (_, errors_of_second) = finish(two, status=1)
    assert "resuming from step 1 of 400" in said
    step = int(re.search(r"stopped\. The state after step (\d+) is saved", errors).group(1))
    assert 3 <= step < 400 and "the state will be saved" in errors_of_second and "Traceback" not in errors
    assert "stopped. " not in errors_of_second  # the first process says it for both
    assert [r["step"] for r in records(directory)] == list(range(step + 1))
    # Then in one process with all eight devices.
    fields = f"--config.steps={step + 1}", "--allow_change=mesh.cpu_devices"
    ((said, _),) = run(miniature, out, 1, *fields)
    assert f"resuming from step {step} of {step + 1}" in said
    assert f"mesh.cpu_devices: 4 until step {step}, then 8" in said
    assert [r["step"] for r in records(directory)] == list(range(step + 2))
    assert json.loads((directory / "summary.json").read_text())["steps"] == step + 1


@pytest.mark.long
def test_a_run_of_two_processes_goes_on_in_four(miniature, tmp_path):
    run(miniature, tmp_path, 2)
    said, *others = run(miniature, tmp_path, 4, "--config.steps=2", "--allow_change=mesh.cpu_devices")
    assert "resuming from step 1 of 2" in said[0] and "mesh.cpu_devices: 4 until step 1, then 2" in said[0]
    assert len(others) == 3 and not any("resuming" in text for text, _ in others)
    assert [r["step"] for r in records(tmp_path / "run")] == [0, 1, 2]
    check_in_one_process(tmp_path / "run", 2)


@pytest.mark.long
def test_adapters_are_trained_and_exported_as_in_one_process(miniature, tmp_path):
    exported = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        run(miniature, out, processes, "--config.model.lora.rank=4", "--config.model.lora.merged=True")
        final, merged = out / "run/final/adapter_model.safetensors", out / "run/final_merged/model.safetensors"
        exported.append(load_file(final) | load_file(merged))
    for name, value in exported[0].items():
        np.testing.assert_allclose(exported[1][name], value, atol=1e-5, err_msg=name)
    moved = [np.abs(value).max() for name, value in exported[0].items() if "lora_B" in name]
    assert len(moved) == 4 * 7 and min(moved) > 1e-5


def job(model, out: pathlib.Path, processes: int, name: str, *arguments) -> list[tuple[str, str]]:
    """Runs `srt NAME` with the experiment's config in so many processes; returns what each process printed."""
    config = out / "config.py"
    config.write_text(CONFIG.format(model=str(model), out=str(out)))
    fixed = f"--config={config}", f"--config.mesh.cpu_devices={8 // processes}", "--config.data.limit=72"
    return finish(start(processes, [sys.executable, "-m", "srt_jax", name, *fixed, *arguments]))


def test_labels_of_two_processes_are_those_of_one(miniature, tmp_path):
    files, summaries = [], []
    for processes in (1, 2):  # 72 problems are more than one batch
        out = tmp_path / f"labels_{processes}.jsonl"
        printed = job(miniature, tmp_path, processes, "label", f"--out={out}", "--samples=8")
        assert [lines(said) for said, _ in printed[1:]] == [[]] * (processes - 1)
        summaries.append(json.loads(printed[0][0].splitlines()[-1]) | {"out": ""})
        files.append(out.read_bytes())
    assert files[0] == files[1] and files[0].count(b"\n") == 73 and summaries[0] == summaries[1]
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.processes"))


def test_an_evaluation_by_two_processes_is_that_of_one(miniature, tmp_path):
    rows, found = [], []
    for processes in (1, 2):
        out = tmp_path / f"responses_{processes}.jsonl"
        printed = job(miniature, tmp_path, processes, "evaluate", f"--model={miniature}", f"--out={out}")
        assert [lines(said) for said, _ in printed[1:]] == [[]] * (processes - 1)
        found.append(json.loads(printed[0][0].splitlines()[-1]))
        rows.append([json.loads(line) for line in out.read_text().splitlines()])
    assert found[0] == found[1] and len(rows[0]) == 8 * 8 and not list(tmp_path.glob("*.processes"))
    logprobs = [[row.pop("logprob") for row in written] for written in rows]
    np.testing.assert_allclose(*logprobs, atol=1e-4)
    assert rows[0] == rows[1]
