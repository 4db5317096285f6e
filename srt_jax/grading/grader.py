"""The grader: equivalence groups for votes, directed comparison with gold answers, Reasoning Gym's scorers.

Canonical keys decide nearly all comparisons in the calling process. Worker processes prove the remaining ones: pairs of
expressions with close numerical values and different keys, of a kind where equal expressions may have different keys.
If a proof times out or crashes, the answers count as different, and `metrics` reports it.
"""

import cmath
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from srt_jax.grading.algebra import Algebra, render
from srt_jax.grading.canonical import cached_read, key
from srt_jax.grading.compare import matches
from srt_jax.grading.expression import POINTS, close, exact, fingerprint
from srt_jax.grading.parse import Tree
from srt_jax.grading.pool import SKIPPED, Pool
from srt_jax.grading.shape import MAX_LENGTH, MAX_MATH, Leaf, Read

Pair = tuple[str, str, str]  # (domain of the symbols: "real" | "positive", leaf key, leaf key)
MATCHES = ("equivalent", "string")
TRUTHS = ("verify", "math_verify")
PROOF_ROUNDS = 2  # `grade` counts a comparison that needs further proofs after these rounds as wrong
MAX_CANDIDATES = 2_000  # proofs for the answers to one problem; no budget is long enough for more
NEIGHBOURS = 20  # leaves are sorted by value, and each is compared with this many of the next ones
CACHE_VERSION = 1
GYM_PATIENCE = 5  # a scorer may take this many times `timeout`, because some scorers rebuild their puzzle
ENGINE_BUDGET = 120.0  # seconds for all of math-verify's comparisons in one call
SELF_TEST_SECONDS = 60.0  # for a comparison of the self-test, and for all of them
MAX_REMEMBERED = 100_000  # cached verdicts of math-verify; more clear the cache
GYM_BUDGET = 120.0  # seconds for all scores in one call; long, because a skipped score becomes 0 without an error


