"""All errors that a user can mend are one family, in one place."""

import ast
import pathlib

import pytest

from srt_jax import cli, errors

PACKAGE = pathlib.Path(errors.__file__).parent
USER_ERRORS = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.UserError)]
# Errors that never reach a user: their callers handle them.
INTERNAL = {"ServerFailedError", "StopRequestedError"}


@pytest.mark.parametrize("error", USER_ERRORS, ids=lambda c: c.__name__)
def test_every_user_error_becomes_one_sentence_and_status_2(error, capsys):
    def job(_):
        raise error("data.path is 'x': correct it.")

    assert cli._guarded(job, []) == 2
    assert capsys.readouterr().err == "error: data.path is 'x': correct it.\n"


def test_a_defect_keeps_its_traceback():
    def job(_):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        cli._guarded(job, [])


def test_no_module_defines_a_user_error_of_its_own():
    """srt_jax/grading imports nothing of the project and keeps its own."""
    defined = {
        node.name: path.name
        for path in PACKAGE.rglob("*.py")
        if "grading" not in path.parts and path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any("Error" in ast.unparse(b) or "Exception" in ast.unparse(b) for b in node.bases)
    }
    assert defined.keys() == INTERNAL
