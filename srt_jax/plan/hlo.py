"""Reads compiled HLO text: bytes that collectives and memory move, with the trip counts of loops multiplied in.

XLA's own cost analysis counts a loop's body once, and is empty for GPUs. Here a program is walked from its entry: a
`while` counts its body as often as it runs, all else that is called counts once (of a conditional, all branches).
"""

import collections
import dataclasses
import math
import re

import numpy as np

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
# What moves no memory by itself. Calls are followed; asynchronous halves count at their end, where the result is.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "async-start",
    "async-update",
    "async-done",
    "call-start",
    "call-update",
    "call-done",
    "copy-start",
    "send",
    "recv",
    "send-done",
    "recv-done",
    "domain",
}
BITS = {"pred": 8, "token": 0, "opaque": 0}
SLICES = ("dynamic-slice", "gather", "slice")
UPDATES = {"dynamic-update-slice": 1, "scatter": -1}  # in place; which operand is written


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line. `shape` is text; `operands` are names; `attributes` is all that follows the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str  # the text between the parentheses

    def attribute(self, key: str) -> str | None:
        """The computation that `key=%name` names."""
        found = re.search(rf"\b{key}=%?([\w.-]+)", self.attributes)
        return found and found.group(1)

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from, e.g. "jit(update)/while/body/dot_general"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