class Grader:
    """Grades answers. A context manager; usable from any thread, inside an event loop and in a forked child.

    workers: number of processes for proofs and gym scorers. They start when they are first needed.
    match: how `groups` compares answers: "equivalent", or "string" for equal stripped texts.
    timeout: seconds for one proof or one comparison of math-verify.
    memory_mb: address space of a worker, in MiB.
    cache_path: JSONL file of proofs. It is read at the start and appended to. Several runs may share it.
    budget: seconds after which one call of `groups` starts no further proof. A proof that runs then still has its
      `timeout`, which may be longer. `grade` has this budget in each of two rounds.
    truth: how `grade` compares with known answers: "verify", or "math_verify" for that package, which must be
      installed and runs in isolated workers.
    """

    def __init__(
        self,
        workers: int = 2,
        match: str = "equivalent",
        timeout: float = 1.0,
        memory_mb: int = 1024,
        cache_path: str | os.PathLike | None = None,
        budget: float = 3.0,
        truth: str = "verify",
    ):
        if match not in MATCHES:
            raise ValueError(f"match is {match!r}; use one of {', '.join(MATCHES)}")
        if truth not in TRUTHS:
            raise ValueError(f"truth is {truth!r}; use one of {', '.join(TRUTHS)}")
        if workers < 1:
            raise ValueError(f"workers is {workers}; set it to at least 1")
        self.match, self.timeout, self.budget = match, timeout, budget
        self.truth = truth
        self._pool = Pool(workers, memory_mb)
        self._isolated = Pool(workers, memory_mb, isolated=True)  # for math-verify
        self._engine_verdicts: dict[tuple[str, str], bool] = {}
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._proofs: dict[Pair, bool] = {}
        self._cache_path = Path(cache_path) if cache_path else None
        self._load_cache()

    # --- votes and known answers --------------------------------------------------------------------------------------
    def groups(self, problems: Sequence[Sequence[str | None]], match: str | None = None) -> list[list[int]]:
        """For each problem, the group number of each of its answers, numbered by first appearance.

        An answer that cannot be parsed gets -1: None, a blank answer, and for `equivalent` also an answer of only
        layout commands or of more than 10,000 characters.
        match: `equivalent` or `string`; None takes the grader's own `match`.
        """
        started = time.monotonic()
        if (match or self.match) == "string":
            keys = [[a.strip() if a and a.strip() else None for a in answers] for answers in problems]
        else:
            keys = self._keys([[self._read(a) for a in answers] for answers in problems])
        out = []
        for problem in keys:
            ids: dict[str, int] = {}
            out.append([-1 if k is None else ids.setdefault(k, len(ids)) for k in problem])
        self._seconds += time.monotonic() - started
        return out

    def same(self, answers: Sequence[str | None], labels: Sequence[str | None]) -> list[bool]:
        """Tells whether `groups` puts each answer into its label's group. False if one of the two cannot be parsed."""
        _same_length(answers, labels, "answers", "labels")
        return [a == b >= 0 for a, b in self.groups(list(zip(answers, labels)))]

    def grade(self, predictions: Sequence[str | None], golds: Sequence[str], truth: str | None = None) -> list[bool]:
        """Tells whether each prediction is right, within the tolerances of docs/grading.md. None and '' are wrong.

        truth: `verify` or `math_verify`; None takes the grader's own `truth`.
        """
        _same_length(predictions, golds, "predictions", "golds")
        started = time.monotonic()
        if (truth or self.truth) == "math_verify":
            verdicts = self._math_verify(predictions, golds)
            self._counts["graded"] += len(verdicts)
            self._seconds += time.monotonic() - started
            return verdicts
        cases = [(self._read(p), self._read(g)) for p, g in zip(predictions, golds)]
        verdicts = [False] * len(cases)
        undecided = [i for i, (p, g) in enumerate(cases) if p is not None and g is not None]
        for last in [False] * PROOF_ROUNDS + [True]:
            wanted: dict[Pair, tuple[Tree, Tree]] = {}
            undecided = [i for i in undecided if self._grade_one(i, cases[i], verdicts, wanted, last)]
            if not undecided:
                break
            self._prove(wanted)
        self._counts["graded"] += len(cases)
        self._seconds += time.monotonic() - started
        return verdicts

    def _grade_one(self, index: int, case: tuple, verdicts: list[bool], wanted: dict, last: bool) -> bool:
        """Sets verdicts[index], and assumes that every missing proof succeeds. Returns whether it assumed any.

        The assumed proofs are added to `wanted`. In the last round missing proofs count as failed.
        """
        asked: dict[Pair, tuple[Tree, Tree]] = {}

        def prove(a: Tree, b: Tree) -> bool:
            pair = _pair("positive", _leaf_key(a), _leaf_key(b))
            if pair in self._proofs or last:
                return self._proofs.get(pair, False)
            asked[pair] = (a, b)
            return True

        prediction, gold = case
        verdicts[index] = matches(prediction, gold, prove)
        if verdicts[index]:
            wanted.update(asked)
        return verdicts[index] and bool(asked)

    def _math_verify(self, predictions: Sequence[str | None], golds: Sequence[str]) -> list[bool]:
        """math-verify's verdicts, from isolated workers.

        An answer that is too long, times out or was not compared within the budget counts as wrong.
        """
        pairs = [((p or "").strip(), (g or "").strip()) for p, g in zip(predictions, golds)]
        fit = [pair for pair in dict.fromkeys(pairs) if all(0 < len(text) <= MAX_MATH for text in pair)]
        new = [pair for pair in fit if pair not in self._engine_verdicts]
        tasks = [{"op": "math_verify", "prediction": p, "gold": g} for p, g in new]
        values = self._isolated.run(tasks, self.timeout, ENGINE_BUDGET)
        self._engine_verdicts.update((pair, bool(value)) for pair, value in zip(new, values) if value is not SKIPPED)
        verdicts = [self._engine_verdicts.get(pair, False) for pair in pairs]
        if len(self._engine_verdicts) > MAX_REMEMBERED:
            self._engine_verdicts.clear()
        return verdicts

    @property
    def network(self) -> str:
        """How the network is closed to math-verify's workers: "namespace" or "blocked"; "" before one has started."""
        return self._isolated.network

    def grade_gym(self, answers: Sequence[str | None], entries: Sequence[dict]) -> list[float]:
        """Scores in [0, 1] of Reasoning Gym's own scorers, which run in the workers.

        The score is 0.0 for None and blank answers, and for a scorer that fails or hangs. An entry is
        {"task": data set name, "config": its configuration, "entry": {"question", "answer", "metadata"}}.
        """
        _same_length(answers, entries, "answers", "entries")
        started = time.monotonic()
        asked = [i for i, answer in enumerate(answers) if answer and answer.strip() and len(answer) <= MAX_LENGTH]
        unique: dict[str, list[int]] = {}
        tasks = []
        for i in asked:
            task = {name: entries[i][name] for name in ("task", "config", "entry")}
            task |= {"op": "gym", "answer": answers[i]}
            same = unique.setdefault(json.dumps(task, sort_keys=True, default=str), [])
            if not same:
                tasks.append(task)
            same.append(i)
        scores = [0.0] * len(answers)
        for positions, value in zip(unique.values(), self._pool.run(tasks, GYM_PATIENCE * self.timeout, GYM_BUDGET)):
            for i in positions:
                scores[i] = 0.0 if value is SKIPPED else float(value or 0.0)
        self._counts["graded"] += len(answers)
        self._seconds += time.monotonic() - started
        return scores

    # --- equivalence --------------------------------------------------------------------------------------------------
    def _read(self, answer: str | None) -> Read | None:
        if not answer or len(answer) > MAX_LENGTH:
            return None
        reading = cached_read(answer)
        return None if reading.shape == ("text", "", ()) else reading

    def _keys(self, problems: list[list[Read | None]]) -> list[list[str | None]]:
        """The keys of the answers. Leaves of one problem that are proved equal have the same key."""
        leaves = [_leaves(readings) for readings in problems]
        candidates = [_candidates(found) for found in leaves]
        self._prove({
            _pair("real", a, b): (found[a].tree, found[b].tree)
            for found, pairs in zip(leaves, candidates)
            for a, b in pairs
        })  # fmt: skip
        out = []
        for readings, pairs in zip(problems, candidates):
            classes = _classes(pair for pair in pairs if self._proofs.get(_pair("real", *pair), False))
            out.append([None if r is None else key(r.shape, classes) for r in readings])
        return out

    def _prove(self, wanted: dict[Pair, tuple[Tree, Tree]]) -> None:
        """Decides the pairs that have no verdict yet. A pair that cannot be proved in time counts as different."""
        new = {pair: trees for pair, trees in wanted.items() if pair not in self._proofs}
        self._counts["cache_hits"] += len(wanted) - len(new)
        self._counts["symbolic_checks"] += len(new)
        tasks = [{"op": "equal", "a": a, "b": b, "positive": pair[0] == "positive"} for pair, (a, b) in new.items()]
        values = self._pool.run(tasks, self.timeout, self.budget)
        tried = [(pair, value) for pair, value in zip(new, values) if value is not SKIPPED]
        self._proofs.update((pair, bool(value)) for pair, value in tried)
        if self._cache_path is not None:
            self._append_cache((pair, value) for pair, value in tried if value is not None)

    def _load_cache(self) -> None:
        if self._cache_path is None or not self._cache_path.exists():
            return
        with open(self._cache_path, encoding="ascii", errors="replace") as lines:
            for line in lines:
                try:
                    version, *pair, value = json.loads(line)
                except (ValueError, TypeError, RecursionError):  # the process was killed while it wrote this line
                    continue
                if version == CACHE_VERSION and [type(part) for part in pair] == [str] * 3 and type(value) is bool:
                    self._proofs[tuple(pair)] = value

    def _append_cache(self, decided: Iterable[tuple[Pair, bool]]) -> None:
        lines = "".join(json.dumps([CACHE_VERSION, *pair, value]) + "\n" for pair, value in decided)
        if lines:
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._cache_path, "a", encoding="ascii") as file:
                file.write(lines)

    # --- counters, self-test and life cycle ---------------------------------------------------------------------------
    def metrics(self) -> dict[str, float]:
        """The counters since the last call of `metrics`, for the log.

        graded: answers in `grade` and `grade_gym`. symbolic_checks, cache_hits: pairs sent to a proof, and pairs with a
        cached proof. timeouts, crashes, errors, skipped (the budget was spent): tasks of workers without a result.
        restarts: replaced workers. seconds: wall-clock time in all calls.
        """
        counts, pool = self._counts, self._pool.counts + self._isolated.counts
        self._counts, self._pool.counts, self._isolated.counts = Counter(), Counter(), Counter()
        seconds, self._seconds = self._seconds, 0.0
        return {
            "graded": float(counts["graded"]),
            "symbolic_checks": float(counts["symbolic_checks"]),
            "cache_hits": float(counts["cache_hits"]),
            **{name: float(pool[name]) for name in ("timeouts", "crashes", "errors", "skipped", "restarts")},
            "seconds": seconds,
        }

    def self_test(self) -> None:
        """Grades answers with known verdicts, also in the workers. Raises RuntimeError if a verdict is wrong.

        Training with a broken grader would be useless. The time limits are longer than in training: a busy machine is
        no fault.
        """
        limits = self.timeout, self.budget
        self.timeout, self.budget = max(self.timeout, SELF_TEST_SECONDS), max(self.budget, SELF_TEST_SECONDS)
        try:
            self._check_verdicts()
        finally:
            self.timeout, self.budget = limits
        self.metrics()  # resets the counters: the self-test does not belong in a log

    def _check_verdicts(self) -> None:
        for answers, expected in SELF_TEST_GROUPS:
            if self.match == "equivalent" and (ids := self.groups([answers])[0]) != expected:
                raise RuntimeError(f"the grader groups {answers} as {ids} and not as {expected}; run tests/grading")
        predictions, golds, expected = zip(*(SELF_TEST_GRADES if self.truth == "verify" else ENGINE_SELF_TEST))
        verdicts = self.grade(predictions, golds)
        wrong = [f"{p} for {g}" for p, g, e, v in zip(predictions, golds, expected, verdicts) if e != v]
        if wrong:
            raise RuntimeError(f"the grader misjudges {'; '.join(wrong)}; run tests/grading")

    @contextlib.contextmanager
    def abandoned(self) -> Iterator[None]:
        """During the block, calls in other threads that wait for workers raise pool.AbandonedError."""
        with self._pool.abandoned(), self._isolated.abandoned():
            yield

    def close(self) -> None:
        """Stops the workers. They start again if the grader is used again."""
        self._pool.close()
        self._isolated.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


