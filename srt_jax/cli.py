"""The common part of all command lines: flags, and one sentence with exit status 2 for wrong input."""

import difflib
import errno
import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from srt_jax.config import base, expanded
from srt_jax.config.types import USERS_OWN, check_types, unknown_field
from srt_jax.errors import ConfigError, UserError, is_left_to_first
from srt_jax.experiments import shipped
from srt_jax.files import FULL, shown
from srt_jax.log import drop, write

LONG = 60  # characters of a wrong value that a message shows
WANTED = {  # by the type of a field; a bool is an int, too
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    ConfigDict: "a dict in quotes, \"{'KEY': VALUE}\"",
}
CONFIG_PACKAGE = "ml_collections"  # the package that raises the error about a field that does not exist
NO_FUNCTION = "has no attribute 'get_config'"  # a part of its message about a file without that function
WRONG_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)

flags.disclaim_key_flags()  # flags that define_path defines are shown in the --help of the job that calls it


def run(main) -> None:
    """Runs a job's main(argv) and exits with the status that it returns; prints user errors as one sentence.

    Of an error that all processes of a run raise, only the first process prints the sentence.
    """
    logging.set_verbosity(logging.WARNING)  # otherwise orbax and jax report every file and backend
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse)


def define_config(help: str) -> None:
    """The flag --config=FILE[:ARGUMENTS]; FILE may be the name of a config that ships with the project."""
    config_flags.DEFINE_config_file("config", None, help)
    flags.FLAGS["config"].parser = _ConfigParser("config")


class _ConfigParser(ConfigFileFlagParser):
    def parse(self, path):
        file, *arguments = path.split(":", 1)
        # A config file may import modules beside it, and name their functions. Installed modules come first: otherwise
        # configs/reasoning_gym.py would hide the package of that name.
        if os.path.isfile(file):
            sys.path.append(os.path.dirname(os.path.abspath(file)))
        return super().parse(":".join([shipped.find(file), *arguments]) if file else path)


def define_path(name: str, help: str) -> None:
    """A flag whose value is a path as text, with the home directory for `~`; its default is None."""
    flags.DEFINE(_PathParser(), name, None, help)


class _PathParser(flags.ArgumentParser):
    def parse(self, argument):
        return expanded(argument)

    def flag_type(self):
        return "path"


def complain(message: str) -> int:
    """Prints an error on stderr; returns the exit status of wrong input."""
    write(f"error: {message}", sys.stderr)
    return 2


def _guarded(main, argv) -> int:
    try:
        return main(argv)
    except UserError as e:
        return _complain_once(e, str(e))
    except OSError as e:
        if e.errno in FULL:
            return _complain_once(
                e,
                f"{e.filename or 'a file'} could not be written ({e.strerror}): free some space, or change "
                "the output folder; what was complete before is unchanged.",
            )
        if e.errno in WRONG_PATH:
            return _complain_once(
                e,
                f"{e.filename or 'a file'} cannot be read or written ({e.strerror}): correct the path or "
                "its permissions.",
            )
        raise


def _complain_once(error: Exception, message: str) -> int:
    return 2 if is_left_to_first(error) else complain(message)


def _parse(argv):
    try:
        logging.set_verbosity(logging.ERROR)
        arguments = flags.FLAGS(argv)
        logging.set_verbosity(logging.WARNING)
        _check_config(argv)
        return arguments
    except ConfigError as e:
        sys.exit(complain(str(e)))
    except (AttributeError, KeyError) as e:
        sys.exit(complain(_no_field(e, argv) or _failure(e)))
    except SystemExit as e:
        if e.code == 1 and any(re.match(r"--?(help|h$|\?$)", argument) for argument in argv):  # absl has printed --help
            sys.exit(0)
        sys.exit(complain(f"the config file ends the program ({shown(e.code)}): let it return a config."))
    except BrokenPipeError:  # nobody reads --help to its end
        drop(sys.stdout)
        sys.exit(0)
    except OSError as e:
        sys.exit(complain(f"the config file cannot be read: {str(e).splitlines()[-1].strip()}."))
    except (flags.Error, ImportError, SyntaxError, TypeError, ValueError) as e:
        sys.exit(complain(_unusable(e, argv)))
    except Exception as e:  # a config file is a program, so it can raise anything
        sys.exit(complain(_failure(e)))


