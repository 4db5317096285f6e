"""Reads the text of a compiled program (HLO) and counts its collectives, multiplied by the trip counts of loops.

XLA's own cost analysis counts the body of a loop once and returns nothing for GPUs. `Program` walks the computations
from the entry instead. It counts the body of a `while` once per iteration. It counts every other called computation
once per call, and all branches of a conditional.
"""

import collections
import dataclasses
import math
import re

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
BITS = {"pred": 8, "token": 0, "opaque": 0}  # element types without a number of bits in their name


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO. `shape` is text, `operands` are names, `attributes` is the text after the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # the text between the parentheses

    def attribute(self, key: str) -> str | None:
        """The name of the computation in `key=%name`; None where the attribute is missing."""
        found = re.search(rf"\b{key}=%?([\w.-]+)", self.attributes)
        return found.group(1) if found else None

    @property
    def op_name(self) -> str:
        """The place in the Python program that made it, e.g. "jit(update)/while/body/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


class Program:
    """The computations of a compiled module, and how often each runs.

    trips(program, loop) -> int gives the trip count of a `while` loop that runs until some data say stop. Raises
    ValueError for such a loop if `trips` is None.
    """

    def __init__(self, text: str, trips=None):
        self.computations, self.entry = _parse(text)
        self.trips = trips
        self.runs = collections.Counter()  # computation -> times it runs
        self._walk(self.entry, 1)

    def collective_bytes(self) -> dict[str, int]:
        """Bytes of the results of all collectives on one device, by kind."""
        total = collections.Counter()
        for kind, shape, runs in self._collectives():
            total[kind] += runs * size(shape)
        return dict(total)

    def collective_calls(self) -> dict[str, int]:
        """Number of collectives that one device takes part in, by kind."""
        total = collections.Counter()
        for kind, _, runs in self._collectives():
            total[kind] += runs
        return dict(total)

    def has_loop(self, loop: Instruction) -> bool:
        """Tells whether the body of this loop, or a computation that it calls, contains another loop."""
        seen, left = set(), [loop.attribute("body")]
        while left:
            name = left.pop()
            for instruction in self.computations[name].values() if name not in seen else ():
                if instruction.opcode == "while":
                    return True
                left += [c for c in (instruction.attribute("calls"), instruction.attribute("to_apply")) if c]
            seen.add(name)
        return False

    def _walk(self, name: str, runs: int) -> None:
        self.runs[name] += runs
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                self._walk(instruction.attribute("body"), runs * self._trip_count(instruction))
            elif instruction.opcode == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
                branches = (
                    re.findall(r"%?([\w.-]+)", listed.group(1))
                    if listed
                    else [instruction.attribute("true_computation"), instruction.attribute("false_computation")]
                )
                for branch in branches:
                    self._walk(branch, runs)
            elif instruction.opcode in ("fusion", "call", "async-start", "call-start"):
                called = instruction.attribute("calls") or instruction.attribute("to_apply")
                if called:
                    self._walk(called, runs)

    def _trip_count(self, loop: Instruction) -> int:
        known = self._known_trip_count(loop)
        if known is None and self.trips is None:
            raise ValueError(f"the trip count of the loop {loop.name} ({loop.op_name}) is not known.")
        return self.trips(self, loop) if known is None else known

    def _known_trip_count(self, loop: Instruction) -> int | None:
        """The trip count that XLA wrote down, else the bound of the condition over the step of the body.

        A loop counts from 0. None where the trip count depends on data.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        outer = condition = self.computations[loop.attribute("condition")]
        kernel = root = _root(condition)
        if root.opcode == "fusion":  # the comparison and its constant are inside a kernel
            condition = self.computations[root.attribute("calls")]
            root = _root(condition)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        counter, bound = (condition.get(operand) for operand in root.operands)
        if bound is None or bound.opcode != "constant" or counter is None:
            return None
        if counter.opcode == "parameter" and kernel is not root:
            counter = outer[kernel.operands[int(counter.literal)]]
        index = re.search(r"index=(\d+)", counter.attributes)
        step = index and self._step(self.computations[loop.attribute("body")], int(index.group(1)))
        return -(-int(bound.literal) // step) if step else None

    def _step(self, body: dict[str, Instruction], index: int) -> int | None:
        """The number that a loop's body adds to element `index` of its state: 2 where the compiler unrolled by two."""
        new = body.get(_root(body).operands[index])
        while new is not None and new.opcode in ("copy", "bitcast"):
            new = body.get(new.operands[0])
        if new is not None and new.opcode == "fusion":
            body = self.computations[new.attribute("calls")]
            new = _root(body)
        if new is None or new.opcode != "add":
            return None
        added = [int(body[o].literal) for o in new.operands if o in body and body[o].opcode == "constant"]
        return added[0] if added else None

    def _collectives(self):
        """(kind, shape of the result, times it runs) of every collective.

        An asynchronous collective counts at its end, where its result is. TPU compilers write a reduce-scatter as a
        kernel that slices the result of an all-reduce.
        """
        for name, runs in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = instruction.opcode.removesuffix("-done")
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    yield "reduce-scatter", _root(computation).shape, runs
                elif kind in COLLECTIVES:
                    yield kind, instruction.shape, runs


def size(shape: str) -> int:
    """Bytes of a shape, or of all arrays in a tuple of shapes."""
    return sum(_array_bytes(kind, dims) for kind, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape))


def _root(computation: dict[str, Instruction]) -> Instruction:
    return list(computation.values())[-1]


def _array_bytes(kind: str, dims: str) -> int:
    bits = BITS.get(kind) if kind in BITS else int(re.search(r"\d+", kind).group()) if re.search(r"\d", kind) else 0
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


def _parse(text: str):
    """({computation: {instruction name: Instruction}}, name of the entry)."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line)
            if header and "->" in line:
                current = computations.setdefault(header.group(2), {})
                entry = header.group(2) if header.group(1) else entry
            continue
        named = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
        opcode = named and re.search(r" ([a-z][\w-]*)\(", line[named.end() - 1 :])
        if not opcode or current is None:
            continue
        start = named.end() - 1 + opcode.end()
        end = _closing(line, start)
        arguments = line[start:end]
        current[named.group(1)] = Instruction(
            named.group(1),
            line[named.end() : named.end() - 1 + opcode.start()],
            opcode.group(1),
            tuple(re.findall(r"%([\w.-]+)", arguments)),
            line[end + 1 :],
            arguments,
        )
    return computations, entry


def _closing(line: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start` - 1."""
    depth = 1
    for i in range(start, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line)
