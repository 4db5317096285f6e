"""The installed compiler knows the flags, and the look-up refuses the flags with which XLA aborts."""

import os
import subprocess
import sys

import pytest

from srt_jax.runtime import xla_flags
from tests.helpers import REPOSITORY
from tests.plan_environment import needs_plan_environment, python, variables

BOGUS = "xla_gpu_no_such_flag"


def parses(flags: dict[str, str]) -> bool:
    """Does a process with these flags start?"""
    text = " ".join(f"--{name}={value}" for name, value in flags.items())
    environment = {**os.environ, "XLA_FLAGS": text, "JAX_PLATFORMS": "cpu"}
    code = "from jaxlib import xla_client; xla_client.CompileOptions()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    return done.returncode == 0


def test_every_gpu_flag_is_known_to_this_jaxlib():
    values = xla_flags.GPU.values
    assert xla_flags.known(xla_flags.GPU, values) == set(values)
    assert parses(values)


def test_the_look_up_refuses_what_aborts():
    assert xla_flags.known(xla_flags.GPU, [BOGUS, "xla_gpu_enable_triton"]) == set()
    assert not parses({BOGUS: "true"})
    assert not parses({"xla_gpu_enable_triton": "true"})


def test_nothing_is_set_for_cpus_alone():
    environment = {"XLA_FLAGS": "--xla_dump_to=here"}
    assert xla_flags.apply(environment) == {}
    assert environment == {"XLA_FLAGS": "--xla_dump_to=here"}


def test_what_the_user_set_stays(monkeypatch, capsys):
    gpu = xla_flags.Flags("XLA_FLAGS", ("jaxlib",), xla_flags.GPU.library, xla_flags.GPU.values | {BOGUS: "1"})
    monkeypatch.setattr(xla_flags, "GPU", gpu)
    environment = {
        "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=true --xla_dump_to=here",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5",
    }
    xla_flags.apply(environment)
    given = environment["XLA_FLAGS"].split()
    assert given[-2:] == ["--xla_gpu_enable_triton_gemm=true", "--xla_dump_to=here"]
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in given
    assert "--xla_gpu_enable_triton_gemm=false" not in given
    assert f"--{BOGUS}=1" not in given
    assert capsys.readouterr().err == f"warning: XLA flags unknown to this compiler, left out: {BOGUS}\n"
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


@needs_plan_environment
@pytest.mark.parametrize("backend", ["GPU", "TPU"])
def test_flags_of_the_accelerators_compilers(backend):
    """In the planner's environment: every flag is found, and the compiler starts with all of them."""
    platform = "tpu" if backend == "TPU" else "cpu"
    code = f"""
from srt_jax.runtime import xla_flags
flags = xla_flags.{backend}
assert xla_flags.known(flags, flags.values) == set(flags.values), xla_flags.known(flags, flags.values)
assert xla_flags.apply()[flags.variable]
import jax
from srt_jax.plan import topology
print(len(topology.devices(topology.parse("v5e:2x2" if {platform!r} == "tpu" else "h200:4"))))
"""
    found = subprocess.run(
        [python(), "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=variables(),
        cwd=REPOSITORY,
    )
    assert found.stdout.split()[-1:] == ["4"], found.stderr[-500:]
