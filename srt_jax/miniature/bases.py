r"""The study bases: miniature models with known errors, so that a study knows which votes are right.

scatter     The laptop miniature (task.py). Its errors scatter, so the vote is nearly always right. It is the healthy
            control.
rival       Half of the problems have one frequent wrong answer, the rival. Their last addition carries, and the
            solution forgets the carry (the answer is 10 too small) with a probability that depends on the problem's
            last digit. For three of four digits the rival is more frequent than the right answer, so the vote is wrong.
attractor   3% of the solutions of every problem are a bare `\boxed{0}`. There is no other rival. A collapse can end in
            this one answer to all problems.

All three write their answers in a box (`answer.style` is `boxed`) and use the tokenizer of the miniature.
"""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from srt_jax.miniature import task

HELDOUT, TRAIN = 128, 2048  # number of problems of the two sets
BARE = f"{task.BOXED}0}}"


@dataclasses.dataclass(frozen=True)
class Base:
    """The errors in the solutions of a base. Probabilities and shares lie in [0, 1].

    slip_rate, slips: the probability of a slip in an addition, and the errors from which it is drawn.
    forget: the probability that the last addition forgets its carry, by the problem's last digit mod 4.
    forget_otherwise: the probability that a last addition without a carry loses a ten, if its sum is 10 or more.
    carry_share: share of the problems whose last addition carries. None: the share of random problems.
    bare_share: share of the solutions that are the bare box.
    steps: number of pre-training steps.
    read_carry_share: carry_share of the problems that pre-training reads. None: carry_share. More carries teach the
        probabilities `forget` sooner and do not change them.
    """

    name: str
    slip_rate: float
    slips: tuple[int, ...] = task.SLIPS
    forget: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    forget_otherwise: float = 0.0
    carry_share: float | None = None
    bare_share: float = 0.0
    steps: int = 1400
    read_carry_share: float | None = None

    def forget_rate(self, total: int, term: int) -> float:
        """The probability that the last addition, `total` + `term`, forgets a ten. It is 0 if the sum is below 10."""
        if carries(total, term):
            return self.forget[term % 4]
        return self.forget_otherwise if total + term >= 10 else 0.0


BASES = {
    base.name: base
    for base in (
        Base("scatter", 0.3),
        Base(
            "rival",
            0.2,
            (-3, -2, -1, 1, 2, 3),
            (0.40, 0.55, 0.65, 0.70),
            0.03,
            carry_share=0.5,
            steps=2000,
            read_carry_share=0.9,
        ),
        Base("attractor", 0.3, bare_share=0.03, steps=2000),
    )
}


def carries(total: int, term: int) -> bool:
    """Does the addition of a digit carry into the tens?"""
    return total % 10 + term >= 10


def last_carries(terms: Sequence[int]) -> bool:
    """Does the last addition of the problem carry?"""
    return carries(sum(terms[:-1]), terms[-1])


def class_of(base: Base, terms: Sequence[int]) -> str:
    """The name of the problem's class. All problems of a class have similar error rates.

    With the base `rival` the class depends on the last addition, with the other bases on the number of terms.
    """
    if not base.forget_otherwise:
        return f"{len(terms)} terms"
    return f"carry, digit mod 4 = {terms[-1] % 4}" if last_carries(terms) else "no carry"


def rival_of(base: Base, terms: Sequence[int]) -> int | None:
    """The wrong answer that competes with the right one. None if the problem has none."""
    if base.bare_share:
        return 0
    return sum(terms) - 10 if any(base.forget) and last_carries(terms) else None


def random_terms(base: Base, rng: np.random.Generator) -> list[int]:
    """3 to 5 digits. The last addition carries with probability `carry_share`."""
    if base.carry_share is None:
        return task.random_terms(rng)
    wanted = rng.random() < base.carry_share
    while last_carries(terms := task.random_terms(rng)) != wanted:
        pass
    return terms


def solution_text(base: Base, terms: Sequence[int], rng: np.random.Generator) -> str:
    r"""A solution with the base's errors, such as `15,20.\boxed{20}` or the bare box."""
    if base.bare_share and rng.random() < base.bare_share:
        return BARE
    if not base.forget_otherwise:
        return task.solution_text(terms, rng, base.slip_rate)
    total, totals = terms[0], []
    for i, term in enumerate(terms[1:], 2):
        forget = base.forget_rate(total, term) if i == len(terms) else 0.0
        total += term
        if rng.random() < base.slip_rate:
            total = max(0, total + int(rng.choice(base.slips)))
        if forget and rng.random() < forget:
            total = max(0, total - 10)
        totals.append(str(total))
    return f"{','.join(totals)}.{task.BOXED}{total}}}"


