"""Which process of a run this is, by the variables of the environment. Uses no JAX."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

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

    Raises ConfigError if one of these variables is missing or wrong, and in a run over several TPU slices.
    """
    slices = environment.get("MEGASCALE_NUM_SLICES", "")
    if slices not in ("", "1"):  # the numbers of TPU_WORKER_ID would repeat in each slice, and no mesh spans slices
        raise ConfigError(
            f"MEGASCALE_NUM_SLICES is {slices!r}, but a run uses one TPU slice: create a single slice, or start a run "
            "of its own in each slice, with another folder and without the MEGASCALE_ variables."
        )
    if address := environment.get("JAX_COORDINATOR_ADDRESS"):
        host, _, port = address.rpartition(":")
        if not (host.strip() and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(
                f"JAX_COORDINATOR_ADDRESS is {address!r}: set it to host:port of process 0 in every process, e.g. "
                "node-1:12345."
            )
        return _place(environment, ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"), "JAX_COORDINATOR_ADDRESS", address)
    tasks = "SLURM_STEP_NUM_TASKS"
    if environment.get(tasks) and "SLURM_PROCID" in environment and _number(environment, tasks, tasks) > 1:
        return _place(environment, (tasks, "SLURM_PROCID"), tasks, "")
    workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(workers) > 1 and environment.get("TPU_WORKER_ID", "").isdecimal():
        return _checked(int(environment["TPU_WORKER_ID"]), len(workers), "", ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"))
    if len(workers) > 1 or environment.get("SRT_PROCESSES") == "auto":
        return Place(None, None, "")
    return None


def has_all_devices(environment: Mapping[str, str]) -> bool:
    """Tells whether srun or mpirun started just one task on each host, so that all devices of a host belong to it."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    one_per_node = bool(tasks) and tasks == environment.get("SLURM_STEP_NUM_NODES")  # each node of a step has a task
    return one_per_node or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


SWITCHES = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES", "SRT_PROCESSES")


def check_alone(environment: Mapping[str, str], job: str, remedy: str = "") -> None:
    """Raises ConfigError if this process is one of several, for a job that runs in one process.

    job: its name. remedy: a clause about another way to use several processes; it may contain {index} and {count}.
    """
    if (place := place_of(environment)) is None:
        return
    index, count = ("K", "N") if place.index is None else (place.index, place.count)
    in_effect = (name for name in SWITCHES if place_of({**environment, name: ""}) != place)
    switch = next(in_effect, SWITCHES[-1])  # The last one has no effect of its own beside several TPU_WORKER_HOSTNAMES.
    raise ConfigError(
        f"{job} runs in one process, but {switch} makes this process {index} of {count}: unset it"
        + (f", and {remedy.format(index=index, count=count)}." if remedy else ".")
    )


def command_line(environment: Mapping[str, str], command: Sequence[str]) -> str:
    """The command for a shell, with the assignments before it that a start by hand needs."""
    names = ["SRT_PROCESSES"]
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        names = ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", *names]
    assignments = [f"{name}={shlex.quote(environment[name])}" for name in names if environment.get(name)]
    return " ".join([*assignments, shlex.join(command)])


def _place(environment: Mapping[str, str], names: tuple[str, str], switch: str, address: str) -> Place:
    """The place by the variables for the number of processes and for the index. Raises ConfigError.

    switch: the variable that makes this process one of several.
    """
    count, index = (_number(environment, name, switch) for name in names)
    if count == 0:
        raise ConfigError(f"{names[0]} is 0: set it to the number of processes of the run, in every process.")
    return _checked(index, count, address, names)


def _checked(index: int, count: int, address: str, names: tuple[str, str]) -> Place:
    """The place, if there is one with this index; names: the variables of both numbers. Raises ConfigError."""
    if index >= count:
        verb, last = "has" if names[0] == "TPU_WORKER_HOSTNAMES" else "is", count - 1
        raise ConfigError(
            f"{names[1]} is {index}, but {names[0]} {verb} {count}: number the processes of a run from 0 to {last}."
        )
    return Place(index, count, address)


def _number(environment: Mapping[str, str], name: str, switch: str) -> int:
    value = environment.get(name, "")
    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(
            f"{name} is {value!r}: set it to a number in every process, or unset {switch} if this is the only process."
        )
    return int(value)
