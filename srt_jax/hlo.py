"""Reads compiled HLO text: bytes that collectives and memory move, with the trip counts of loops multiplied in.

XLA's own cost analysis counts a loop's body once, and is empty for GPUs. Here a program is walked from its entry: a
`while` counts its body as often as it runs, all else that is called counts once (of a conditional, all branches).
"""
import collections
import dataclasses
import math
import re

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all",
               "collective-broadcast")
# What moves no memory by itself. Calls are followed; asynchronous halves count at their end, where the result is.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
        "partition-id", "replica-id", "opt-barrier", "add-dependency", "async-start", "async-update", "async-done",
        "call-start", "call-update", "call-done", "copy-start", "send", "recv", "send-done", "recv-done", "domain"}
BITS = {"pred": 8, "token": 0, "opaque": 0}
SLICES = ("dynamic-slice", "gather", "slice")


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
        for kind, instruction, _, runs in self._collectives():
            total[kind] += runs * size(instruction.shape)
        return dict(total)

    def received_bytes(self) -> float:
        """Bytes that one device receives: of a group of g, (g - 1) / g of what is gathered, twice that of an
        all-reduce, g - 1 times the result of a reduce-scatter."""
        total = 0.0
        for kind, instruction, start, runs in self._collectives():
            g = group_size(start.attributes)
            share = {"all-reduce": 2 * (g - 1) / g, "reduce-scatter": g - 1, "collective-permute": 1,
                     "collective-broadcast": 1}.get(kind, (g - 1) / g)
            total += runs * share * size(instruction.shape)
        return total

    def memory_bytes(self) -> float:
        """Bytes that kernels read and write in the device's memory.

        Of an array that a kernel only slices, or updates in place, the slice counts. Arrays that the compiler put into
        on-chip memory (space S(1) on TPUs) do not count.
        """
        return float(sum(runs * self._kernel_bytes(name) for name, runs in self.runs.items() if name not in self.fused))

    def has_loop(self, loop: Instruction) -> bool:
        """Does the body of this loop hold another one, in itself or in what it calls, whose trip count is known?"""
        seen, left = set(), [loop.attribute("body")]
        while left:
            name = left.pop()
            for instruction in self.computations[name].values() if name not in seen else ():
                if instruction.opcode == "while" and self._known_trip_count(instruction) is not None:
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
                branches = re.findall(r"%?([\w.-]+)", listed.group(1)) if listed else [
                    instruction.attribute("true_computation"), instruction.attribute("false_computation")]
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
        """What XLA knows, else the constant of the condition (loops run from 0 in steps of 1); None: it is data."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[loop.attribute("condition")]
        root = list(condition.values())[-1]
        if root.opcode == "fusion":  # the comparison, with its constant, as a kernel
            condition = self.computations[root.attribute("calls")]
            root = list(condition.values())[-1]
        if root.opcode == "compare" and "direction=LT" in root.attributes:
            bound = condition.get(root.operands[1])
            if bound is not None and bound.opcode == "constant":
                return int(bound.literal)
        return None

    def _collectives(self):
        """(kind, the instruction whose shape is the result, the one with the groups, times it runs)."""
        for name, runs in self.runs.items():
            computation = self.computations[name]
            for instruction in computation.values():
                kind = instruction.opcode.removesuffix("-done")
                if kind in COLLECTIVES:
                    ended = instruction.opcode.endswith("-done")
                    start = computation[instruction.operands[0]] if ended else instruction
                    yield kind, instruction, start, runs

    def _kernel_bytes(self, name: str) -> int:
        computation, total = self.computations[name], 0
        for instruction in computation.values():
            if instruction.opcode in FREE or instruction.opcode.endswith("-start"):
                continue
            operands = [computation[o] for o in instruction.operands if o in computation]
            if instruction.opcode == "fusion":
                total += self._fusion_bytes(instruction, operands)
            elif instruction.opcode in SLICES:
                total += 2 * in_memory(instruction.shape)
            elif instruction.opcode in ("dynamic-update-slice", "scatter"):
                total += 2 * in_memory(operands[-1 if instruction.opcode == "scatter" else 1].shape)
            elif instruction.opcode.endswith("-done"):
                total += 2 * in_memory(instruction.shape)
            else:
                total += in_memory(_without_workspace(instruction)) + sum(in_memory(o.shape) for o in operands)
        return total

    def _fusion_bytes(self, fusion: Instruction, operands) -> int:
        inside = self.computations[fusion.attribute("calls")]
        users = collections.defaultdict(list)
        for instruction in inside.values():
            for position, operand in enumerate(instruction.operands):
                users[operand].append((instruction, position))
        total, in_place = 0, 0
        for parameter in (i for i in inside.values() if i.opcode == "parameter"):
            array = operands[int(parameter.literal)] if int(parameter.literal) < len(operands) else parameter
            read = [_read(user, position, inside) for user, position in _uses(parameter.name, users)]
            total += min(in_memory(array.shape), sum(size(array.shape) if r is None else r for r in read))
        for instruction in inside.values():
            if instruction.opcode == "dynamic-update-slice":
                in_place += size(instruction.shape) - size(inside[instruction.operands[1]].shape)
        return total + max(0, in_memory(fusion.shape) - in_place)


def size(shape: str) -> int:
    """Bytes of a shape, or of all arrays of a tuple of shapes."""
    return sum(_array_bytes(kind, dims) for kind, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape))


def in_memory(shape: str) -> int:
    """Bytes of the arrays of a shape that lie in the device's main memory."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shape)
    return sum(_array_bytes(kind, dims) for kind, dims, layout in arrays if not re.search(r"S\([1-9]", layout))


