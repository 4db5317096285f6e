"""Runs the updates of a run again from its recorded rollouts, and compares their metrics bit for bit.

    python -m srt_jax replay --run=runs/quickstart/srt [--steps=10]

Starts from the initial weights and needs rollouts/step_N.npz of every step (log.rollouts_every=1), the same data,
model, number of devices and versions. Nothing is sampled. Prints a line per step; exit status 1 where a metric differs.
"""

import pathlib
import tempfile

from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli, runtime
from srt_jax.config import recorded
from srt_jax.errors import ConfigError
from srt_jax.log import logger

COMPARED = ("label/", "rollout/", "update/")
BY_THE_CLOCK = ("rollout/tokens_per_second", "update/mfu")


def run_config(directory: pathlib.Path) -> ConfigDict:
    """The config of a run, for a replay of it. Raises ConfigError where the folder holds none."""
    config = recorded(directory)
    config.rollout.sampler, config.rollout.servers = "jax", ()  # it is not asked for anything
    return config


def replay(directory: pathlib.Path, steps: int | None = None) -> dict[int, dict[str, tuple]]:
    """Step -> {metric: (recorded, replayed)} of what differs. Raises ConfigError where a step was not recorded."""
    from srt_jax.config.resolve import on_this_machine
    from srt_jax.run import recording
    from srt_jax.run.metrics import read_metrics
    from srt_jax.run.prepare import prepare
    from srt_jax.run.setup import begin
    from srt_jax.train import train_step

    config, _ = on_this_machine(run_config(directory))
    if not (directory / "metrics.jsonl").exists():
        raise ConfigError(f"--run={directory} holds no metrics.jsonl: name a run that has made steps.")
    records = {record["step"]: record for record in read_metrics(directory)}
    known = {name for record in records.values() for name in record}  # an older version records fewer metrics
    last = min(max(records), steps or max(records))
    differing = {}
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(config)
        problems = {problem.id: problem for problem in prepared.problems}
        run, state, _ = begin(config, prepared, pathlib.Path(scratch))
        with run.grader:
            for step in range(1, last + 1):
                path = recording.rollouts_path(directory, step, recording.RECORDED)
                if not path.exists() or step not in records:
                    raise ConfigError(f"{path} does not exist: only a run with log.rollouts_every=1 can be replayed.")
                collected = recording.read(path, problems, run.grading)
                state, values = train_step(run, state, step, collected)
                differing[step] = compare(records[step], {name: v for name, v in values.items() if name in known})
    return differing


def compare(recorded: dict, replayed: dict) -> dict[str, tuple]:
    """{metric: (recorded, replayed)} of what differs. A NaN is not recorded."""
    replayed = {name: float(v) for name, v in replayed.items() if float(v) == float(v)}
    names = {name for name in recorded.keys() | replayed.keys() if name.startswith(COMPARED)} - set(BY_THE_CLOCK)
    return {
        name: (recorded.get(name), replayed.get(name))
        for name in sorted(names)
        if recorded.get(name) != replayed.get(name)
    }


def main(argv) -> int:
    """Replays; 0 where all metrics are equal, 1 where one is not, 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.run:
        return cli.complain("give --run=FOLDER of a run, and no bare arguments.")
    directory = pathlib.Path(given.run)
    config = run_config(directory)
    runtime.start(config.mesh.cpu_devices)
    differing = replay(directory, given.steps)
    for step, names in differing.items():
        told = "; ".join(f"{name} {there!r} there, {here!r} here" for name, (there, here) in names.items())
        logger.info(f"step {step}: {told or 'equal'}")
    return int(any(differing.values()))


if __name__ == "__main__":
    cli.define_path("run", "Folder of a run with recorded rollouts.")
    flags.DEFINE_integer("steps", None, "Replay only the first so many steps.", lower_bound=1)
    cli.run(main)
