"""Does a study base make the errors it was designed to make? A table to read before any study.

    python -m srt_jax.miniature.accept cache/rival cache/rival-seed1 cache/rival-seed2

Samples 16 solutions of each of 1,024 problems (all held-out ones and the first of train.jsonl). For every class of
problems it compares the share of right answers and the share of the rival with the design, which is enumerated. It
also compares the label accuracy of 16 votes. Exit status 1 where a base misses its design.
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
TOLERANCE = 0.05  # of a class's share of right answers and of rivals
BARE_FACTOR = 2.0  # the share of bare boxes is at most this many times the design, and at least one such part of it
LABEL_ACCURACY = {"rival": (0.6, 0.9), "scatter": (0.85, 1.0), "attractor": (0.85, 1.0)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One class: its problems, its shares of right answers and of rivals as sampled and by design, its right votes."""

    name: str
    problems: int
    right: float
    right_design: float
    rival: float
    rival_design: float
    label_accuracy: float

    def passes(self, base: bases.Base) -> bool:
        """Are both shares as designed?"""
        if abs(self.right - self.right_design) > TOLERANCE or abs(self.rival - self.rival_design) > TOLERANCE:
            return False
        return not base.bare_share or 1 / BARE_FACTOR <= self.rival / self.rival_design <= BARE_FACTOR


def rows(base: bases.Base, sums: Sequence[Sequence[int]], answers: Sequence[Sequence[str | None]]) -> list[Row]:
    """A row for each class, the last one over all problems. answers [P][n]: texts, None where there is no answer."""
    names = [bases.class_of(base, terms) for terms in sums]
    figures = np.array([_figures(base, terms, row) for terms, row in zip(sums, answers)])
    chosen = {name: [i for i, other in enumerate(names) if other == name] for name in sorted(set(names))}
    chosen["all"] = list(range(len(names)))
    return [Row(name, len(members), *figures[members].mean(0).tolist()) for name, members in chosen.items()]


def _figures(base: bases.Base, terms: Sequence[int], answers: Sequence[str | None]) -> list[float]:
    """[right, right by design, rival, rival by design, vote right] of one problem."""
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
    """Are all classes as designed, and is the label accuracy in the range of the base?"""
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
    lines.append(f"label accuracy at {VOTES} votes: {found[-1].label_accuracy:.3f}, asked {low} to {high}")
    return "\n".join(lines)


def sample_answers(directory: pathlib.Path, sums: Sequence[Sequence[int]]) -> list[list[str | None]]:
    """The answers [P][16] of the base model at temperature 1."""
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
    """Prints a table for each folder."""
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
            parser.error(f"{folder} is no base of python -m srt_jax pretrain: make one with --base=NAME.")
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