def group_size(attributes: str) -> int:
    """Devices that take part in a collective together, from any of the three spellings of its groups."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed.group(1).count(",") + 1
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(tiled.group(1))
    if mesh := re.search(r"replica_groups=(?:@\w+|mesh\[([^\]]*)\])[^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1) or ""))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes.get(axis, 1)) for axis, part in axes)
    return 2  # point to point, or all of a group that the text does not name


def _array_bytes(kind: str, dims: str) -> int:
    bits = BITS.get(kind) if kind in BITS else int(re.search(r"\d+", kind).group()) if re.search(r"\d", kind) else 0
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


def _uses(name: str, users):
    """(user, operand position) of a value, seen through bitcasts."""
    for user, position in users[name]:
        if user.opcode == "bitcast":
            yield from _uses(user.name, users)
        else:
            yield user, position


def _read(user: Instruction, position: int, inside) -> int | None:
    """Bytes that an instruction of a fusion reads of its operand; None: all of it."""
    if user.opcode in SLICES:
        return size(user.shape) if position == 0 else None
    if user.opcode == "dynamic-update-slice" and position == 0:
        return 0
    return None


def _without_workspace(instruction: Instruction) -> str:
    """The shape of an instruction; a library call's scratch memory (s8) left out."""
    return re.sub(r"\bs8\[\d*\]", "", instruction.shape) if instruction.opcode == "custom-call" else instruction.shape


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
        opcode = named and re.search(r" ([a-z][\w-]*)\(", line[named.end() - 1:])
        if not opcode or current is None:
            continue
        start = named.end() - 1 + opcode.end()
        end = _closing(line, start)
        arguments = line[start:end]
        current[named.group(1)] = Instruction(
            named.group(1), line[named.end():named.end() - 1 + opcode.start()], opcode.group(1),
            tuple(re.findall(r"%([\w.-]+)", arguments)), line[end + 1:], arguments)
    return computations, entry


def _closing(line: str, start: int) -> int:
    """Index of the parenthesis that closes the one before `start`."""
    depth = 1
    for i in range(start, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return len(line)
