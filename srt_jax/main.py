"""Trains a language model on its own votes, or on ground truth.

    python -m srt_jax.main --config=configs/quickstart.py               one experiment; its docstring explains it
    python -m srt_jax.main --config=configs/quickstart.py:ground_truth  config files take arguments after a colon
    ... --config.batch.prompts_per_step=8 --config.name=small          any field can be set
    ... --dry_run                                                      checks config, data and model, runs nothing
    ... --profile                                                      traces steps 3 to 5 for TensorBoard's profiler

The run folder <out>/<name> gets config.json, metrics.jsonl, files for TensorBoard, rollouts/, checkpoints/, and at
the end final/ (a Hugging Face directory) and summary.json. The same command goes on with a run that was stopped.
"""

import contextlib
import os
import sys

from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli, runtime
from srt_jax.config import describe, fingerprint_fields, run_directory
from srt_jax.config.paths import expand_paths
from srt_jax.config.resolve import on_this_machine, resolve
from srt_jax.config.validation import validate
from srt_jax.log import logger
from srt_jax.run import interrupt

SECONDS_OF_DATA = 1.0  # that a dry run spends on making the problems of a source


def main(argv) -> int:
    """Runs the experiment; 0 where it completed, 2 for a mistake in the input, 1 where it stopped early."""
    if len(argv) > 1:
        return cli.complain(f"unexpected argument {argv[1]!r}: fields are set with --config.FIELD=VALUE.")
    if flags.FLAGS.config is None:
        return cli.complain("no --config given: name a file or a shipped config, e.g. --config=configs/quickstart.py.")
    config = flags.FLAGS.config
    config.log.profile |= flags.FLAGS.profile
    validate(config)
    runtime.start(config.mesh.cpu_devices)
    if flags.FLAGS.dry_run:
        dry_run(config)
        return 0
    from srt_jax.errors import TrainingStoppedError
    from srt_jax.levels import train_levels
    from srt_jax.run.lock import locked
    from srt_jax.runtime import processes
    from srt_jax.train import train

    def work() -> int:
        try:
            with contextlib.ExitStack() as stack:
                lock = locked(run_directory(expand_paths(config)), flags.FLAGS.take_over)
                processes.from_first(lambda: stack.enter_context(lock))
                (train_levels if config.levels else train)(config)
        except TrainingStoppedError as e:
            print(e, file=sys.stderr)
            return 1
        return 0

    # The loop has its own answer to signals: it saves. This one is for the time before and after it.
    return interrupt.run(work, "stopped: nothing is lost, and the same command goes on.")


def dry_run(config) -> None:
    """Prints the resolved config, what was checked and the arithmetic of the run. Downloads and computes nothing."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is first imported
    import jax

    from srt_jax.levels import checkable, level_configs

    whole, notes = resolve(config, jax.default_backend(), jax.device_count())
    logger.info("\n".join([str(whole), *notes]))
    # As in train_levels, a level follows the hardware by itself: it may have another batch.
    for level, more in map(on_this_machine, level_configs(expand_paths(config)) or [whole]):
        if whole.levels:
            logger.info(f"\nlevel {level.name}, from {level.model.path}")
        logger.info("\n".join([*more, *check(checkable(level, whole))]))
        logger.info(describe(level, jax.device_count()))


def check(config) -> list[str]:
    """Lines of report on all that a run checks before it computes."""
    from srt_jax.errors import DataNotHereError, ModelNotHereError
    from srt_jax.run.checkpoint import Checkpoints, check_same_run
    from srt_jax.run.prepare import prepare, prepare_offline

    whole = config
    config, not_made = with_some_data(config)
    servers = [] if config.rollout.sampler == "jax" or config.rollout.servers else [vllm_here(config)]
    try:
        prepared = prepare(config)
    except (ModelNotHereError, DataNotHereError):
        return [*prepare_offline(config), *not_made, *servers]
    prepared.report.extend([*not_made, *servers])
    directory = run_directory(config)
    if (directory / "checkpoints").exists():
        checkpoints = Checkpoints(directory)
        step, damaged = checkpoints.newest_whole()
        if step:
            there = checkpoints.record(step)
            here = {"config": fingerprint_fields(whole), **prepared.identity}
            if not_made:
                here |= {what: there["identity"][what] for what in ("data", "prompts")}
            check_same_run(there, here, directory)
            notes = [f"the checkpoint of step {bad} is damaged ({fault})" for bad, fault in damaged]
            return [*prepared.report, *notes, f"{directory}: would go on from step {step}"]
    return prepared.report


def with_some_data(config) -> tuple[ConfigDict, list[str]]:
    """(the config with as many generated problems as are made in a second each, a line for each source that lost some).

    But with two steps' worth of training problems, so that one step can be made where some are held out.
    """
    from srt_jax.data import gym
    from srt_jax.errors import DataError

    config, lines = config.copy_and_resolve_references(), []
    least = {"data": 2 * config.batch.prompts_per_step}
    for field, source in [("data", config.data), *((f"eval.sets.{name}", s) for name, s in config.eval.sets.items())]:
        if source.kind == "gym":
            try:
                made, count = gym.make_some(source, SECONDS_OF_DATA, least.get(field, 1)), gym.wanted(source)
            except DataError as e:
                raise DataError(f"{field}: {e}") from None
            if made < count:
                source.limit = made
                lines.append(f"not checked: {field}: {count - made} of {count} problems, which take long to make")
    return config, lines


def vllm_here(config) -> str:
    """A line on the environment of the vLLM servers, which another machine than the run's need not have."""
    from srt_jax.errors import ServerSetupError
    from srt_jax.rollout.vllm.command import package

    try:
        return f"vLLM: {config.rollout.vllm.python} has {package(config.rollout.vllm.python)}"
    except ServerSetupError as e:
        return f"vLLM: not on this machine: {e}"


if __name__ == "__main__":
    cli.define_config("Experiment: a file or a shipped name, arguments after a colon.")
    flags.DEFINE_bool("profile", False, "Trace steps 3 to 5 for TensorBoard's profiler: config.log.profile.")
    flags.DEFINE_bool("take_over", False, "Go on although a trainer on another host used the folder just now.")
    flags.DEFINE_bool("dry_run", False, "Check config, data, tokenizer and model; print the plan; run nothing.")
    cli.run(main)