class Program:
    """The computations of a compiled module, and how often each runs.

    trips(program, loop) -> int is asked for the `while` loops whose trip count is data. Raises ValueError for such a
    loop where `trips` is not given.
    """

    def __init__(self, text: str, trips=None):
        self.computations, self.entry = _parse(text)
        self.trips = trips
        self.runs = collections.Counter()  # computation -> times it runs
        self.fused = set()  # computations inside one kernel: their own instructions move no memory
        self._walk(self.entry, 1, fused=False)

    def collective_bytes(self) -> dict[str, int]:
        """Bytes of the results of all collectives, by kind, on one device."""
        total = collections.Counter()
        for kind, shape, _, runs in self._collectives():
            total[kind] += runs * size(shape)
        return dict(total)

    def received_bytes(self, node: int = 0) -> float:
        """Bytes that one device receives: of a group of g, (g - 1) / g of what is gathered, twice that of an
        all-reduce, g - 1 times the result of a reduce-scatter.

        node: count only groups that are not within one node of that many devices.
        """
        total = 0.0
        for kind, shape, start, runs in self._collectives():
            members = group(start.attributes)
            g = len(members)
            share = {
                "all-reduce": 2 * (g - 1) / g,
                "reduce-scatter": g - 1,
                "collective-permute": 1,
                "collective-broadcast": 1,
            }.get(kind, (g - 1) / g)
            if not node or len({member // node for member in members}) > 1:
                total += runs * share * size(shape)
        return total

    def memory_bytes(self) -> float:
        """Bytes that kernels read and write in the device's memory.

        Of an array that a kernel only slices, or updates in place, the slice counts. Arrays that the compiler put into
        on-chip memory (space S(1) on TPUs) do not count.
        """
        return float(sum(runs * self._kernel_bytes(name) for name, runs in self.runs.items() if name not in self.fused))

    def has_loop(self, loop: Instruction) -> bool:
        """Does the body of this loop hold another one, in itself or in what it calls?"""
        seen, left = set(), [loop.attribute("body")]
        while left:
            name = left.pop()
            for instruction in self.computations[name].values() if name not in seen else ():
                if instruction.opcode == "while":
                    return True
                left += [c for c in (instruction.attribute("calls"), instruction.attribute("to_apply")) if c]
            seen.add(name)
        return False

    def _walk(self, name: str, runs: int, fused: bool) -> None:
        self.runs[name] += runs
        if fused:
            self.fused.add(name)
        for instruction in self.computations[name].values():
            if instruction.opcode == "while":
                self._walk(instruction.attribute("body"), runs * self._trip_count(instruction), fused)
            elif instruction.opcode == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
                branches = (
                    re.findall(r"%?([\w.-]+)", listed.group(1))
                    if listed
                    else [instruction.attribute("true_computation"), instruction.attribute("false_computation")]
                )
                for branch in branches:
                    self._walk(branch, runs, fused)
            elif instruction.opcode in ("fusion", "call", "async-start", "call-start"):
                called = instruction.attribute("calls") or instruction.attribute("to_apply")
                if called:
                    self._walk(called, runs, fused or instruction.opcode == "fusion")

    def _trip_count(self, loop: Instruction) -> int:
        known = self._known_trip_count(loop)
        if known is None and self.trips is None:
            raise ValueError(f"the trip count of the loop {loop.name} ({loop.op_name}) is not known.")
        return self.trips(self, loop) if known is None else known

    def _known_trip_count(self, loop: Instruction) -> int | None:
        """What XLA knows, else (constant of the condition) / (step of the body), from 0; None: it is data."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        outer = condition = self.computations[loop.attribute("condition")]
        kernel = root = _root(condition)
        if root.opcode == "fusion":  # the comparison, with its constant, as a kernel
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
        """What a loop's body adds to element `index` of the loop's state; TPU compilers unroll some loops by two."""
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
        """(kind, shape of the result, the instruction with the groups, times it runs).

        TPU compilers write a reduce-scatter as a kernel, of an all-reduce and slices of its result.
        """
        for name, runs in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = instruction.opcode.removesuffix("-done")
                if kind == "all-reduce" and name in self.fused and name.startswith("all-reduce-scatter"):
                    yield "reduce-scatter", _root(computation).shape, instruction, runs
                elif kind in COLLECTIVES:
                    ended = instruction.opcode.endswith("-done")
                    start = computation[instruction.operands[0]] if ended else instruction
                    yield kind, instruction.shape, start, runs

    def _kernel_bytes(self, name: str) -> int:
        computation, total = self.computations[name], 0
        for instruction in computation.values():
            if instruction.opcode in FREE or instruction.opcode.endswith("-start"):
                continue
            begun = computation.get(instruction.operands[0]) if instruction.opcode.endswith("-done") else None
            operands = [computation[o] for o in (begun or instruction).operands if o in computation]
            if instruction.opcode in ("fusion", "fusion-done"):
                total += self._fusion_bytes((begun or instruction).attribute("calls"), instruction.shape, operands)
            elif instruction.opcode == "copy-done":
                total += in_memory(operands[0].shape) + in_memory(instruction.shape)
            elif instruction.opcode in SLICES:
                total += 2 * in_memory(instruction.shape)
            elif instruction.opcode in UPDATES:
                total += 2 * in_memory(operands[UPDATES[instruction.opcode]].shape)
            elif instruction.opcode.endswith("-done"):
                total += 2 * in_memory(instruction.shape)
            else:
                scratch = instruction.opcode == "custom-call"
                shape = _without_workspace(instruction.shape) if scratch else instruction.shape
                total += in_memory(shape) + sum(in_memory(o.shape) for o in operands)
        return total

    def _fusion_bytes(self, called: str, shape: str, operands) -> int:
        """A kernel's traffic: what it reads of its operands, and its result but for what it leaves in place."""
        inside = list(self._inside(called))
        if any(instruction.opcode == "custom-call" for instruction, _ in inside):
            shape = _without_workspace(shape)
        in_place = sum(
            size(i.shape) - size(computation[i.operands[UPDATES[i.opcode]]].shape)
            for i, computation in inside
            if i.opcode in UPDATES
        )
        read = 0
        for position, array in enumerate(operands):
            found = self._read(called, position)
            read += min(in_memory(array.shape), size(array.shape) if found is None else found)
        return read + max(0, in_memory(shape) - in_place)

    def _inside(self, called: str):
        """(instruction, its computation) of a kernel, and of the kernels inside it."""
        computation = self.computations[called]
        for instruction in computation.values():
            yield instruction, computation
            if instruction.opcode == "fusion":
                yield from self._inside(instruction.attribute("calls"))

    def _read(self, called: str, position: int) -> int | None:
        """Bytes that a kernel reads of an operand that it only slices or updates; None: all of it."""
        computation, users = self.computations[called], collections.defaultdict(list)
        for instruction in computation.values():
            for at, operand in enumerate(instruction.operands):
                users[operand].append((instruction, at))
        names = [i.name for i in computation.values() if i.opcode == "parameter" and int(i.literal) == position]
        total, root = 0, _root(computation)
        if names and (root.name == names[0] or any(user is root for user in _bitcasts(names[0], users))):
            return None  # whoever uses the kernel's result reads it
        for user, at in _uses(names[0], users) if names else ():
            found = None
            if user.opcode == "fusion":
                found = self._read(user.attribute("calls"), at)
            elif user.opcode in SLICES and at == 0:
                found = size(user.shape)
            elif user.opcode in UPDATES and at == 0:
                found = 0
            if found is None:
                return None
            total += found
        return total


def size(shape: str) -> int:
    """Bytes of a shape, or of all arrays of a tuple of shapes."""
    return sum(_array_bytes(kind, dims) for kind, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape))


def in_memory(shape: str) -> int:
    """Bytes of the arrays of a shape that lie in the device's main memory."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shape)
    return sum(_array_bytes(kind, dims) for kind, dims, layout in arrays if not re.search(r"S\([1-9]", layout))


def group(attributes: str) -> tuple[int, ...]:
    """The first group of devices that take part in a collective together, from any of the spellings of its groups."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return tuple(int(device) for device in listed.group(1).split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        devices = np.arange(math.prod(_numbers(tiled.group(2)))).reshape(_numbers(tiled.group(2)))
        if tiled.group(3):
            devices = devices.transpose(_numbers(tiled.group(3)))
        return tuple(devices.reshape(-1)[: int(tiled.group(1))].tolist())
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        return _mesh_group(
            [(axis, int(n)) for axis, n in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))],
            re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", mesh.group(2)),
        )
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(pairs.group(1)), int(pairs.group(2))
    return 0, 1  # all of a group that the text does not name


