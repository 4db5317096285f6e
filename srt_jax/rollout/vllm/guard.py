"""Runs a command for as long as the process that asked for it lives: python guard.py PARENT_PID COMMAND ...

It leads a process group of its own and the command joins it. When the command ends, or the parent does, however it ends
(kill -9 included), the whole group is killed, so that nothing is left behind. Needs nothing but the standard library.
"""

import os
import signal
import subprocess
import sys
import time


def main() -> None:
    """Starts the command and watches it and the parent."""
    parent = int(sys.argv[1])
    # A handler, not SIG_IGN: the command would inherit that. SIGTERM is for the command, this process outlives it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
    # The parent's number changes when it dies. A pipe would not do: its other children may hold it open.
    while command.poll() is None and os.getppid() == parent:
        time.sleep(0.2)
    status = command.returncode
    try:
        print("the trainer is gone" if status is None else f"the server ended with status {status}", flush=True)
    finally:  # also where the log's disk is full
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
