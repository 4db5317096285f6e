"""The anchor of the guard: the base's votes on the evaluation prompts. The base is the model that the run starts from.

The votes are drawn once, before step 1, with the sampling settings of evaluations. <run>/guard.json stores them with a
checksum, which each checkpoint records. Known answers are not used.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from srt_jax.data.prompts import EvalSet
from srt_jax.errors import CheckpointError
from srt_jax.files import read_json_object, write_json
from srt_jax.grading.grader import Grader
from srt_jax.reward.measures import answer_keys, information_by_prompt
from srt_jax.reward.rewards import Graded, agrees
from srt_jax.rollout.sampler import Advanced, Sampler, problem_seeds
from srt_jax.run.collapse import CONFIDENT, FEWEST, Reading
from srt_jax.run.evaluation import evaluation_samples
from srt_jax.run.progress import Progress, SamplerProgress
from srt_jax.run.rollouts import Grading, sample_and_grade

FILE = "guard.json"


@dataclasses.dataclass(frozen=True)
class Anchor:
    """The base's votes. rows: for each prompt its set, id, majority and lead, in the order of the evaluation sets.

    lead: the margin of the vote (reward/votes.py).
    """

    rows: list[dict]

    @property
    def checksum(self) -> str:
        """sha256 of the rows."""
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()

    def majorities(self, name: str) -> list[str | None]:
        """The base's majority on each prompt of a set, None where it leads by less than CONFIDENT."""
        return [confident(row["majority"], row["lead"]) for row in self.rows if row["set"] == name]

    def describe(self) -> str:
        """One line for the log: the number of prompts of which the base is sure, and the signals that are left."""
        sure = sum(confident(row["majority"], row["lead"]) is not None for row in self.rows)
        line = f"guard: the base's majority leads by {CONFIDENT} or more on {sure} of {len(self.rows)} prompts"
        if sure >= FEWEST:
            return line
        return (
            f"{line}, fewer than {FEWEST}: the anchored agreement is off, and only the answer information and the "
            "signs in the metrics of steps are left. Evaluate on more or easier prompts to turn it on."
        )


def confident(majority: str | None, lead: float) -> str | None:
    """The majority, None if it leads by less than CONFIDENT."""
    return majority if lead >= CONFIDENT else None


def draw(
    config: ConfigDict, eval_sets: Sequence[EvalSet], sampler: Sampler, grading: Grading, check: Advanced | None = None
) -> Anchor:
    """Samples the votes from the loaded weights. `check` is called as in `evaluate_all`.

    The random numbers depend on (seed, problem, sample), and differ from those of evaluations.
    """
    votes, (_, sampling), rows, before = config.guard.votes, evaluation_samples(config), [], 0
    with Progress(sum(len(s.problems) for s in eval_sets), "guard: votes of the base", percent=True) as progress:
        for eval_set in eval_sets:
            sampler.compile(eval_set.prompts, votes, sampling)
            seeds = problem_seeds(config.seed, "guard", 0, [p.id for p in eval_set.problems])
            size = len(eval_set.problems)
            advanced = SamplerProgress(progress, before, size, eval_set.name, check)
            collected = sample_and_grade(
                sampler, grading, eval_set.problems, eval_set.prompts, votes, sampling, seeds, advanced
            )
            for problem, graded in zip(eval_set.problems, collected.graded, strict=True):
                vote = graded.vote
                rows.append({"set": eval_set.name, "id": problem.id, "majority": vote.label, "lead": vote.margin})
            before += size
    return Anchor(rows)


def fingerprint(identity: dict) -> str:
    """sha256 of a run's identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def write(directory: pathlib.Path, anchor: Anchor, identity: str) -> None:
    """Writes <run>/guard.json. identity: a fingerprint of the run that drew the votes."""
    write_json(directory / FILE, {"sha256": anchor.checksum, "identity": identity, "rows": anchor.rows})


def read(directory: pathlib.Path) -> tuple[Anchor, str] | None:
    """(the stored votes, the fingerprint of the run), None if the file is missing or damaged."""
    try:
        stored = read_json_object(directory / FILE)
        anchor = Anchor(stored["rows"])
        whole = stored["sha256"] == anchor.checksum and isinstance(stored["identity"], str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (anchor, stored["identity"]) if whole else None


def read_again(directory: pathlib.Path, checksum: str | None, eval_sets: Sequence[EvalSet]) -> Anchor:
    """The votes of a run that resumes. checksum: that of its checkpoint, None if the guard was off there.

    Raises CheckpointError if they are not there as the checkpoint records them, or belong to other prompts.
    """
    start_again = f"give the run another name, set guard.action to 'off', or delete {directory} to start again"
    if checksum is None:
        raise CheckpointError(
            f"{directory} has no votes of the base, which the guard draws before step 1 only: {start_again}."
        )
    found = read(directory)
    if found is None or found[0].checksum != checksum:
        fault = "is missing or damaged" if found is None else "is not the one that the checkpoint records"
        raise CheckpointError(f"{directory / FILE} {fault}: restore it from a copy, {start_again}.")
    prompts = [(s.name, p.id) for s in eval_sets for p in s.problems]
    if [(row["set"], row["id"]) for row in found[0].rows] != prompts:
        raise CheckpointError(
            f"{directory / FILE} has the votes of other evaluation prompts: restore the evaluation sets, {start_again}."
        )
    return found[0]


def agreement_by_prompt(majorities: Sequence[str | None], graded: Sequence[Graded], grader: Grader) -> list[float]:
    """For each prompt with a majority, the share of the policy's samples that agree with it.

    majorities [P]: the base's. graded [P]: the policy's samples.
    """
    return [
        float(agrees(found.answers, majority, grader, None).mean())
        for majority, found in zip(majorities, graded, strict=True)
        if majority is not None
    ]


def take_reading(step: int, anchor: Anchor, graded: Mapping[str, Sequence[Graded]], grader: Grader) -> Reading:
    """The reading of an evaluation. graded: {set: graded samples of each problem}, in the order of the sets."""
    together = [one for found in graded.values() for one in found]
    agreement = [
        share for name, found in graded.items() for share in agreement_by_prompt(anchor.majorities(name), found, grader)
    ]
    keys = answer_keys([g.answers for g in together], [g.groups for g in together])
    return Reading(step, np.array(agreement, float), information_by_prompt(keys))


def metrics(reading: Reading, falls: int) -> dict[str, float]:
    """`guard/*` of a reading. falls: the number of readings in a row that have fallen."""
    return {
        "guard/agreement": float(reading.agreement.mean()) if reading.is_anchored else float("nan"),
        "guard/information": float(reading.information.mean()),
        "guard/falls": float(falls),
    }
