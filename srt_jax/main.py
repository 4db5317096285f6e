"""Trains a language model on its own votes, or on ground truth.

    python -m srt_jax.main --config=configs/quickstart.py               one experiment; its docstring explains it
    python -m srt_jax.main --config=configs/quickstart.py:ground_truth  config files take arguments after a colon
    ... --config.batch.prompts_per_step=8 --config.name=small          sets any field
    ... --dry_run                                                      checks config, data and model, runs nothing
    ... --profile                                                      traces steps 3 to 5 for TensorBoard's profiler

The run folder <out>/<name> gets config.json, metrics.jsonl, files for TensorBoard, rollouts/, checkpoints/, and at
the end final/ (a Hugging Face directory) and summary.json. The same command resumes a run that was stopped.
"""

import contextlib
import os
import sys

from srt_jax.run import interrupt

if __name__ == "__main__":
    interrupt.leave_quietly()  # until the run has its own answer: the imports take seconds

from absl import flags

from srt_jax import cli
from srt_jax.config import functions
from srt_jax.config.paths import expand_paths, run_directory
from srt_jax.config.validation import validate
from srt_jax.data.prompts import import_without_torch
from srt_jax.log import others_to_file, write
from srt_jax.run import parent
from srt_jax.run.identity import check_allowed


def main(argv) -> int:
    """Runs the experiment. Returns 0 if it is complete, 1 if it stopped early, 2 for a mistake in the input."""
    if len(argv) > 1:
        return cli.complain(f"unexpected argument {argv[1]!r}: fields are set with --config.FIELD=VALUE.")
    if flags.FLAGS.config is None:
        return cli.complain("no --config given: name a file or a shipped config, e.g. --config=configs/quickstart.py.")
    config = flags.FLAGS.config
    config.log.profile |= flags.FLAGS.profile
    validate(config)
    check_allowed(flags.FLAGS.allow_change)
    parent.obey()
    if parent.needed() and not flags.FLAGS.dry_run:
        job = parent.training(run_directory(expand_paths(config)))
        return parent.watch(job, config.stop.peer_seconds, config.stop.join_seconds)
    if not functions.named(config):
        import_without_torch()
    parent.join(config)
    if flags.FLAGS.dry_run:
        os.environ["HF_HUB_OFFLINE"] = "1"  # The hub's client reads it when it is first imported.
        from srt_jax.run.dry_run import dry_run

        dry_run(config, flags.FLAGS.allow_change)
        return 0
    from srt_jax.errors import TrainingStoppedError, is_left_to_first
    from srt_jax.levels import train_levels
    from srt_jax.run.lock import locked
    from srt_jax.runtime import is_first_process, processes
    from srt_jax.train import train

    def work() -> int:
        try:
            with contextlib.ExitStack() as stack:
                directory = run_directory(expand_paths(config))

                def lock(report: processes.Report) -> None:
                    stack.enter_context(locked(directory, flags.FLAGS.take_over, lambda: report(0.0, 0)))

                # It may wait longer for a host that is gone than collectives wait for a process.
                processes.led_by_first(lock, lambda *_: None)
                if is_first_process():
                    others_to_file(directory / "libraries.log")
                (train_levels if config.levels else train)(config, flags.FLAGS.allow_change)
        except TrainingStoppedError as e:
            if not is_left_to_first(e):
                write(str(e), sys.stderr)
            return 1
        return 0

    # The loop has its own answer to signals: it saves. This one is for the time before and after it.
    return interrupt.run(work, "stopped: nothing is lost. The same command resumes the run.")


if __name__ == "__main__":
    cli.define_config("Experiment: a file or a shipped name, arguments after a colon.")
    flags.DEFINE_bool("profile", False, "Trace steps 3 to 5 for TensorBoard's profiler: config.log.profile.")
    flags.DEFINE_bool("take_over", False, "Start although a trainer on another host used the folder just now.")
    flags.DEFINE_list("allow_change", [], "Fields that may change when a run is resumed, with commas between them.")
    flags.DEFINE_bool("dry_run", False, "Check config, data, tokenizer and model; print a report; run nothing.")
    parent.leave_at_once(lambda: cli.run(main))