SELF_TEST_GROUPS = [
    (["\\frac12", "0.5", "1/2", "50\\%", None, " ", "0.50"], [0, 0, 0, 1, -1, -1, 0]),
    (["\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}", "2.414213562"], [0, 0, 1]),  # this needs a worker
    (["(1,2)", "2,1", "\\{1,2\\}"], [0, 1, 1]),
]
ENGINE_SELF_TEST = [("\\frac{1}{2}", "0.5", True), ("x+1", "1+x", True), ("7", "8", False)]
SELF_TEST_GRADES = [
    ("50\\%", "0.5", True),
    ("1,234 \\text{ cm}", "1234", True),
    ("(2,1)", "(1,2)", False),
    ("7", "8", False),
]


def _same_length(a: Sequence, b: Sequence, first: str, second: str) -> None:
    if len(a) != len(b):
        raise ValueError(f"there are {len(a)} {first} but {len(b)} {second}; give two lists of equal length")


def _pair(mode: str, a: str, b: str) -> Pair:
    return (mode, a, b) if a < b else (mode, b, a)


def _leaf_key(tree: Tree) -> str:
    return render(exact(tree, Algebra()))


def _leaves(readings: Iterable[Read | None]) -> dict[str, Leaf]:
    return {name: leaf for reading in readings if reading is not None for name, leaf in reading.leaves.items()}


