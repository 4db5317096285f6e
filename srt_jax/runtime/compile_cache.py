"""Repairs JAX's cache of compiled programs.

JAX writes an entry under its final name, so a full disk or a kill leaves a cut one. JAX only warns about an entry that
it cannot read, compiles the program, and does not replace the entry: every later start compiles again. Here such an
entry is removed as soon as JAX warns about it, before it compiles the program. So JAX writes a new one.
"""

import functools
import pathlib
import re
import warnings

from srt_jax.log import logger

WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']+)': (.*)", re.DOTALL)
SUFFIX = "-cache"


def repair(directory: str) -> None:
    """From now on, removes entries of this folder that JAX cannot read or write. Each removal is one message."""
    if "://" not in directory:  # a bucket's writes are atomic
        warnings.showwarning = functools.partial(_show, pathlib.Path(directory), warnings.showwarning)


def _show(directory: pathlib.Path, show, message, *rest, **named) -> None:
    """Replaces warnings.showwarning."""
    found = WARNING.fullmatch(str(message))
    if not found:
        show(message, *rest, **named)
        return
    action, program, reason = found.groups()
    removed = remove_damaged(directory, program)
    if action == "writing":
        logger.warning(f"the compiled program {program} could not be stored in {directory} ({reason}).")
    elif removed:
        logger.info(f"the compiled program {program} in {directory} was damaged ({reason}): it is compiled again.")


def remove_damaged(directory: pathlib.Path, program: str) -> list[pathlib.Path]:
    """Removes the entries of a program that cannot be decompressed; if all can, all of them. Returns their paths.

    The name of an entry is that of its program and a hash. Equal names of different programs are common.
    """
    entries = [path for path in directory.glob(f"*{SUFFIX}") if path.name.startswith(f"{program}-")]
    bad = [path for path in entries if not _is_whole(path)] or entries
    for path in bad:
        path.unlink(missing_ok=True)
    return bad


def _is_whole(path: pathlib.Path) -> bool:
    # JAX compresses with zlib or with one of two packages, as installed, and only this private function knows which.
    from jax._src.compilation_cache import decompress_executable

    try:
        decompress_executable(path.read_bytes())
    except Exception:  # each of them has its own exception
        return False
    return True
