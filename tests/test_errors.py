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


@pytest.mark.parametrize("error", [errors.ConfigError("x is 1: set it."), OSError(28, "No space left on device", "f")])
def test_an_error_that_all_processes_raise_is_printed_by_the_first_one(error, capsys):
    def job(_):
        try:
            raise error
        except Exception as e:
            raise errors.CheckpointError("it follows from that one.") from e

    for is_first in (True, False):
        errors.raised_by_all(error, is_first)
        assert cli._guarded(job, []) == 2
        assert capsys.readouterr().err == "error: it follows from that one.\n" * is_first

    def other(_):
        try:
            raise error
        except Exception:
            raise errors.CheckpointError("this process alone has it.") from None

    assert cli._guarded(other, []) == 2
    assert capsys.readouterr().err == "error: this process alone has it.\n"


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