def _mesh_group(axes: list[tuple[str, int]], along: list[tuple[str, str, str]]) -> tuple[int, ...]:
    """The first group along some axes of a mesh; of an axis 'a':(p)q the factor q after one of p."""
    offsets, stride = np.zeros(1, int), 1
    for axis, length in reversed(axes):
        for name, before, part in along:
            if name == axis:
                within = length // (int(before) * int(part)) if part else 1
                steps = np.arange(int(part or length)) * within * stride
                offsets = (offsets[:, None] + steps).reshape(-1)
        stride *= length
    return tuple(sorted(offsets.tolist()))


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _root(computation: dict[str, Instruction]) -> Instruction:
    return list(computation.values())[-1]


def _array_bytes(kind: str, dims: str) -> int:
    bits = BITS.get(kind) if kind in BITS else int(re.search(r"\d+", kind).group()) if re.search(r"\d", kind) else 0
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


def _bitcasts(name: str, users):
    """The bitcasts of a value, and theirs."""
    for user, _ in users[name]:
        if user.opcode == "bitcast":
            yield user
            yield from _bitcasts(user.name, users)


def _uses(name: str, users):
    """(user, operand position) of a value, seen through bitcasts."""
    for user, position in users[name]:
        if user.opcode == "bitcast":
            yield from _uses(user.name, users)
        else:
            yield user, position


def _without_workspace(shape: str) -> str:
    """The shape of a library call without its scratch memory (s8)."""
    return re.sub(r"\bs8\[\d*\]", "", shape)


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
    """Index of the parenthesis that closes the one before `start`."""
    depth = 1
    for i in range(start, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line)
