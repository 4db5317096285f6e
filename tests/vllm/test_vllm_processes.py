"""Two trainer processes and a real server: the first speaks to it, both get the same rollouts and the same errors."""

import re
import signal
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from vllm_proxy import Proxy
from vllm_support import begin

from srt_jax.rollout.vllm import export as vllm_export
from srt_jax.run.metrics_log import read_metrics
from tests.several_processes import check_in_one_process, finish, lines, start, wait_for_steps

SAMPLE = """
import hashlib, pathlib, sys
sys.path[:0] = [".", "tests/vllm"]
from srt_jax import runtime
runtime.start(4)
import jax
import numpy as np
from vllm_support import changed, open_vllm_sampler, vllm_config
from srt_jax.errors import ConfigError, RolloutError
from srt_jax.rollout.sampler import Sampling, problem_seeds

model, out, url = sys.argv[1:]
me = jax.process_index()
config = vllm_config(pathlib.Path(model), out, "run", [url])
config.mesh.fsdp, config.mesh.tensor = 4, 2
sampler, graphdef, params, mesh = open_vllm_sampler(config)
assert bool(sampler._servers) == (me == 0)
sampler.load(params, 1)
print("gap", sampler.report["publish/probe_gap_max"])
prompts = [[3 + p % 9, 13, 5] for p in range(8)]
seeds = problem_seeds(0, "train", 1, [str(p) for p in range(8)])


def draw(finished=None, advanced=None):
    rollouts = sampler.generate(prompts, 4, Sampling(18), seeds, finished, advanced)
    assert rollouts.version == 1 and rollouts.prompts == prompts
    arrays = rollouts.tokens, rollouts.lengths, rollouts.logprobs, rollouts.stopped
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


finished, shares = [], []
print("drawn", draw(lambda p, *_: finished.append(p), lambda share, tokens: shares.append((share, tokens))))
assert len(finished) == 8 * (me == 0) and shares[-1][0] <= 1 and shares == sorted(shares)


class Stop(Exception):
    pass


def stop(share, tokens):
    if me == 1:
        raise Stop("process 1 stops")


try:
    draw(None, stop)
except Stop as e:
    print("stopped:", e)

file = pathlib.Path(out, "file")
if me == 0:
    file.write_text("no folder")
exports, sampler._delivery._exports = sampler._delivery._exports, file
try:
    sampler.load(params, 2)
except RolloutError as e:
    print("export:", e)
sampler._delivery._exports = exports
sampler.load(params, 1)
print("drawn", draw())
sampler.close()
try:
    draw()
except RolloutError as e:
    print("closed:", e)
"""


def test_both_processes_get_the_same_rollouts_and_errors(server, miniature, tmp_path):
    command = [sys.executable, "-c", SAMPLE, str(miniature), str(tmp_path), server.url]
    first, second = (lines(said) for said, _ in finish(start(2, command)))
    assert first == second
    said = dict(line.split(maxsplit=1) for line in first)
    drawn = [line for line in first if line.startswith("drawn")]
    assert len(drawn) == 2 and drawn[0] == drawn[1] and float(said["gap"]) < 1e-4
    assert said["stopped:"] == "process 1 stops"  # its exception reaches the first, which ends the sampling
    assert "does not take the weights of step 2" in said["export:"]
    assert "closed" in said["closed:"]


def stopped_at(printed) -> int:
    """The step at which both processes stopped, by one sentence of the first and without a traceback."""
    steps = [re.findall(r"The state after step (\d+) is saved", errors) for _, errors in printed]
    assert len(steps[0]) == 1 and not steps[1], printed
    assert "Traceback" not in printed[0][1] + printed[1][1]
    return int(steps[0][0])


def test_a_run_of_two_processes_stops_resumes_and_equals_one(server, miniature, tmp_path):
    directory, two = tmp_path / "run", begin(miniature, tmp_path, server.url, 2, "--config.steps=400")
    wait_for_steps(directory, 2, two)
    two[1].send_signal(signal.SIGTERM)
    step = stopped_at(finish(two, status=1))
    (said, _), (silent, _) = finish(begin(miniature, tmp_path, server.url, 2, f"--config.steps={step + 1}"))
    assert f"resuming from step {step} of {step + 1}" in said and "resuming" not in silent
    records = [record for record in read_metrics(directory) if record["step"]]
    assert [record["step"] for record in records] == list(range(1, step + 2))  # none is lost, none is made twice
    assert [record["rollout/weights_version"] for record in records] == list(range(step + 1))
    assert max(record["publish/probe_gap_max"] for record in records) < 1e-4
    assert max(record["update/logprob_gap_max"] for record in records) < 1e-4
    # Every export has the checksums of its manifest, and the last one is the exported model.
    for n in range(1, step + 2):
        assert vllm_export.verify(directory / f"weights/step_{n:06d}")["step"] == n
    last, final = (load_file(directory / f / "model.safetensors") for f in (f"weights/step_{step + 1:06d}", "final"))
    for name, value in final.items():
        np.testing.assert_array_equal(last[name], value, err_msg=name)
    # One process makes the same updates of the recorded rollouts.
    check_in_one_process(directory, step + 1)


@pytest.mark.long
def test_four_trainers_and_a_server(server, miniature, tmp_path):
    said, *others = finish(begin(miniature, tmp_path, server.url, 4))
    assert "final holds the model" in said[0] and not any("final holds" in text for text, _ in others)
    records = [record for record in read_metrics(tmp_path / "run") if record["step"]]
    assert [record["rollout/weights_version"] for record in records] == [0, 1]
    assert max(record["publish/probe_gap_max"] for record in records) < 1e-4
    assert max(record["update/logprob_gap_max"] for record in records) < 1e-4
    check_in_one_process(tmp_path / "run", 2)


@pytest.mark.long
def test_a_dead_server_ends_both_processes_while_they_sample_ahead(server, miniature, tmp_path):
    directory, proxy = tmp_path / "run", Proxy(server.url)
    ahead = "--config.rollout.steps_ahead=1", "--config.rl.tis_cap=2.0", "--config.rollout.old_logprobs=trainer"
    two = begin(miniature, tmp_path, proxy.url, 2, "--config.steps=400", *ahead)
    wait_for_steps(directory, 3, two)
    proxy.close()
    printed = finish(two, status=1)
    step = stopped_at(printed)
    assert f"{proxy.url} failed too often" in printed[0][1]
    # The run goes on in one process, with the server itself.
    fields = f"--config.steps={step + 1}", "--allow_change=mesh.cpu_devices", *ahead
    ((said, _),) = finish(begin(miniature, tmp_path, server.url, 1, *fields))
    assert f"resuming from step {step} of {step + 1}" in said
    records = [record for record in read_metrics(directory) if record["step"]]
    assert [record["step"] for record in records] == list(range(1, step + 2))
    versions = [0, *range(step - 1), step]  # one step old, except at a start
    assert [record["rollout/weights_version"] for record in records] == versions
