"""A worker process, which pool.py starts. It reads tasks and writes replies as JSON lines, and limits its own rights.

A task is {"id", "op", "limit_s", ...}. The first reply, {"id", "started": true}, says that the imports are done and the
clock may start. Then {"id", "value"} or {"id", "error"} follows. If the set-up fails, the only reply is
{"id", "broken"}.

This process reads hostile text. Therefore it has a memory limit, an alarm that ends it if its parent no longer exists,
and no standard output for other code. Before it scores text that could be evaluated, it gives up the right to start
programs, open sockets and write files.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import sys
from fractions import Fraction

_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir",
    "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.putenv", "subprocess.Popen",
    "socket.", "shutil.", "ctypes.", "pty.", "urllib.", "ftplib.", "smtplib.", "webbrowser.",
)  # fmt: skip
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
CPU_SECONDS = 900  # CPU time of an isolated worker; normally it is replaced long before
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(memory_mb: int, isolated: bool = False) -> None:
    """Answers tasks from standard input, one JSON line each, until the input ends.

    memory_mb: limit of the address space in MiB. isolated: whether the process has no network from the start and a
    limit on its CPU time.
    """
    network = isolate() if isolated else "open"
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses this limit; the time limit still applies there
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    replies.write(json.dumps({"ready": True, "network": network}) + "\n")
    for line in sys.stdin:
        task = json.loads(line)
        replies.write(json.dumps(answer(task, replies)) + "\n")


def answer(task: dict, replies) -> dict:
    """The reply to one task. Any failure on hostile text becomes an error reply. Lack of memory ends the process."""
    try:
        try:
            run = OPERATIONS[task["op"]](task)  # imports and data sets: before the clock starts, without hostile text
        except MemoryError:
            raise
        except SystemError as error:  # importing a C extension raises this if memory is missing
            raise MemoryError from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                raise MemoryError from error
            return {"id": task["id"], "broken": f"{type(error).__name__}: {error}"[:300]}
        replies.write(json.dumps({"id": task["id"], "started": True}) + "\n")
        signal.alarm(int(task["limit_s"]) + 30)
        return {"id": task["id"], "value": run()}
    except MemoryError:
        os._exit(3)
    except Exception as error:
        return {"id": task["id"], "error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.alarm(0)


def prepare_equal(task: dict):
    from srt_jax.grading.symbolic import equal

    return lambda: equal(decode(task["a"]), decode(task["b"]), task["positive"])


def prepare_gym(task: dict):
    from srt_jax.grading.gym import scorer

    score = scorer(task["task"], task["config"])
    guard()
    return lambda: score(task["answer"], task["entry"])


def prepare_math_verify(task: dict):
    from srt_jax.grading.engine import right

    guard()
    return lambda: right(task["prediction"], task["gold"])


def isolate() -> str:
    """Limits the CPU time, forbids writing to files and leaves the network. Returns how the network is closed.

    `namespace`: Linux gave this process an empty network namespace of its own. `blocked`: it did not, and only `guard`
    refuses sockets.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if not sys.platform.startswith("linux"):
        return "blocked"
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_CLONE_NEWNET, _CLONE_NEWNET | _CLONE_NEWUSER):  # the first needs root, the second does not
        if libc.unshare(flags) == 0:
            return "namespace"
    return "blocked"


def decode(node):
    """A tree from its JSON form, in which lists are tuples and {"f": "1/2"} is a fraction."""
    if isinstance(node, list):
        return tuple(decode(part) for part in node)
    return Fraction(node["f"]) if isinstance(node, dict) else node


def guard() -> None:
    """Forbids this process to start programs, open sockets and write files.

    It uses an audit hook, which later code cannot remove.
    """
    if guard in _GUARDED:
        return
    _GUARDED.append(guard)
    sys.dont_write_bytecode = True  # later imports are allowed, but they must not write .pyc files
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple) -> None:
    if event == "open":
        _, mode, flags = arguments
        if (mode and set(mode) & set("wax+")) or (flags and flags & _WRITING):
            raise PermissionError(f"a grading worker does not {event}")
    elif event.startswith(_FORBIDDEN):
        raise PermissionError(f"a grading worker does not {event}")


_GUARDED: list = []
OPERATIONS = {"equal": prepare_equal, "gym": prepare_gym, "math_verify": prepare_math_verify}

if __name__ == "__main__":
    main(int(sys.argv[1]), "--isolated" in sys.argv[2:])
