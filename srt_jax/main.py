"""Trains a language model on its own votes, or on ground truth.

    python -m srt_jax.main --config=configs/quickstart.py               one experiment; its docstring explains it
    python -m srt_jax.main --config=configs/quickstart.py:ground_truth  config files take arguments after a colon
    ... --config.batch.prompts_per_step=8 --config.name=small          any field can be set
    ... --dry_run                                                      checks everything, prints the plan, runs nothing

The run folder <out>/<name> gets config.json, metrics.jsonl, tensorboard/, rollouts/, checkpoints/, and at the end
final/ (a Hugging Face directory) and summary.json. The same command goes on with a run that was stopped.
"""
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from srt_jax import runtime
from srt_jax.checkpoint import CheckpointError
from srt_jax.config import ConfigError, describe, run_directory, validate, validate_devices
from srt_jax.data.base import DataError
from srt_jax.model.config import ModelError

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: a file in configs/, arguments after a colon.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Check config, data, tokenizer and model; print the plan; run nothing.")

logging.set_verbosity(logging.WARNING)  # orbax and jax report every file and backend otherwise
USER_ERRORS = (ConfigError, DataError, ModelError, CheckpointError)


def main(argv) -> int:
    """Runs the experiment; 0 where it completed, 2 for a mistake in the input, 1 where it stopped early."""
    if len(argv) > 1:
        return complain(f"unexpected argument {argv[1]!r}: fields are set with --config.FIELD=VALUE.")
    if CONFIG.value is None:
        return complain("no --config given: name a file in configs/, e.g. --config=configs/quickstart.py.")
    config = CONFIG.value
    try:
        validate(config)
        runtime.start(config.mesh.cpu_devices)
        if DRY_RUN.value:
            dry_run(config)
            return 0
        from srt_jax.train import TrainingStoppedError, train
        try:
            train(config)
        except TrainingStoppedError as e:
            print(e, file=sys.stderr)
            return 1
    except USER_ERRORS as e:
        return complain(str(e))
    return 0


def dry_run(config) -> None:
    """Prints the resolved config, what was checked and the arithmetic of the run."""
    import jax

    from srt_jax.checkpoint import Checkpoints, check_same_run
    from srt_jax.config import fingerprint_fields
    from srt_jax.prepare import prepare

    print(config)
    num_devices = jax.device_count()
    validate_devices(config, num_devices)
    prepared = prepare(config)
    directory = run_directory(config)
    if (directory / "checkpoints").exists():
        checkpoints = Checkpoints(directory)
        if checkpoints.last_step():
            check_same_run(checkpoints.record()["identity"],
                           {"config": fingerprint_fields(config), **prepared.identity}, directory)
            print(f"{directory}: would go on from step {checkpoints.last_step()}")
    print("\n".join(prepared.report))
    print(describe(config, num_devices))


def complain(message: str) -> int:
    """One sentence on stderr; the exit status of wrong input."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def parse_flags(argv):
    """absl's parser, with unknown config fields and files told in one sentence instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, OSError, ImportError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        sys.exit(complain(f"the command line cannot be used: {reason}"))


def run() -> None:
    """The entry point of `python -m srt_jax.main`."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
