"""The data room knows problems and prompts. It must not depend on how rollouts are sampled, graded or trained on."""

import ast
import pathlib

import srt_jax.data

BELOW = (
    "srt_jax.config.functions",
    "srt_jax.data",
    "srt_jax.errors",
    "srt_jax.files",
    "srt_jax.grading.golds",
    "srt_jax.run.progress",
)


def test_data_imports_only_what_lies_below_it():
    found = set()
    for file in pathlib.Path(srt_jax.data.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module)
            elif isinstance(node, ast.Import):
                found.update(name.name for name in node.names)
    own = {name for name in found if name.startswith("srt_jax")}
    assert len(own) > 5 and not {name for name in own if not name.startswith(BELOW)}
