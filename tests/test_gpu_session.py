"""Rehearses the GPU session on a CPU, and tests its reports of parts that hang, crash or compute wrong numbers."""

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srt_jax.model import attention, parity
from srt_jax.runtime import hardware, xla_flags
from tests.helpers import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_session

    return gpu_session


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_parts

    return gpu_parts


@pytest.mark.slow
def test_the_rehearsal_runs_every_kind_of_part(session, tmp_path):
    """Runs without the parts for larger models, because a rehearsal uses one small model for all."""
    larger = ("update-1.5b", "lora-1.5b", "update-4b", "sampler-1.5b")
    wanted = [part for part in session.LIMITS if part not in larger]
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_session.py"),
        "--rehearse",
        f"--out={tmp_path}",
        f"--parts={','.join(wanted)}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    table = (tmp_path / "gpu_session.md").read_text()
    lines = (tmp_path / "gpu_session.jsonl").read_text().splitlines()
    by_part = {line["part"]: line for line in map(json.loads, lines)}
    assert done.returncode == 0 and {line["status"] for line in by_part.values()} == {"ok"}, table
    assert list(by_part) == ["device", "base", *wanted[1:]]
    assert done.stdout.endswith(table + "\n")
    assert all(f"| {part} | seconds |" in table for part in wanted)
    assert len(by_part["update-0.5b"]["kernels"]) == 10
    assert [by_part[part]["update"]["lora_rank"] for part in ("update-0.5b", "lora-0.5b")] == [0, 4]
    assert by_part["sampler-0.5b"]["continuous"]["new_tokens_per_s"] > 0
    assert len(by_part["run"]["seed_1"]["true_reward"]) == 2
    digests = by_part["determinism"]["determinism"]["with"]["digests"]
    assert digests[0] == digests[1]


def test_the_limits_add_up_to_less_than_ten_minutes(session):
    assert sum(session.LIMITS.values()) < 600


def test_a_part_gets_the_time_that_earlier_ones_left(session, tmp_path, monkeypatch):
    monkeypatch.setattr(session.Session, "_watched", lambda self, command, part, seconds: (0, ""))
    started = session.Session(tmp_path, tmp_path, True)
    assert [started.run(part, 10)["limit_s"] for part in "abc"] == [10, 20, 30]


def test_a_part_that_hangs_is_stopped_with_its_children(session, tmp_path):
    record, alive = tmp_path / "record", tmp_path / "alive"
    record.write_text(
        json.dumps({"rows": [{"what": "first", "found": "1", "wanted": "", "ok": True, "target": False}], "figure": 7})
        + "\n"
    )
    child = f"import time\nwhile True: open({str(alive)!r}, 'w').write(str(time.time())); time.sleep(0.05)"
    hang = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    started = session.Session(tmp_path, tmp_path, True)
    start = time.monotonic()
    status, tail = started._watched([sys.executable, "-c", hang], "hangs", 4.0)
    assert time.monotonic() - start < 40
    last = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == last  # its child is gone, too
    line = session.result("hangs", record, status, tail, 4.0)
    assert (line["status"], line["figure"], line["rows"][0]["found"]) == ("failed", 7, "1")
    assert line["error"] == "it was stopped at its limit of 4 s."
    assert "| hangs | first | 1 |" in session.table([line | {"seconds": 4.0}])


@pytest.mark.parametrize(
    "code, reason",
    [
        ("raise ValueError('no such thing')", "exit status 1: ValueError: no such thing"),
        ("import os; print('about to go', flush=True); os.abort()", "signal 6: about to go"),
        ("import sys; sys.exit(3)", "exit status 3: no output"),
    ],
)
def test_a_part_that_crashes_says_why(session, tmp_path, code, reason):
    status, tail = session.Session(tmp_path, tmp_path, True)._watched([sys.executable, "-c", code], "crashes", 30.0)
    line = session.result("crashes", tmp_path / "none", status, tail, 30.0)
    assert (line["status"], line["error"]) == ("failed", f"it ended with {reason}")


def test_without_a_gpu_nothing_is_measured(session, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(BENCHMARKS / "gpu_session.py"), "--parts=attention", f"--out={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: there is no GPU to measure (JAX sees cpu)")


def test_a_missing_miniature_is_reported_before_anything_starts(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "MINIATURE", session.ROOT / "cache" / "nothing")
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", f"--out={tmp_path / 'out'}", "--parts=attention,run"])
    assert session.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cache/nothing is missing") and "python -m srt_jax pretrain" in error
    assert not (tmp_path / "out").exists()