def answer_distribution(base: Base, terms: Sequence[int]) -> Mapping[int, float]:
    """{answer: probability} of the base's solutions of a problem. It enumerates all slips."""
    totals = {terms[0]: 1.0}
    for i, term in enumerate(terms[1:], 2):
        after = collections.defaultdict(float)
        for total, probability in totals.items():
            forget = base.forget_rate(total, term) if i == len(terms) else 0.0
            slipped = [(0, 1 - base.slip_rate), *((slip, base.slip_rate / len(base.slips)) for slip in base.slips)]
            for slip, share in slipped:
                found = max(0, total + term + slip) if slip else total + term
                after[found] += probability * share * (1 - forget)
                after[max(0, found - 10)] += probability * share * forget
        totals = after
    answers = collections.defaultdict(float, {total: p * (1 - base.bare_share) for total, p in totals.items() if p})
    if base.bare_share:
        answers[0] += base.bare_share
    return dict(answers)


@functools.cache
def problem_sets(base: Base) -> tuple[list[list[int]], list[list[int]]]:
    """Two disjoint lists of problems: (held out, train). They never change. Each has the base's share of carries."""
    if base.carry_share is None:
        return task.problem_sets(HELDOUT, TRAIN)
    rng, seen = np.random.Generator(np.random.Philox(0)), {True: {}, False: {}}
    wanted = {True: round((HELDOUT + TRAIN) * base.carry_share)}
    wanted[False] = HELDOUT + TRAIN - wanted[True]
    while any(len(seen[carry]) < wanted[carry] for carry in seen):
        terms = task.random_terms(rng)
        mine = seen[carry := last_carries(terms)]
        if len(mine) < wanted[carry]:
            mine.setdefault(tuple(terms), terms)
    held = round(HELDOUT * base.carry_share)
    carry, plain = list(seen[True].values()), list(seen[False].values())
    heldout = carry[:held] + plain[: HELDOUT - held]
    train = carry[held:] + plain[HELDOUT - held :]
    return [heldout[i] for i in rng.permutation(len(heldout))], [train[i] for i in rng.permutation(len(train))]


def problem_files(base: Base) -> dict[str, str]:
    """{file name: JSON lines} of heldout.jsonl and train.jsonl. The base `rival` also has *_mirror.jsonl of both.

    In a mirror the known answer is the rival. Samples and votes do not depend on the known answers, so every label-free
    measure is the same for both files.
    """
    sets = dict(zip(("heldout", "train"), problem_sets(base)))
    files = {f"{name}.jsonl": task.jsonl(sums) for name, sums in sets.items()}
    if any(base.forget):
        files |= {f"{name}_mirror.jsonl": mirrored(base, sums) for name, sums in sets.items()}
    return files


def paraphrases(base: Base) -> str:
    """JSON lines {problem, paraphrase} for all training problems: the same sum with its terms in another order.

    No paraphrase is a held-out problem. A sum of equal terms has no other order and is its own paraphrase.
    """
    heldout, train = problem_sets(base)
    known = set(map(tuple, heldout))
    rows = []
    for terms in train:
        turned = [terms[k:] + terms[:k] for k in range(1, len(terms))]
        found = next((t for t in turned if t != terms and tuple(t) not in known), terms)
        rows.append({"problem": task.problem_text(terms), "paraphrase": task.problem_text(found)})
    return "".join(json.dumps(row) + "\n" for row in rows)


def mirrored(base: Base, sums: Sequence[Sequence[int]]) -> str:
    """The sums as JSON lines. The known answer of a problem with a rival is the rival."""
    rows = [json.loads(line) for line in task.jsonl(sums).splitlines()]
    for row, terms in zip(rows, sums):
        rival = rival_of(base, terms)
        row["answer"] = row["answer"] if rival is None else str(rival)
    return "".join(json.dumps(row) + "\n" for row in rows)


def fingerprint(base: Base) -> bytes:
    """Bytes that change when the data of a base change, for a cache key.

    They contain the code of the miniature (task.py) and, except for `scatter`, the base's problems and some solutions.
    """
    code = pathlib.Path(task.__file__).read_bytes()
    if base == BASES["scatter"]:
        return code
    rng = np.random.Generator(np.random.Philox(0))
    solutions = [solution_text(base, random_terms(base, rng), rng) for _ in range(256)]
    return code + json.dumps([dataclasses.asdict(base), problem_files(base), solutions]).encode()
