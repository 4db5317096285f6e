"""Which process of a run this is, by the variables of the environment. Needs no JAX."""

import dataclasses
from collections.abc import Mapping

from srt_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process in a run of several processes."""

    index: int | None  # None: JAX finds both numbers when it joins the processes
    count: int | None
    address: str  # host:port of process 0, "" if JAX finds it


def place_of(environment: Mapping[str, str]) -> Place | None:
    """The place of this process in a run, None if it is the only one. A run has several processes if there is one of:

    - JAX_COORDINATOR_ADDRESS (host:port of process 0) with JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    - more than one task of a SLURM step (srun), or more than one TPU_WORKER_HOSTNAMES;
    - SRT_PROCESSES=auto: JAX finds everything by itself, as on Cloud TPU pods.

    Raises ConfigError if a variable is missing or is no number.
    """
    if address := environment.get("JAX_COORDINATOR_ADDRESS"):
        count, index = (_number(environment, name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        return Place(index, count, address)
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        return Place(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]), "")
    workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(workers) > 1 and environment.get("TPU_WORKER_ID", "").isdigit():
        return Place(int(environment["TPU_WORKER_ID"]), len(workers), "")
    if len(workers) > 1 or environment.get("SRT_PROCESSES") == "auto":
        return Place(None, None, "")
    return None


def _number(environment, name: str) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS is set, but {name} is {value!r}: set it to a number in every "
            "process, or unset JAX_COORDINATOR_ADDRESS."
        )
    return int(value)