def test_an_exception_fails_its_check_and_no_other(session, parts, tmp_path):
    record = parts.Record(tmp_path / "record", 10.0)
    with record.attempt("divides"):
        1 / 0  # noqa: B018
    record.row("multiplies", 6, "6", ok=True)
    record.row("is fast", 0.3, ">= 0.5", ok=False, target=True)
    line = session.result("part", tmp_path / "record", 0, "", 10.0)
    assert [row["ok"] for row in line["rows"]] == [False, True, False]
    assert line["rows"][0]["found"] == "ZeroDivisionError: division by zero"
    assert line["status"] == "failed"
    line["rows"].pop(0)
    (tmp_path / "record").write_text(json.dumps({"rows": line["rows"]}))
    assert session.result("part", tmp_path / "record", 0, "", 10.0)["status"] == "ok"  # a target may be missed


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("wrong", [None, "output", "gradient", "mask"])
def test_a_wrong_attention_kernel_is_found(session, parts, tmp_path, monkeypatch, packed, wrong):
    @jax.custom_vjp
    def twice_the_gradient(x):
        return x

    twice_the_gradient.defvjp(lambda x: (x, None), lambda _, by_out: (2 * by_out,))

    def kernel(q, k, v, segments=None):
        if wrong == "mask":  # sees the next token
            k, v = (jnp.roll(x, -1, 1) for x in (k, v))
        out = attention.xla(q, twice_the_gradient(k) if wrong == "gradient" else k, v, segments)
        return out * 1.05 if wrong == "output" else out

    monkeypatch.setattr(attention, "cudnn", kernel)
    inputs = parity.attention_inputs(2, 24, 4, 2, 16, packed)
    record = parts.Record(tmp_path / "record", 10.0)
    parts.compare_attention(record, "kernel", parity.compile_errors("cudnn", inputs), inputs)
    assert session.result("attention", tmp_path / "record", 0, "", 1.0)["status"] == ("failed" if wrong else "ok")


def test_gradients_are_compared_over_all_parameters(parts):
    a = {"x": jnp.array([3.0, 0.0]), "y": jnp.array([[4.0]])}
    b = {"x": jnp.array([0.0, 0.0]), "y": jnp.array([[8.0]])}
    cosine, ratio = parts.compare_gradients(a, b)
    assert (cosine, ratio) == (pytest.approx(0.8), pytest.approx(5 / 8))


def test_a_digest_sees_the_last_bit_and_the_order(parts):
    x = np.arange(1000, dtype=np.float32)
    other = x.copy()
    other[500] = np.nextafter(other[500], np.float32(1e9))
    digests = [tuple(parts.digest({"x": y})) for y in (x, x.copy(), other, x[::-1])]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_planned_updates_fit_their_card(parts):
    for part, shape in parts.SHAPES.items():
        chip = hardware.CHIPS["h200" if part == "update-4b" else "h100"]
        sizes = [planned.planned_bytes for planned in shape.plans]
        assert 0 < sizes[1] < sizes[0] < chip.memory * xla_flags.GPU_MEMORY_FRACTION
        assert all(shape.batch % planned.micro == 0 for planned in shape.plans)


def test_the_slowest_kernels_of_a_trace(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import kernels

    def event(name, tid, microseconds, pid=1):
        return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": 0, "dur": microseconds}

    names = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "/device:GPU:0"), (2, "/host:CPU"))
    ]
    names += [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}}
        for tid, name in ((14, "Stream #14(Compute,MemcpyD2D)"), (15, "Stream #15(Compute)"), (1, "XLA Ops"))
    ]
    trace = {
        "traceEvents": [
            *names,
            event("gemm", 14, 3000.0),
            event("gemm", 15, 1000.0),
            event("softmax", 14, 1000.0),
            event("dot.7", 1, 4000.0),  # the same time as the products, by XLA's name
            event("python", 1, 9000.0, pid=2),
        ]
    }
    gemm = {"name": "gemm", "ms": 4.0, "calls": 2, "share": 0.8}
    softmax = {"name": "softmax", "ms": 1.0, "calls": 1, "share": 0.2}
    assert kernels.slowest(trace, 10) == {"kernel_ms": 5.0, "kernels": [gemm, softmax]}
    assert [kernel["name"] for kernel in kernels.slowest(trace, 1)["kernels"]] == ["gemm"]
    with pytest.raises(ValueError, match="no kernels"):
        kernels.slowest({"traceEvents": names}, 10)
