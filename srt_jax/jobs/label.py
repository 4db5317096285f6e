"""Pseudo-labels by a frozen model: samples every problem, votes, and writes one JSON line for each.

    python -m srt_jax label --config=configs/X.py[:args] --out=labels.jsonl [--samples=32] [--config.model.path=DIR]

The model is the config's model.path, with the adapter of model.lora.path if it names one. A PEFT directory as
model.path means its base with this adapter. The problems are the config's data. With labels.source=file and
labels.path=labels.jsonl a run trains on these labels. srt subset and curriculum.path read the scores. The first line
has the provenance. The others have {id, label, vote_share, vote_share_parsed, tie, pass_rate, label_correct, counts,
parse_rate, n}; pass_rate and label_correct are null if no answer is known. After a kill the same command continues
from <out>.partial, which one job at a time may write. Several processes, which must all see the folder of <out>, write
the same file as one. If one of them dies, the others end (run/parent.py).
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from srt_jax import cli, runtime
from srt_jax.config import differing_fields, run_directory
from srt_jax.config.paths import initial_weights
from srt_jax.config.resolve import on_this_machine
from srt_jax.config.validation import validate
from srt_jax.config.versions import FORMAT, migrated
from srt_jax.data import label_file
from srt_jax.data.base import Problem, fingerprint
from srt_jax.errors import DataError, FolderInUseError
from srt_jax.files import check_output_file
from srt_jax.log import logger
from srt_jax.reward.rewards import Graded
from srt_jax.run import interrupt, parent
from srt_jax.run.progress import Progress, SamplerProgress

BATCH = 64  # problems that are sampled together; their rows are then written at once
PACKAGES = ("jax", "numpy", "sympy", "transformers")


def label(config: ConfigDict, out: pathlib.Path, samples: int) -> dict:
    """Writes or continues the label file. Returns its summary (`summarise`).

    Raises ConfigError, DataError or ModelError before sampling, and RolloutError if no server samples.
    """
    from srt_jax.model import peft, weights
    from srt_jax.run import exports
    from srt_jax.run.prepare import encode_source, model_fingerprint, read_model
    from srt_jax.runtime import processes

    config = config.copy_and_resolve_references()
    if peft.is_adapter(config.model.path):
        exports.use(config, config.model.path)
    config, notes = on_this_machine(config, trains=False)
    for note in notes:
        logger.info(note)
    model = read_model(config)
    weights.check(model.directory)
    problems, prompts, line = encode_source("data", config.data, model.tokenizer, config)
    logger.info(line)
    provenance = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                "model": initial_weights(config) or config.model.path,
                "model_fingerprint": model_fingerprint(model),
                "problems": len(problems),
                "data_fingerprint": fingerprint(problems),
                "prompts": config.prompts.to_dict(),
                "samples": samples,
                "temperature": config.rollout.temperature,
                "seed": config.seed,
                "max_response_tokens": config.batch.max_response_tokens,
                "sampler": config.rollout.sampler,
                "dtype": sampling_dtype(config),
                "answer": config.answer.to_dict(),
                "match": config.vote.match,
                "truth": config.eval.match,
                "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
                **({"adapter_fingerprint": peft.fingerprint(model.adapter)} if model.adapter else {}),
            }
        )
    )
    partial = out.with_name(f"{out.name}.partial")
    with contextlib.ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(only_writer(partial, out)))
        done = processes.from_first(lambda: begin(out, partial, provenance))
        if done is None:
            logger.info(f"{out} is complete: nothing to do.")
            return processes.from_first(lambda: summarise(out))
        if done:
            logger.info(f"resuming after {done} of {len(problems)} problems")
        if done < len(problems):
            sample_rows(config, model, problems, prompts, samples, partial, done)
        return processes.from_first(lambda: complete(partial, out))


@contextlib.contextmanager
def only_writer(partial: pathlib.Path, out: pathlib.Path) -> Iterator[None]:
    """Locks `partial` during the block. The kernel releases the lock when this process ends, however it ends.

    Two jobs would add the same rows, and a resumed one, which counts rows, would leave out as many problems. Raises
    FolderInUseError if another job has the lock.
    """
    if out.exists():  # then nothing is written
        yield
        return
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _locked(partial, out):
        try:
            yield
        finally:
            if partial.exists() and not partial.stat().st_size:  # another job has completed `out` meanwhile
                partial.unlink()


def _locked(partial: pathlib.Path, out: pathlib.Path) -> BinaryIO:
    """The file of this name, open and locked. Raises FolderInUseError."""
    while True:
        file = partial.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FolderInUseError(
                f"{out} is written by another srt label: wait for it or stop it, or give another --out."
            ) from None
        except OSError:  # a file system without locks
            return file
        # Between the two calls another job may have removed or renamed the file. Then no other job would see this lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(partial.stat(), os.fstat(file.fileno())):
                return file
        file.close()


def sampling_dtype(config: ConfigDict) -> str:
    """The dtype of sampling. The dtype of servers may differ from the trainer's."""
    served = config.rollout.vllm.dtype if config.rollout.sampler == "vllm" else ""
    return served or config.model.dtype


def begin(out: pathlib.Path, partial: pathlib.Path, provenance: dict) -> int | None:
    """Makes or cuts `partial`. Returns the number of rows in it, which an earlier call wrote in whole batches.

    Returns None if the label file is complete. Raises DataError or FormatError for files of other settings or versions.
    """
    if out.exists():
        check_provenance(out, label_file.read(out)[0], provenance)
        return None
    lines = partial.read_bytes().splitlines(keepends=True) if partial.exists() else []
    if not lines or not lines[0].endswith(b"\n"):
        append(partial, [{"provenance": provenance}], mode="wb")
        return 0
    check_provenance(partial, json.loads(lines[0])["provenance"], provenance)
    whole = sum(line.endswith(b"\n") for line in lines[1:])
    done = whole // BATCH * BATCH
    os.truncate(partial, sum(map(len, lines[: 1 + done])))
    return done


