"""requirements.txt has all packages that the trainer imports. Tests need this check, as their environment has more."""

import ast
import importlib.metadata
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import REPOSITORY

# Packages that other packages import at run time: the importing package, and the reason.
INDIRECT = {"jinja2": "transformers renders chat templates with it"}
FOLDERS = ("srt_jax", "configs")


def named(file: str) -> dict[str, Requirement]:
    """The requirements of a file by the canonical name of their distribution."""
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines())
    return {
        canonicalize_name(Requirement(line).name): Requirement(line)
        for line in lines
        if line and not line.startswith("-")
    }


def imports() -> dict[str, set[str]]:
    """Third-party top-level module -> files that import it, wherever in them."""
    found = {}
    for folder in FOLDERS:
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module]
                    if isinstance(node, ast.ImportFrom) and not node.level
                    else []
                )
                for top in {name.partition(".")[0] for name in names} - {"srt_jax"} - sys.stdlib_module_names:
                    found.setdefault(top, set()).add(str(file.relative_to(REPOSITORY)))
    return found


def test_every_import_belongs_to_a_distribution_that_the_requirements_name():
    distributions = importlib.metadata.packages_distributions()
    declared = named("requirements.txt") | named("requirements-math-verify.txt")  # the latter is for one field's value
    found = imports()
    assert {"jax", "numpy", "absl", "tokenizers", "huggingface_hub"} <= found.keys()  # the walk sees something
    for module, files in found.items():
        names = {canonicalize_name(name) for name in distributions.get(module, [])}
        assert names & declared.keys(), f"{module}, imported by {sorted(files)}, is in no line of requirements.txt"


@pytest.mark.parametrize("module", INDIRECT)
def test_what_others_import_for_us_is_named_too(module):
    assert module in named("requirements.txt"), INDIRECT[module]


def closure(roots) -> set[str]:
    """Distributions that installing the roots installs here, by their metadata."""
    seen, waiting = set(), [(canonicalize_name(name), frozenset()) for name in roots]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return {name for name, _ in seen}


def test_the_trainer_s_environment_has_no_torch_and_all_that_it_needs():
    installed = closure(named("requirements.txt"))
    assert {"jax", "jaxlib", "jinja2", "markupsafe", "protobuf"} <= installed
    assert not {"torch", "vllm"} & installed
    for name, requirement in named("requirements.txt").items():
        version = importlib.metadata.version(name)
        assert requirement.specifier.contains(version, prereleases=True), (name, version)
