"""The package as a whole: its public functions, and its independence from other packages."""

import subprocess
import sys

from srt_jax import grading
from tests.helpers import REPOSITORY


def test_the_public_functions():
    assert grading.extract(r"so \boxed{\frac12}").text == r"\frac12"
    assert grading.equivalent("0.5", r"\frac12")
    assert not grading.equivalent("0.5", None)
    assert not grading.equivalent("50\\%", "0.5")
    assert grading.verify("50\\%", "0.5")
    assert not grading.verify(None, "0.5")
    assert grading.groups(["1/2", "3", "0.5", None]) == [0, 1, 0, -1]
    assert grading.canonical("0.5") == grading.canonical("1/2") != grading.canonical("2")
    assert all(hasattr(grading, name) for name in grading.__all__)


def test_it_imports_nothing_else_of_the_project_and_only_the_standard_library():
    """This holds for every module except those for worker processes."""
    script = """
import pkgutil, sys
import srt_jax.grading as package
for module in pkgutil.iter_modules(package.__path__):
    if module.name not in ("symbolic", "gym", "engine", "worker"):  # these run in worker processes
        __import__(f"srt_jax.grading.{module.name}")
names = {name.partition(".")[0] for name in sys.modules}
others = sorted(n for n in sys.modules if n.startswith("srt_jax.") and not n.startswith("srt_jax.grading"))
print(others, sorted(n for n in names - set(sys.stdlib_module_names) if n != "srt_jax" and not n.startswith("_")))
"""
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] []"
