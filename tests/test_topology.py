import subprocess

import pytest

from srt_jax.errors import ConfigError
from srt_jax.plan import topology
from tests.helpers import REPOSITORY
from tests.plan_environment import needs_plan_environment, python, variables


@pytest.mark.parametrize(
    "name, platform, devices",
    [
        ("cpu:8", "cpu", 8),
        ("h200:1", "cuda", 1),
        ("h100:16", "cuda", 16),
        ("v5e:4x4", "tpu", 16),
        ("v5p:4x4x4", "tpu", 64),
        ("v6e:16x16", "tpu", 256),
    ],
)
def test_names(name, platform, devices):
    found = topology.parse(name)
    assert (found.platform, found.num_devices) == (platform, devices)


@pytest.mark.parametrize(
    "name", ["", "h200", "h200:0", "h200:x", "b300:8", "v5p:4x4", "v5e:4x4x4", "cpu:2x2", "v5e:04x4"]
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(name):
    with pytest.raises(ConfigError, match=r"does not exist.*h200:8.*h100:8.*v5e:4x4.*v5p:4x4x4.*v6e:16x16.*cpu:8"):
        topology.parse(name)


def test_half_a_node_of_many_is_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        topology.parse("h200:12")


def test_more_simulated_devices_than_there_are():
    with pytest.raises(ConfigError, match=r"9.*8 simulated"):
        topology.devices(topology.parse("cpu:9"))


@needs_plan_environment
def test_meshes_that_split_a_dimension_of_the_torus():
    code = """
from srt_jax.plan import topology
from srt_jax.model.sharding import make_mesh
for name, fsdp, tensor in (("v5p:4x4x4", 32, 2), ("v6e:8x8", 32, 2), ("v5p:4x4x4", 8, 8)):
    mesh = make_mesh(-1, fsdp, tensor, topology.devices(topology.parse(name)))
    assert mesh.shape == {"data": 1, "fsdp": fsdp, "tensor": tensor} and len(set(mesh.devices.flat)) == 64
"""
    found = subprocess.run(
        [python(), "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=variables(),
    )
    assert found.returncode == 0, found.stderr[-500:]
