"""Compiles a run's programs for hardware that is not there: does the run fit in memory?

    python -m srt_jax plan --config=configs/srt.py:qwen25_math_7b,dapo --topology=h200:8
    ... --topology=v5p:4x4x4 --config.mesh.fsdp=32 --json      sets a field; prints one JSON object instead of a table
    ... --microbatch=16                                        compiles this micro-batch only, without a search

Plans for TPUs and GPUs run in the environment .venv-plan (if it is missing, the command prints how to make it). cpu:N
needs no other environment. docs/planning.md explains the figures and lists the assumptions.
"""

import functools
import json
import os
import pathlib
import sys

from absl import flags

from srt_jax import cli
from srt_jax.config.validation import validate
from srt_jax.plan import table, topology
from srt_jax.plan.programs import plan
from srt_jax.runtime import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
if not (ROOT / "requirements-plan.txt").exists():  # installed from a wheel, without a checkout
    ROOT = pathlib.Path.cwd()
PYTHON = ROOT / ".venv-plan" / "bin" / "python"


def main(argv) -> int:
    """Prints the plan. Returns 0 if the config fits, 1 if it does not, 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1:
        return cli.complain(f"unexpected argument {argv[1]!r}: fields are set with --config.FIELD=VALUE.")
    if given.config is None or given.topology is None:
        return cli.complain("give --config=configs/X.py and --topology, one like " + topology.EXAMPLES + ".")
    where, config = topology.parse(given.topology), given.config
    if given.microbatch:
        config.batch.microbatch_sequences = given.microbatch
    validate(config)
    if not topology.compiler_is_here(where):
        return _continue_in_planners_environment(where)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a plan does not use this machine's accelerators
    # runtime.start is not called: a plan joins no other processes, and its programs cannot be stored in XLA's cache.
    xla_flags.apply()
    if where.platform == "cpu":
        jax.config.update("jax_num_cpu_devices", where.num_devices)
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # otherwise libtpu refuses a second plan at the same time
    progress = functools.partial(print, file=sys.stderr, flush=True)
    result = plan(config, where, search=not given.microbatch, progress=progress)
    print(json.dumps(result) if given.json else table.table(result))
    return 0 if result["fits"] else 1


def _continue_in_planners_environment(where: topology.Topology) -> int:
    """Replaces this process by the same command in .venv-plan. Returns only if that environment is missing."""
    if PYTHON.exists() and pathlib.Path(sys.prefix).resolve() != PYTHON.parents[1].resolve():
        os.execv(PYTHON, [str(PYTHON), "-m", "srt_jax", "plan", *sys.argv[1:]])
    package = '-e ".[plan]"' if (ROOT / "requirements-plan.txt").exists() else '"srt_jax[plan] @ file://CHECKOUT"'
    return cli.complain(
        f"--topology={where.name} needs compilers that are not installed (5 GB). In {ROOT}:\n"
        f"    python3.12 -m venv .venv-plan\n    .venv-plan/bin/python -m pip install {package}"
    )


if __name__ == "__main__":
    cli.define_config("Experiment: a file or a shipped name, arguments after a colon.")
    flags.DEFINE_string("topology", None, f"Devices to compile for, e.g. {topology.EXAMPLES}.")
    flags.DEFINE_bool("json", False, "One JSON object instead of a table.")
    flags.DEFINE_integer(
        "microbatch",
        None,
        "Sequences of a micro-batch. By default the command searches for the largest that fits.",
        lower_bound=1,
    )
    cli.run(main)
