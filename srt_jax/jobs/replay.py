"""Runs the updates of a run again from its recorded rollouts, and compares their metrics bit for bit.

    python -m srt_jax replay --run=runs/quickstart/srt [--steps=10]

It starts from the initial weights. It needs rollouts/step_N.npz of every step (log.rollouts_every=1) and the same data,
model, number of devices and versions. It samples nothing, so a run with vLLM can be replayed without vLLM. It prints
a line per step. The exit status is 1 if a metric differs.
"""

import pathlib
from collections.abc import Mapping

from absl import flags

from srt_jax import cli
from srt_jax.config import recorded
from srt_jax.errors import ConfigError
from srt_jax.log import logger
from srt_jax.run import parent

COMPARED = ("label/", "rollout/", "update/")
SPEED = ("rollout/tokens_per_second", "update/mfu")


def replay(directory: pathlib.Path, steps: int | None = None) -> dict[int, dict[str, tuple]]:
    """{step: {metric: (recorded, replayed)}} with each metric that differs. Writes nothing.

    Raises ConfigError if a step was not recorded, or if the update does not fit into the memory of this machine.
    """
    import jax
    import jax.numpy as jnp

    from srt_jax.config.resolve import on_this_machine
    from srt_jax.run import budget, recording
    from srt_jax.run.fallback import with_step
    from srt_jax.run.metrics_log import read_metrics
    from srt_jax.run.prepare import prepare
    from srt_jax.run.setup import compile_learner, load_initial
    from srt_jax.train import learn, reward_confidence

    config, _ = on_this_machine(recorded(directory))
    if not (directory / "metrics.jsonl").exists():
        raise ConfigError(f"--run={directory} has no metrics.jsonl: name a run that has made steps.")
    records = {record["step"]: record for record in read_metrics(directory)}
    known = {name for record in records.values() for name in record}  # an older version records fewer metrics
    last = min(max(records), steps or max(records))
    prepared = prepare(config)
    problems = {problem.id: problem for problem in prepared.problems}
    budget.check(config, prepared.model.config, samples=False)
    initial = load_initial(config, prepared)
    state, differing = initial.state, {}
    learner = compile_learner(config, prepared, initial, state)
    alarm, chosen = returned(records)
    kept = None
    with learner.grader:
        for step in range(1, last + 1):
            if step - 1 == chosen and last > alarm:
                kept = jax.tree.map(jnp.copy, state)
            if step - 1 == alarm:
                state = with_step(kept, alarm)
            path = recording.rollouts_path(directory, step, recording.RECORDED)
            if not path.exists() or step not in records:
                raise ConfigError(f"{path} does not exist: only a run with log.rollouts_every=1 can be replayed.")
            collected = recording.read(path, problems, learner.grading)
            if learner.confidence and step <= alarm:
                collected = reward_confidence(learner, state, collected, step)
            state, values = learn(learner, state, collected, step)
            differing[step] = compare(records[step], {name: v for name, v in values.items() if name in known})
    return differing


def returned(records: Mapping[int, dict]) -> tuple[int, int]:
    """(a, c) of a run that the guard returned to the state of step c after step a. (last step, 0) if it did not.

    records: those of metrics.jsonl by step.
    """
    labelled = [step for step, record in records.items() if "teacher/step" in record]
    return (min(labelled) - 1, int(records[min(labelled)]["teacher/step"])) if labelled else (max(records), 0)


def compare(recorded: dict, replayed: dict) -> dict[str, tuple]:
    """{metric: (recorded, replayed)} for each metric that differs. NaN is never recorded."""
    replayed = {name: float(v) for name, v in replayed.items() if float(v) == float(v)}
    names = {name for name in recorded.keys() | replayed.keys() if name.startswith(COMPARED)} - set(SPEED)
    return {
        name: (recorded.get(name), replayed.get(name))
        for name in sorted(names)
        if recorded.get(name) != replayed.get(name)
    }


def main(argv) -> int:
    """Replays. Returns 0 if all metrics are equal, 1 if one differs, 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.run:
        return cli.complain("give --run=FOLDER of a run, and no bare arguments.")
    directory = pathlib.Path(given.run)
    config = recorded(directory)
    parent.join(config)
    differing = replay(directory, given.steps)
    for step, names in differing.items():
        told = "; ".join(f"{name} {there!r} there, {here!r} here" for name, (there, here) in names.items())
        logger.info(f"step {step}: {told or 'equal'}")
    return int(any(differing.values()))


if __name__ == "__main__":
    cli.define_path("run", "Folder of a run with recorded rollouts.")
    flags.DEFINE_integer("steps", None, "Replay only this many steps, from the first.", lower_bound=1)
    cli.run(main)
