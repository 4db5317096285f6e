"""The command `srt JOB ...`, also `python -m srt_jax JOB ...`: runs one of the project's programs."""

import difflib
import runpy
import sys

from srt_jax.log import write
from srt_jax.run import interrupt

JOBS = {
    "check": ("srt_jax.jobs.check", "check this machine: is it complete, right and fast?"),
    "train": ("srt_jax.main", "train a model: one experiment of configs/"),
    "evaluate": ("srt_jax.jobs.evaluate", "avg@k, maj@k and pass@k of a model or a run"),
    "label": ("srt_jax.jobs.label", "write pseudo-labels by a frozen model's votes"),
    "subset": ("srt_jax.jobs.subset", "choose problems by the scores of a label file"),
    "overlap": ("srt_jax.jobs.overlap", "count problems that two data sources share"),
    "grade": ("srt_jax.jobs.grade", "grade or vote on answers and responses of your own"),
    "figures": ("srt_jax.jobs.figures", "put runs side by side in a table and in figures"),
    "replay": ("srt_jax.jobs.replay", "repeat a run's updates from its recorded rollouts, bit for bit"),
    "probe": ("srt_jax.jobs.probe", "what training changed, measured against the base on the same problems"),
    "collapse": (
        "srt_jax.jobs.collapse",
        "read any trainer's rollouts: did the run collapse, which checkpoint to use?",
    ),
    "study": ("srt_jax.jobs.study", "run a study: arms x seeds, paired effects, verdicts"),
    "plan": ("srt_jax.jobs.plan", "compile a run for hardware that is not there: does it fit?"),
    "pretrain": ("srt_jax.miniature.pretrain", "make the base model of the miniature"),
}


def main() -> None:
    """Runs the job that the first argument names, with the other arguments. The exit status is 2 if there is none."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        jobs = "\n".join(f"  {name:<10} {what}" for name, (_, what) in JOBS.items())
        write(f"usage: srt JOB [OPTIONS], srt JOB --help\n\n{jobs}", sys.stdout)
        sys.exit(0 if arguments else 2)
    if arguments[0] not in JOBS:
        near = difflib.get_close_matches(arguments[0], JOBS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(JOBS)}."
        print(f"error: there is no job {arguments[0]!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"srt {arguments[0]}", *arguments[1:]]
    module = JOBS[arguments[0]][0]
    # The imports take seconds. Jobs whose output grows line by line have their own message after them.
    interrupt.run(
        lambda: runpy.run_module(module, run_name="__main__", alter_sys=True),
        "interrupted: what was complete before is unchanged. The same command starts again.",
    )


if __name__ == "__main__":
    main()
