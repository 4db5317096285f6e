"""Runs a command until the process that started it ends: python guard.py PARENT_PID COMMAND ...

The guard and the command form a new process group. When the command or the parent ends (also by kill -9), the
guard kills the whole group. Needs only the standard library.
"""

import os
import signal
import subprocess
import sys
import time


def main() -> None:
    """Starts the command and watches it and the parent."""
    parent = int(sys.argv[1])
    # SIGTERM should end the command and not this process. The command would inherit SIG_IGN, but not a handler.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
    # The parent's id changes when it dies. A pipe would not work, since its other children may keep it open.
    while command.poll() is None and os.getppid() == parent:
        time.sleep(0.2)
    status = command.returncode
    try:
        print("the trainer is gone" if status is None else f"the server ended with status {status}", flush=True)
    finally:  # also where the log's disk is full
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
