"""Damaged entries of JAX's cache of compiled programs are replaced, once."""

import os
import subprocess
import sys

from tests.helpers import REPOSITORY

DAMAGES = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "shortened": lambda data: data[:-1],
    "flipped": lambda data: data[:99] + bytes([data[99] ^ 4]) + data[100:],
    "zeroed": lambda data: data[: len(data) // 2].ljust(len(data), b"\0"),
    "foreign": lambda data: b"# a text file\n" * 100,
}
# Compiles a program for each damage. Prints those that came from the cache.
SCRIPT = """
import sys
from srt_jax import runtime
runtime.start()
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
three = jax.device_put(3.0)
for factor, name in enumerate(sys.argv[1:]):
    def program(x):
        return x * factor
    program.__name__ = name
    events.clear()
    assert float(jax.jit(program)(three)) == 3.0 * factor
    print(name, "is cached" if "/jax/compilation_cache/cache_hits" in events else "is compiled")
"""


def compiled(folder):
    """The lines of stdout, and stderr, of a process that uses this cache."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-c", SCRIPT, *DAMAGES]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr


def test_damaged_entries_are_replaced(tmp_path):
    compiled(tmp_path)
    entries = {name: next(tmp_path.glob(f"jit_{name}-*-cache")) for name in DAMAGES}
    for name, path in entries.items():
        whole = path.read_bytes()
        path.with_name(f"jit_{name}-other-cache").write_bytes(whole)  # another program of the same name
        path.write_bytes(DAMAGES[name](whole))
    said, errors = compiled(tmp_path)
    assert errors == ""
    for name, path in entries.items():
        message = f"the compiled program jit_{name} in {tmp_path} was damaged ("
        assert sum(line.startswith(message) and line.endswith("it is compiled again.") for line in said) == 1
        assert f"{name} is compiled" in said
        assert path.exists() and path.with_name(f"jit_{name}-other-cache").exists()
    assert compiled(tmp_path) == ([f"{name} is cached" for name in DAMAGES], "")