def _candidates(leaves: dict[str, Leaf]) -> list[tuple[str, str]]:
    """Pairs of different leaves that may be equal: not both are complete, and their known values are close."""
    if all(leaf.complete for leaf in leaves.values()):
        return []
    prints = {name: fingerprint(leaf.tree) for name, leaf in leaves.items()}
    found: dict[tuple[str, str], None] = {}
    for point in range(POINTS):  # close values have close absolute values, so they are neighbours in this order
        sizes = sorted((abs(values[point]), name) for name, values in prints.items() if not cmath.isnan(values[point]))
        for i, (size, a) in enumerate(sizes):
            for other, b in sizes[i + 1 : i + 1 + NEIGHBOURS]:
                if not close(size, other) or len(found) >= MAX_CANDIDATES:
                    break
                if not (leaves[a].complete and leaves[b].complete) and may_be_equal(prints[a], prints[b]):
                    found[min(a, b), max(a, b)] = None
    return list(found)


def may_be_equal(a: tuple[complex, ...], b: tuple[complex, ...]) -> bool:
    """Tells whether there is a point where both fingerprints have a value, and they are close at all such points."""
    known = [(x, y) for x, y in zip(a, b) if not (cmath.isnan(x) or cmath.isnan(y))]
    return bool(known) and all(close(x, y) for x, y in known)


def _classes(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """name -> smallest name of its class. Classes are the transitive closure of the proved equalities."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {name: root(name) for name in parent}