def complete(partial: pathlib.Path, out: pathlib.Path) -> dict:
    """Gives the complete file its name, and returns its summary."""
    summary = summarise(partial)
    partial.rename(out)
    return summary


def check_provenance(path: pathlib.Path, there: dict, here: dict) -> None:
    """Raises DataError if a file was written with other settings, and FormatError if a newer version wrote it."""
    if different := differing_fields(migrated(there, here, path), migrated(here, here, path)):
        raise DataError(
            f"{path} has labels that differ in {'; '.join(different[:5])}: choose another --out, or delete it."
        )


def append(path: pathlib.Path, rows: list[dict], mode: str = "ab") -> None:
    """Writes JSON lines and waits until they are on the disk."""
    with path.open(mode) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def sample_rows(
    config: ConfigDict,
    model,
    problems: list[Problem],
    prompts: list[list[int]],
    samples: int,
    partial: pathlib.Path,
    done: int,
) -> None:
    """Samples and votes on problems[done:], and appends their rows batch by batch."""
    from srt_jax.grading.grader import Grader
    from srt_jax.rollout.sampler import Sampling, problem_seeds
    from srt_jax.run.loading import load_weights, open_mesh, open_sampler
    from srt_jax.run.rollouts import Grading, answer_format, sample_and_grade
    from srt_jax.runtime import processes

    mesh = open_mesh(config)
    graphdef, params = load_weights(config, model, mesh)
    # Another folder than the run's own, because a run of this name may be in progress and export there.
    sampler = open_sampler(config, model, graphdef, mesh, run_directory(config) / "label")
    sampling = Sampling(config.batch.max_response_tokens, config.rollout.temperature)
    with Progress(len(problems), "problem") as progress, contextlib.closing(sampler):
        progress.update(done, "preparing the sampler")
        sampler.load(params, 0)
        sampler.compile(prompts[done:], samples, sampling)
        with Grader(
            config.grader.workers, match=config.vote.match, timeout=config.grader.timeout, truth=config.eval.match
        ) as grader:
            grader.self_test()
            grading, shares = Grading(model.tokenizer, answer_format(config), grader), ""
            while done < len(problems):
                batch = problems[done : done + BATCH]
                graded = sample_and_grade(
                    sampler,
                    grading,
                    batch,
                    prompts[done : done + BATCH],
                    samples,
                    sampling,
                    problem_seeds(config.seed, "label", 0, [p.id for p in batch]),
                    SamplerProgress(progress, done, len(batch), shares),
                ).graded
                rows = list(map(row, batch, graded))
                processes.from_first(functools.partial(append, partial, rows))
                done += len(batch)
                shares = f"share {np.mean([g.vote.share for g in graded]):.3f}"
                progress.update(done, shares)


def row(problem: Problem, graded: Graded) -> dict:
    """The line of one problem."""
    v, n = graded.vote, len(graded.answers)
    known = not np.isnan(graded.true_rewards[0])
    return {
        "id": problem.id,
        "label": v.label,
        "vote_share": v.share,
        "vote_share_parsed": v.share_parsed,
        "tie": v.tie,
        "pass_rate": float(graded.true_rewards.sum()) / n if known else None,
        "label_correct": bool(graded.majority_correct) if known else None,
        "counts": dict(zip(v.representatives, v.counts)),
        "parse_rate": v.parsed / n,
        "n": n,
    }


def summarise(path: pathlib.Path) -> dict:
    """Means over the rows of a label file. pass_rate (avg@n) and label_accuracy (maj@n) need known answers."""
    rows = label_file.read(path)[1].values()
    known = [r for r in rows if r["pass_rate"] is not None]

    def mean(name, of):
        return float(np.mean([r[name] for r in of])) if of else None

    return {
        "problems": len(rows),
        "labelled": sum(r["label"] is not None for r in rows),
        "vote_share": mean("vote_share", rows),
        "vote_share_parsed": mean("vote_share_parsed", rows),
        "parse_rate": mean("parse_rate", rows),
        "pass_rate": mean("pass_rate", known),
        "label_accuracy": mean("label_correct", known),
    }


def main(argv) -> int:
    """Writes the labels, and prints the summary as the last line. Returns 0, or 2 for a mistake in the input."""
    given = flags.FLAGS
    if len(argv) > 1 or not given.config or not given.out:
        return cli.complain("give --config=configs/X.py and --out=FILE, and no bare arguments.")
    if given.samples < 1:
        return cli.complain(f"--samples is {given.samples}: it must be at least 1.")
    validate(given.config)
    check_output_file(given.out)
    out, stop = pathlib.Path(given.out), given.config.stop
    parent.obey()
    if parent.needed():
        job = parent.Job(
            "the labelling",
            out,
            out.with_name(f"{out.name}.processes"),
            "to continue after the last complete batch",
            "give another --out",
        )
        return parent.watch(job, stop.peer_seconds, stop.join_seconds)
    parent.join(given.config)

    def work() -> int:
        summary = label(given.config, out, given.samples)
        if runtime.is_first_process():
            print(json.dumps({"out": given.out, **summary}))
        return 0

    return interrupt.run(work, "interrupted. The same command resumes after the last complete batch.")


if __name__ == "__main__":
    cli.define_config("Experiment: its model labels its data. A file or a shipped name.")
    cli.define_path("out", "The label file.")
    flags.DEFINE_integer("samples", 32, "Samples of each problem, all of which vote.")
    parent.leave_at_once(lambda: cli.run(main))
