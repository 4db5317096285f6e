"""Files: JSON and JSON lines, atomic writes, and checks of an output path.

A file or folder is written under the temporary name `.NAME.partial-PID`, flushed to the disk and renamed. So a partial
file never has the final name, and `remove_leftovers` recognises the files of a killed process.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import IO, Any

from srt_jax.errors import DataError

# `partial`: an incomplete file or folder. `old`: a folder that a new one is about to replace.
LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>partial|old)-(?P<pid>\d+)")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors write it at the start of a file

FULL = (errno.ENOSPC, errno.EDQUOT)  # the errors of a full disk and of a full quota


def says_full(error: BaseException) -> bool:
    """Tells whether an error says that a disk or a quota is full. Libraries wrap the system's error, with its words."""
    return any(os.strerror(number) in str(error) for number in FULL)


# ---- read


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError, with a reason, for any other text."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: pathlib.Path) -> dict:
    """The JSON object in a file. Raises OSError, or ValueError with a reason for any other content."""
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_jsonl(path: str | os.PathLike, undecodable: str = "surrogatepass") -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not blank, read one by one.

    undecodable: the treatment of bytes that are not UTF-8, as `errors` of bytes.decode. Raises DataError, which names
    the line, for a line that is no JSON object, and OSError for a file that cannot be read.
    """
    # The file is read as bytes, so that only \n ends a line (str.splitlines would also cut at U+2028) and the error for
    # a cut UTF-8 character names its line.
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if not text.strip():
                continue
            try:
                row = parse_json(text.decode("utf-8", undecodable))
            except ValueError as error:
                half = not line.endswith(b"\n")
                what = "is the last one and looks half-written" if half else "is not valid JSON"
                remedy = "write the file again or delete that line" if half else "correct or delete that line"
                if number == 1:  # probably another format: CSV, or one JSON array over many lines
                    remedy = "a JSONL file has one JSON object on each line"
                reason = str(error)
                if isinstance(error, json.JSONDecodeError):  # its own text counts lines within this line
                    reason = f"{error.msg} at character {error.pos + 1}"
                raise DataError(f"{path} line {number} {what} ({reason}); {remedy}.") from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path} line {number} is {shown(row)}, not a JSON object; "
                    "write every line as an object with named columns."
                )
            yield number, row


# ---- write


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens a binary file that is flushed to the disk and renamed to `path` at the end of the block.

    After an exception, an older file of this name is unchanged.
    """
    path = pathlib.Path(path)
    remove_leftovers(path.parent, path.name)
    partial = temporary_name(path)
    try:
        with naming(path), open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Adds `path` to an OSError of the block that names no file; those of write() and flush() name none."""
    try:
        yield
    except OSError as e:
        if e.filename is None:
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Makes an empty folder that is flushed to the disk and renamed to `path` at the end of the block.

    An older folder of this name is removed only then. After an exception it is unchanged.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    partial, old = temporary_name(path), path.with_name(f".{path.name}.old-{os.getpid()}")
    partial.mkdir()
    try:
        with naming(path):
            yield partial
            for inside in (*partial.rglob("*"), partial):
                flush(inside)
        if path.exists():
            path.rename(old)
        try:
            partial.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_file(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a whole file, text as UTF-8; see `replaced_file`."""
    with replaced_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | os.PathLike, value) -> None:
    """Writes a JSON value, indented by 2."""
    write_file(path, json.dumps(value, indent=2) + "\n")


def write_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Writes one JSON object per line."""
    with replaced_file(path) as file:
        file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """The name under which this process writes `path` until it is complete."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def remove_leftovers(folder: str | os.PathLike, name: str = "") -> None:
    """Removes the partial files of killed processes from a folder: those of `name`, or all.

    If a killed process was about to replace a folder, the old folder gets its name back. Files of a process that still
    runs on this machine stay.
    """
    for path in sorted(pathlib.Path(folder).glob(".*")):
        match = LEFTOVER.fullmatch(path.name)
        if not match or name not in ("", match["name"]) or _runs(int(match["pid"])):
            continue
        final = path.with_name(match["name"])
        if match["kind"] == "old" and not final.exists():
            path.rename(final)
        else:
            remove(path)


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder with its content, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: int) -> bool:
    """Tells whether another process has this id. In a container, a killed process may have had the id of this one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


# ---- check and show


def check_output_file(path) -> None:
    """Raises OSError, which names the path, if no file can be made there. Call it before the work, not after."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_output_folder(path.parent)


def check_output_folder(folder) -> None:
    """Raises OSError, which names the path, if the folder cannot be made or no file can be made in it."""
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
    """`repr` of a value, shortened to `limit` characters on one line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "..."


def download_failure(error: Exception) -> str:
    """The cause of a failed download as a short text. The hub's long error messages have it after `Got: `."""
    text = str(error)
    _, got, cause = text.partition("Got: ")
    return textwrap.shorten(cause.splitlines()[0] if got and cause else text, 120, placeholder=" ...")
