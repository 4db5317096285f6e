"""Imports between the rooms of the package go one way. The table below lists every allowed arrow."""

import ast
import pathlib

import srt_jax

PACKAGE = pathlib.Path(srt_jax.__path__[0])

# Modules that every room but grading may import. They import only each other.
FLOOR = {"errors", "files", "log", "run.progress"}

# Room or root module -> the rooms that it may import. A line names only rooms of earlier lines, so there is no cycle.
ARROWS = {
    "grading": "",
    "runtime": "",
    "config": "grading runtime",
    "data": "config grading",
    "experiments": "config data",
    "model": "runtime",
    "reward": "config data grading",
    "rollout": "config model runtime",
    "rl": "config model rollout",
    "run": "config data grading model reward rl rollout runtime",
    "plan": "config model rl rollout run runtime",
    "miniature": "config grading model reward rl rollout runtime",
    "train": "config model reward rl run runtime",
    "levels": "config run runtime train",
    "figures": "config data run",
    "study": "config data figures levels run train",
    "cli": "config experiments",
    "main": "cli config data levels run runtime train",
    "jobs": "cli config data figures grading miniature model plan reward rl rollout run runtime study train",
}


def room_of(module: str) -> str:
    """`srt_jax.rollout.jax.sampler` -> `rollout`, `srt_jax` -> ``. A module of FLOOR is its own room."""
    parts = module.split(".")[1:]
    return next((name for name in FLOOR if ".".join(parts[: name.count(".") + 1]) == name), parts[0] if parts else "")


def imports(file: pathlib.Path) -> list[tuple[int, str]]:
    """(line, module) of the package's modules that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: use an absolute import."
            # `from srt_jax.run import progress` imports a module, `from srt_jax.log import console` an object.
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return [(line, module) for line, module in found if module.split(".")[0] == "srt_jax"]


def arrows() -> dict[tuple[str, str], list[str]]:
    """(room, imported room) -> the places of the imports."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = room_of(".".join(["srt_jax", *file.relative_to(PACKAGE).with_suffix("").parts]))
        for line, module in imports(file):
            found.setdefault((room, room_of(module)), []).append(f"{file.relative_to(PACKAGE)}:{line}")
    return found


def test_the_table_has_every_room_and_no_cycle():
    rooms = list(ARROWS)
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - FLOOR - {"__init__", "__main__"} == set(rooms), "add a new room to the table, remove an old one."
    for i, (room, allowed) in enumerate(ARROWS.items()):
        assert set(allowed.split()) <= set(rooms[:i]), f"{room} may import only rooms of earlier lines."


def test_imports_follow_the_table():
    for (room, imported), places in arrows().items():
        if room in ("__init__", "__main__") or room == imported or not imported:
            continue
        if room in FLOOR:
            allowed = FLOOR - {"run.progress"}
        else:
            allowed = {*ARROWS[room].split(), *(FLOOR if room != "grading" else ())}
        message = f"{room} must not import {imported} ({', '.join(places)}): move the code, or change the table."
        assert imported in allowed, message
