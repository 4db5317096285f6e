"""A worker process: reads tasks as JSON lines, answers as JSON lines, limits itself. pool.py starts it.

Task: {"id", "op", "limit_s", ...}. Replies: {"id", "started": true} when imports are done and the clock may start, then
{"id", "value"} or {"id", "error"}; {"id", "broken"} when the set-up fails. This process reads hostile text. Therefore
it has a memory limit, an alarm that ends it if its parent is gone, and no standard output for other code. Before it
scores text that could be evaluated, it gives up the right to start programs, open sockets and write files.
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
CPU_SECONDS = 900  # of an isolated worker, which is recycled long before
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(memory_mb: int, isolated: bool = False) -> None:
    """Answers requests from standard input, one JSON line each, under the memory limit, until it ends.

    isolated: no network from the start, and a limit on CPU time for the whole process.
    """
    network = isolate() if isolated else "open"
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses; the limit on time still holds there
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    replies.write(json.dumps({"ready": True, "network": network}) + "\n")
    for line in sys.stdin:
        task = json.loads(line)
        replies.write(json.dumps(answer(task, replies)) + "\n")


def answer(task: dict, replies) -> dict:
    """The reply to one task. Hostile text may fail in any way: an error reply; without memory the process ends."""
    try:
        try:
            run = OPERATIONS[task["op"]](task)  # imports, data sets: not on the task's clock, and no hostile text in it
        except MemoryError:
            raise
        except SystemError as error:  # an import in C raises this if it gets no memory
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
    """Leave the network: `namespace` where Linux lets this process have one of its own, with nothing in it; elsewhere
    `blocked`, since `guard` refuses sockets. Sets a limit on CPU time and forbids writing to files.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if not sys.platform.startswith("linux"):
        return "blocked"
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_CLONE_NEWNET, _CLONE_NEWNET | _CLONE_NEWUSER):  # with the rights of root, and as an ordinary user
        if libc.unshare(flags) == 0:
            return "namespace"
    return "blocked"


def decode(node):
    """A tree from JSON: lists are tuples, {"f": "1/2"} is a fraction."""
    if isinstance(node, list):
        return tuple(decode(part) for part in node)
    return Fraction(node["f"]) if isinstance(node, dict) else node


def guard() -> None:
    """Forbids this process to start programs, open sockets and write files. Audit hooks cannot be removed."""
    if guard in _GUARDED:
        return
    _GUARDED.append(guard)
    sys.dont_write_bytecode = True  # late imports are fine, their .pyc files are not
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
