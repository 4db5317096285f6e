"""Files: JSON that somebody else wrote, and whether a result will find its place."""

import errno
import json
import os
import pathlib
import textwrap


def parse_json(data: bytes):
    """The value of a JSON text in UTF-8. Raises ValueError, with a reason, for anything that is not one."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: pathlib.Path) -> dict:
    """The JSON object in a file. Raises ValueError, with a reason, for any other content, OSError where it cannot be
    read.
    """
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def check_output_file(path) -> None:
    """Raises OSError, which names the path, where no file can be made there: asked before hours of work, not after."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_output_folder(path.parent)


def check_output_folder(folder) -> None:
    """Raises OSError, which names the path, where the folder is not there and cannot be made, or takes no files."""
    folder = pathlib.Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    longest = os.pathconf(existing, "PC_NAME_MAX")
    if too_long := [part for part in folder.parts if len(os.fsencode(part)) > longest]:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), too_long[0])
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(existing))


def shown(value, limit: int = 60) -> str:
    """`repr` of a value, cut so that the message stays one line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "..."


def download_failure(error: Exception) -> str:
    """Why the hub gave nothing, as one short text: its errors are paragraphs that hold the cause after `Got: `."""
    text = str(error)
    _, got, cause = text.partition("Got: ")
    return textwrap.shorten(cause.splitlines()[0] if got and cause else text, 120, placeholder=" ...")
