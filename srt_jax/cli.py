"""What the jobs' command lines share: wrong input is told in one sentence, with exit status 2."""
import errno
import re
import sys

from absl import app, flags, logging

from srt_jax.checkpoint import CheckpointError
from srt_jax.config import ConfigError
from srt_jax.config_types import USERS_OWN
from srt_jax.data.base import DataError
from srt_jax.model.config import ModelError
from srt_jax.rollout.sampler import RolloutError

FULL = (errno.ENOSPC, errno.EDQUOT)
WRONG_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
              errno.ENAMETOOLONG, errno.ELOOP)
USER_ERRORS = (ConfigError, DataError, ModelError, CheckpointError, RolloutError)


def run(main) -> None:
    """Runs a job's main(argv) -> exit status; user errors become one sentence."""
    logging.set_verbosity(logging.WARNING)  # orbax and jax report every file and backend otherwise
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse)


def complain(message: str) -> int:
    """One sentence on stderr; the exit status of wrong input."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def _guarded(main, argv) -> int:
    try:
        return main(argv)
    except USER_ERRORS as e:
        return complain(str(e))
    except OSError as e:
        if e.errno in FULL:
            return complain(f"{e.filename or 'a file'} could not be written ({e.strerror}): free some space, or change "
                            "the output folder; the last checkpoint is whole.")
        if e.errno in WRONG_PATH:
            return complain(f"{e.filename or 'a file'} cannot be read or written ({e.strerror}): correct the path, or "
                            "the permissions there.")
        raise


def _parse(argv):
    try:
        arguments = flags.FLAGS(argv)
        # A config file that cannot be loaded is only noticed when its first field is read.
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.get("name")
        return arguments
    except (AttributeError, KeyError) as e:  # a field that the locked config lacks
        wrong = re.search(r"\w+", str(e).replace("Key", "", 1)).group()
        given = next((a for a in argv if a.startswith("--config.") and wrong in a.split("=")[0]), None)
        where = given.split("=")[0].removeprefix("--config.") if given else wrong
        section, _, key = where.rpartition(".")
        if section.rpartition(".")[2] in USERS_OWN:
            example = f"--config.{section}=\"{{'{key}': VALUE}}\""
            sys.exit(complain(f"--config.{where} is no field of its own: give {example}."))
        sys.exit(complain(f"there is no config field {where!r}: srt_jax/config.py names and explains all of them."))
    except OSError as e:
        sys.exit(complain(f"the config file cannot be read: {str(e).splitlines()[-1].strip()}."))
    except (flags.Error, ImportError, SyntaxError, TypeError, ValueError) as e:
        reason = " ".join(re.split(r"\w+Error: ", str(e))[-1].split()) or type(e).__name__  # of a folded traceback
        sys.exit(complain(f"the command line cannot be used: {reason}"))
