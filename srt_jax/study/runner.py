"""Makes the runs that are missing in a study's table, one after another in this process.

Runs of the same shape are neighbours, and compiled programs are cached in cache/xla. Only the first run of a shape
waits for the compiler.
"""

import datetime
import pathlib
import resource
import subprocess
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

import srt_jax
from srt_jax.config import policy_samples, run_directory, votes_per_prompt
from srt_jax.config.levels import level_configs
from srt_jax.config.validation import validate
from srt_jax.errors import ConfigError
from srt_jax.log import logger
from srt_jax.run.metrics_log import read_metrics
from srt_jax.study import table
from srt_jax.study.spec import Need, PlannedRun, Study, planned


def missing(
    study: Study,
    path: pathlib.Path,
    shard: tuple[int, int] = (0, 1),
    arms: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> list[PlannedRun]:
    """The planned runs of a study that have no rows in the table at `path`.

    shard (i, N): only the planned runs i, i + N, i + 2N, ..., counted from 0. arms, settings: only these; (): all.
    Raises ConfigError if the study does not have one of them.
    """
    for kind, known, wanted in (("arm", study.arms, arms), ("setting", study.settings, settings)):
        for name in wanted:
            if name not in known:
                raise ConfigError(f"study {study.name} has no {kind} {name!r}: give some of {', '.join(known)}.")
    done = {(row["key"], row["arm"], row.get("setting", ""), row["seed"]) for row in table.read(path)}
    return [
        run
        for run in planned(study)[shard[0] :: shard[1]]
        if (run.key, run.arm, run.setting, run.seed) not in done
        and run.arm in (arms or study.arms)
        and run.setting in (settings or study.settings)
    ]


def rows_of(study: Study, path: pathlib.Path) -> list[table.Row]:
    """The rows of the table at `path` that belong to a planned run. Rows of runs no longer planned are left out."""
    wanted = {(run.key, run.arm, run.setting, run.seed) for run in planned(study)}
    return [row for row in table.read(path) if (row["key"], row["arm"], row.get("setting", ""), row["seed"]) in wanted]


def make_runs(
    study: Study,
    path: pathlib.Path,
    shard: tuple[int, int] = (0, 1),
    arms: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> None:
    """Makes the missing runs of a shard and adds their rows to the table at `path`.

    shard, arms, settings: as for `missing`. All configs are checked before the first run. Raises ConfigError if a
    config is wrong or a needed job fails, DataError if the table is damaged, and TrainingStoppedError if a signal stops
    a run. The next call continues that run.
    """
    runs = missing(study, path, shard, arms, settings)
    for run in runs:
        validate(run.config)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # cache small programs, too
    for number, run in enumerate(runs, 1):
        for need in run.needs:
            provide(need)
        logger.info(f"run {number} of {len(runs)}: {run.name}")
        before = cpu_seconds()
        records = records_of(run.config)
        prompts = run.config.batch.prompts_per_step
        drawn = prompts * policy_samples(run.config), prompts * votes_per_prompt(run.config.batch)
        found = table.rows_of_run(records, drawn[0], run.teacher_responses, drawn[1])
        about: dict[str, str | float] = {
            "key": run.key,
            "arm": run.arm,
            "setting": run.setting,
            "seed": run.seed,
            "commit": commit(),
            "finished": datetime.datetime.now().isoformat(timespec="seconds"),
            table.CPU: round(cpu_seconds() - before, 1),
        }
        table.add(path, [about | row for row in found])


def records_of(config: ConfigDict) -> list[dict]:
    """Makes a run. Returns its metrics by step. The steps of levels are counted from the first level on."""
    from srt_jax.levels import train_levels
    from srt_jax.train import train

    if not config.levels:
        train(config)
        return read_metrics(run_directory(config))
    train_levels(config)
    found, before = [], 0
    for level in level_configs(config):
        found += [record | {"step": record["step"] + before} for record in read_metrics(run_directory(level))]
        before += level.steps
    return found


def provide(need: Need) -> None:
    """Makes a file or folder, unless it exists. Raises ConfigError if the job that makes it fails.

    If several processes need it, one makes it and the others wait.
    """
    path = pathlib.Path(need.path)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with table.locked(path):
        if path.exists():
            return
        logger.info(f"making {need.path}")
        if callable(need.job):
            need.job(path)
            return
        done = subprocess.run([sys.executable, "-m", "srt_jax", *need.job], check=False)
    if done.returncode:
        raise ConfigError(
            f"{need.path} could not be made: python -m srt_jax {' '.join(need.job)} ended with status "
            f"{done.returncode}. Correct the error that it printed above."
        )


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    found = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def commit() -> str:
    """The commit of the code, followed by + if files differ from it. "" outside of a repository."""
    folder = pathlib.Path(srt_jax.__file__).parent
    found = _git("-C", str(folder), "rev-parse", "--short=10", "HEAD")
    changed = _git("-C", str(folder), "status", "--porcelain", "--untracked-files=no", "--", ".")
    return found + "+" * bool(found and changed)


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], check=False, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git on this machine
        return ""


def commits(rows: Sequence[table.Row]) -> list[str]:
    """The distinct commits of the rows, in order of first appearance."""
    return list(dict.fromkeys(str(row["commit"]) for row in rows if "commit" in row))
