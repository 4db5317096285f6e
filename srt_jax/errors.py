"""The errors that a user can mend. Each message is one sentence that names the field or file, its value and a remedy.

The command lines print the message and exit with status 2 (srt_jax/cli.py). An error of any other class is a defect of
this package and keeps its traceback. Imports nothing, so that every part of the package can raise these.
"""


class UserError(Exception):
    """Something that the user can correct; `str(error)` is the sentence to print."""


class ConfigError(UserError, ValueError):
    """A config that cannot run; the message names the field."""


class DataError(UserError, ValueError):
    """A data or label file that cannot be used; the message names the file with its line, or the field."""


class DataNotHereError(DataError):
    """A named data set that is neither on this machine nor can be downloaded."""


class ModelError(UserError, ValueError):
    """A model that cannot be built, loaded or saved."""


class ModelNotHereError(ModelError):
    """A hub model that is neither in the local cache nor can be downloaded."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written, or that belongs to another run."""


class FormatError(UserError, RuntimeError):
    """A run folder or label file in the format of another version of this package."""


class FolderInUseError(UserError, RuntimeError):
    """A run folder in which another trainer works, or a label file that another job writes."""


class RolloutError(UserError, RuntimeError):
    """A sampler that cannot return rollouts, or returns rollouts of other weights than the step needs."""


class ServerGivenUpError(RolloutError):
    """A vLLM server that failed again after its last restart; other servers may still work."""


class ExportError(RolloutError):
    """An export of weights that is damaged or cannot be written."""


class ServerSetupError(UserError, RuntimeError):
    """A vLLM server that cannot be started on this machine."""


class FiguresError(UserError, ValueError):
    """Runs that cannot be compared with each other."""


class TrainingStoppedError(UserError, RuntimeError):
    """A run ended before its last step. The message says why, what was saved and how to resume. Exit status 1."""


def raised_by_all(error: Exception, is_first: bool) -> Exception:
    """Notes that all processes of a run raise this error, so that only the first one prints it. Returns the error."""
    vars(error)["left_to_first"] = not is_first
    return error


def is_left_to_first(error: BaseException | None) -> bool:
    """Tells whether the first process prints this error, or the one that follows from the same cause there."""
    return error is not None and (vars(error).get("left_to_first", False) or is_left_to_first(error.__cause__))