def _no_field(error: Exception, argv) -> str | None:
    """The sentence about a field that the locked config does not have; None for another kind of error."""
    frames, text = traceback.extract_tb(error.__traceback__), str(error)
    if NO_FUNCTION in text or CONFIG_PACKAGE not in frames[-1].filename:
        return None
    if looked := re.search(r"Attempting to lookup: ([\w.]+)", text):  # a field of a field that is no section
        return unknown_field(looked.group(1))
    found = re.search(r"\w+", text.replace("Key", "", 1))
    wrong = found.group() if found else ""
    own = [frame for frame in frames if not _is_installed(frame.filename) and wrong in (frame.line or "")]
    if own:
        return _wrong_line(own[-1], wrong)
    fields = [a.split("=")[0].removeprefix("--config.") for a in argv if a.startswith("--config.")]
    where = next((field for field in fields if wrong in field.split(".")), wrong)
    section, _, key = where.rpartition(".")
    if section.rpartition(".")[2] in USERS_OWN:
        example = f"--config.{section}=\"{{'{key}': VALUE}}\""
        return f"--config.{where} cannot be set by itself: set the whole section, {example}."
    return unknown_field(where)


def _wrong_line(frame: traceback.FrameSummary, wrong: str) -> str:
    """The sentence about a line of a config file that sets a field that does not exist."""
    place = f"{frame.filename}:{frame.lineno}"
    if "eval.sets" in (frame.line or ""):
        return f"{place} adds the evaluation set {wrong!r}: write `with config.eval.unlocked():` around it."
    return f"{place} sets a field that does not exist: {unknown_field(wrong)}"


def _is_installed(path: str) -> bool:
    """Does a source file belong to a package, and not to the user's config?"""
    return "site-packages" in path or pathlib.Path(path).is_relative_to(pathlib.Path(__file__).parent)


def _unusable(error: Exception, argv) -> str:
    """The sentence about a flag or a value that cannot be read, or about a config file with a ValueError of its own."""
    if flag := re.search(r"Unknown command line flag '([^']*)'", str(error)):
        section, dot, rest = flag.group(1).partition(".")
        if section == "config" and not _names_config(argv):
            return f"--{flag.group(1)} changes a config: give the config before it, e.g. --config=configs/srt.py."
        near = difflib.get_close_matches(section, flags.FLAGS, 1)
        remedy = f"did you mean --{near[0]}{dot}{rest}?" if near else "--help lists the flags."
        return f"there is no flag --{flag.group(1)}: {remedy}"
    if (field := re.search(r"flag --config\.([\w.]+)=", str(error))) and (wanted := _wanted(field.group(1))):
        return f"--config.{_given(argv, field.group(1))} cannot be read: give {wanted}."
    reason = " ".join(re.split(r"\w+Error: ", str(error))[-1].split()) or type(error).__name__
    return f"the command line cannot be used: {reason}"


def _failure(error: Exception) -> str:
    """The sentence about an exception in a config file."""
    if NO_FUNCTION in str(error):
        return "the config file has no function get_config: define it, as the files in configs/ do."
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the config file fails at {where.filename}:{where.lineno} ({type(error).__name__}: {error}): correct it, "
        "or correct the arguments after its name."
    )


def _given(argv, field: str) -> str:
    """FIELD=VALUE as the command line has it, with the end of a long value left out."""
    for argument, following in zip(argv, [*argv[1:], ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == f"config.{field}":
            value = value if equals else following
            return f"{field}={value[:LONG]}{'...' * (len(value) > LONG)}"
    return field


def _wanted(field: str) -> str | None:
    """A value that a command line may give to a field, in words; None if there is no such field.

    Keys that users choose, such as those of reward.mixture, are only in the config of the file.
    """
    for config in (base(), flags.FLAGS["config"].value):
        value = config
        for name in field.split("."):
            value = value[name] if isinstance(value, ConfigDict) and name in value else None
        if found := next((words for kind, words in WANTED.items() if isinstance(value, kind)), None):
            return found
    return None


def _names_config(argv) -> bool:
    """Tells whether --config itself is given, and not only one of its fields."""
    return any(re.match("--?config(=|$)", argument) for argument in argv)


def _check_config(argv) -> None:
    """Raises ConfigError if the config file returns no config, or its own exception if it cannot be loaded."""
    if "config" not in flags.FLAGS or not _names_config(argv):
        return
    config = flags.FLAGS.config
    getattr(config, "get", None)  # raises for a file that could not be loaded
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"the config file's get_config returns {shown(config)}: let it return base() of "
            "srt_jax/config/fields.py with its changes."
        )
    check_types(config)
