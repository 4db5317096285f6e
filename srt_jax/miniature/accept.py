"""Checks that study bases make errors as often as designed. Read its table before any study.

    python -m srt_jax.miniature.accept cache/rival cache/rival-seed1 cache/rival-seed2

It samples 16 solutions of each of 1,024 problems (all held-out ones and the first ones of train.jsonl). For each class
of problems it compares the shares of right answers and of rival answers with the design, whose shares are computed by
enumeration. It also checks that the label accuracy of 16 votes is in the base's range. The exit status is 1 if a base
misses its design.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from srt_jax.files import read_json_object
from srt_jax.miniature import bases, task
from srt_jax.reward.votes import majority

PROBLEMS, VOTES = 1024, 16
TOLERANCE = 0.05  # largest difference from the design of a class's shares of right answers and of rival answers
BARE_FACTOR = 2.0  # the share of bare boxes lies between design / BARE_FACTOR and design * BARE_FACTOR
LABEL_ACCURACY = {"rival": (0.6, 0.9), "scatter": (0.85, 1.0), "attractor": (0.85, 1.0)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One class of problems.

    problems: their number. right, rival: shares of right answers and of rival answers among the samples. right_design,
    rival_design: these shares by design. label_accuracy: share of problems whose vote is right. All shares lie in
    [0, 1].
    """

    name: str
    problems: int
    right: float
    right_design: float
    rival: float
    rival_design: float
    label_accuracy: float

    def passes(self, base: bases.Base) -> bool:
        """Are the shares of right answers and of rival answers as designed?"""
        if abs(self.right - self.right_design) > TOLERANCE or abs(self.rival - self.rival_design) > TOLERANCE:
            return False
        return not base.bare_share or 1 / BARE_FACTOR <= self.rival / self.rival_design <= BARE_FACTOR


def rows(base: bases.Base, sums: Sequence[Sequence[int]], answers: Sequence[Sequence[str | None]]) -> list[Row]:
    """One row per class, and a last row for all problems.

    sums [P]: the terms of each problem. answers [P][n]: texts, None for a sample without an answer.
    """
    names = [bases.class_of(base, terms) for terms in sums]
    figures = np.array([_figures(base, terms, row) for terms, row in zip(sums, answers)])
    chosen = {name: [i for i, other in enumerate(names) if other == name] for name in sorted(set(names))}
    chosen["all"] = list(range(len(names)))
    return [Row(name, len(members), *figures[members].mean(0).tolist()) for name, members in chosen.items()]


def _figures(base: bases.Base, terms: Sequence[int], answers: Sequence[str | None]) -> list[float]:
    """[right, right by design, rival, rival by design, is the vote right?] of one problem, as shares in [0, 1]."""
    design, right, rival = bases.answer_distribution(base, terms), str(sum(terms)), bases.rival_of(base, terms)
    groups = [-1 if a is None else sorted(set(filter(None, answers))).index(a) for a in answers]
    return [
        float(np.mean([answer == right for answer in answers])),
        design.get(sum(terms), 0.0),
        float(np.mean([answer == str(rival) for answer in answers])),
        design.get(rival, 0.0),
        float(majority(answers, groups).label == right),
    ]


def accepted(base: bases.Base, found: Sequence[Row]) -> bool:
    """Are all classes as designed, and is the label accuracy in the base's range?"""
    low, high = LABEL_ACCURACY[base.name]
    return all(row.passes(base) for row in found) and low <= found[-1].label_accuracy <= high


def shown(base: bases.Base, found: Sequence[Row]) -> str:
    """The table as text."""
    low, high = LABEL_ACCURACY[base.name]
    lines = [f"{'class':<26}{'problems':>9}{'right':>8}{'design':>8}{'rival':>8}{'design':>8}{'label acc.':>12}"]
    for row in found:
        lines.append(
            f"{row.name:<26}{row.problems:>9}{row.right:>8.3f}{row.right_design:>8.3f}{row.rival:>8.3f}"
            f"{row.rival_design:>8.3f}{row.label_accuracy:>12.3f}{'' if row.passes(base) else '  MISSED'}"
        )
    lines.append(f"label accuracy at {VOTES} votes: {found[-1].label_accuracy:.3f}, required: {low} to {high}")
    return "\n".join(lines)


def sample_answers(directory: pathlib.Path, sums: Sequence[Sequence[int]]) -> list[list[str | None]]:
    """The answers [P][16] that the base model in `directory` samples at temperature 1, None for no answer."""
    from srt_jax.grading.answers import extract
    from srt_jax.model import sharding, weights
    from srt_jax.rollout.jax.sampler import JaxSampler
    from srt_jax.rollout.sampler import Sampling, problem_seeds

    tokenizer, mesh = task.tokenizer(), sharding.make_mesh()
    graphdef, params, _ = weights.load(directory, "float32", "none", "xla", mesh)
    prompts = tokenizer([task.problem_text(terms) + "=" for terms in sums])["input_ids"]
    seeds = problem_seeds(0, "eval", 0, [task.problem_text(terms) for terms in sums])
    sampler = JaxSampler(graphdef, mesh, [tokenizer.eos_token_id], (task.MAX_PROMPT_TOKENS,), 64)
    sampler.load(params, 0)
    rollouts = sampler.generate(prompts, VOTES, Sampling(task.MAX_RESPONSE_TOKENS), seeds)
    sampler.close()
    texts = ([str(tokenizer.decode(r, skip_special_tokens=True)) for r in row] for row in rollouts.responses())
    return [[answer.text if (answer := extract(text)) else None for text in row] for row in texts]


def main() -> None:
    """Prints a table for each folder. Exits with status 1 if a base misses its design."""
    parser = argparse.ArgumentParser(
        prog="python -m srt_jax.miniature.accept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, help="folders that python -m srt_jax pretrain made")
    folders, made = parser.parse_args().folders, {}
    for folder in folders:
        try:
            made[folder] = bases.BASES[read_json_object(folder / "recipe.json").get("base", "scatter")]
        except (OSError, ValueError, KeyError):
            parser.error(f"{folder} has no base model: make one with python -m srt_jax pretrain --base=NAME.")
    from srt_jax import runtime

    runtime.start(cpu_devices=2)
    verdicts = []
    for folder, base in made.items():
        heldout, train = bases.problem_sets(base)
        sums = (heldout + train)[:PROBLEMS]
        found = rows(base, sums, sample_answers(folder, sums))
        verdicts.append(accepted(base, found))
        print(f"{folder} ({base.name}): {'accepted' if verdicts[-1] else 'NOT accepted'}\n{shown(base, found)}\n")
    sys.exit(0 if all(verdicts) else 1)


if __name__ == "__main__":
    main()
