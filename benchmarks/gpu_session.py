r"""Tests one GPU in ten minutes: does it run, are its numbers right, how fast is it, how much memory does it take?

    python benchmarks/gpu_session.py [--parts attention,update-0.5b,...] [--out runs/gpu_session] [--rehearse]

Every part is a process with a time limit. A part that hangs or crashes does not stop the others. The limits add up to
less than ten minutes, and later parts get the time that earlier ones leave. When a part ends it appends one JSON line
to DIR/gpu_session.jsonl. Its output goes to DIR/gpu_session.log. A table of all parts goes to DIR/gpu_session.md at the
end. --rehearse runs all parts on a CPU with tiny shapes. It shows that the programs run, and measures nothing.

Needs one NVIDIA GPU, jax with its CUDA plug-in, flax, optax, orbax-checkpoint, transformers and tensorboard, but no
network and no vLLM. If the machine lacks pure-Python packages of requirements.txt, put their wheels (0.3 MB) into the
folder wheels/ of the repository. The parts import them from there:

    python -m pip download --no-deps -d wheels ml-collections httpx2 httpcore2 truststore

The parts `quickstart` and `run` need the miniature base model (1 MB). `python -m srt_jax pretrain` makes it in
cache/miniature, on this machine or on another. docs/gpu.md explains the table.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MINIATURE = ROOT / "cache" / "miniature"

# Seconds of each part, with the start of its process and compilation, in the order of the parts. `run` comes last,
# because it can stop at any time and so can use all the time that the others leave.
LIMITS = {
    "device": 20,
    "attention": 50,
    "precision": 35,
    "quickstart": 60,
    "update-0.5b": 50,
    "lora-0.5b": 30,
    "update-1.5b": 55,
    "lora-1.5b": 35,
    "update-4b": 65,
    "sampler-0.5b": 45,
    "sampler-1.5b": 60,
    "determinism": 55,
    "run": 35,
}
BASE = "base"  # only in a rehearsal: makes a miniature with a few steps of training
BASE_SECONDS = 60
WITH_MINIATURE = ("quickstart", "run")


@dataclasses.dataclass
class Session:
    """The output folders and the time budget of all parts."""

    out: pathlib.Path
    scratch: pathlib.Path
    rehearse: bool
    started: float = dataclasses.field(default_factory=time.monotonic)
    granted: float = 0.0  # seconds of all limits so far

    def run(self, part: str, limit: float) -> dict:
        """Runs one part within its limit and the time that earlier parts left. Writes, prints and returns its line."""
        self.granted += limit
        seconds = self.started + self.granted - time.monotonic()
        record = self.scratch / f"{part}.jsonl"
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "gpu_parts.py"),
            part,
            f"--record={record}",
            f"--seconds={seconds:.1f}",
            f"--scratch={self.scratch}",
            *["--rehearse"] * self.rehearse,
        ]
        print(f"{part}: at most {seconds:.0f} s ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        status, tail = self._watched(command, part, seconds)
        line = result(part, record, status, tail, seconds) | {"seconds": round(time.monotonic() - start, 1)}
        text = json.dumps(line)
        with open(self.out / "gpu_session.jsonl", "a") as file:
            file.write(text + "\n")
        print(text, flush=True)
        return line

    def _watched(self, command: list[str], part: str, seconds: float) -> tuple[int | None, str]:
        """(exit status or None if the limit ended the part, its output)."""
        path = self.out / "gpu_session.log"
        with open(path, "ab") as log:
            log.write(f"\n==== {part}\n".encode())
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(self.rehearse),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):  # its child processes are in its group
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with open(path, "rb") as log:
            log.seek(begin)
            return status, log.read().decode(errors="replace")


def environment(rehearse: bool) -> dict[str, str]:
    """The environment variables of the parts. Wheels are on the Python path, since all are pure Python."""
    wheels = [str(wheel) for wheel in sorted((ROOT / "wheels").glob("*.whl"))]
    path = os.pathsep.join([*wheels, *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # stores small programs too, since later parts use the same ones
    return os.environ | fixed | ({"JAX_PLATFORMS": "cpu"} if rehearse else {})


def result(part: str, record: pathlib.Path, status: int | None, tail: str, seconds: float) -> dict:
    """The line of a part, from its record and the way it ended.

    `status` is ok, failed (a check failed, or the part did not reach its end) or skipped. `rows` are checks and
    figures. "ok" is true or false for a check, null for a figure. A missed target does not fail the part.
    """
    line = {"part": part, "status": "ok", "limit_s": round(seconds), "rows": []}
    for entry in map(json.loads, record.read_text().splitlines() if record.exists() else ()):
        line["rows"] += entry.pop("rows", [])
        line |= entry
    if status is None:
        line["error"] = f"it was stopped at its limit of {seconds:.0f} s."
    elif status and "error" not in line:
        lines = [text.strip() for text in tail.splitlines() if text.strip()]
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        line["error"] = f"it ended with {how}: {lines[-1][-300:] if lines else 'no output'}"
    if "error" in line or any(row["ok"] is False and not row["target"] for row in line["rows"]):
        line["status"] = "failed"
    return line


def table(lines: list[dict]) -> str:
    """A Markdown table of all rows of all parts, after one line about the machine."""
    device = next((line for line in lines if line["part"] == "device"), {})
    versions = ", ".join(f"{name} {version}" for name, version in device.get("versions", {}).items())
    head = [
        f"{device.get('kind', 'no device')}; {time.strftime('%Y-%m-%d')}; {versions}",
        "",
        "| part | what | found | wanted | |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row for line in lines for row in table_rows(line))]) + "\n"


def table_rows(line: dict) -> list[str]:
    """The table rows of one part. The first one says how the part ended."""
    end = {
        "ok": "",
        "failed": f"failed: {line['error']}" if "error" in line else "a check failed",
        "skipped": f"skipped: {line.get('reason')}",
    }[line["status"]]
    rows = [[line["part"], "seconds", f"{line['seconds']} of {line['limit_s']}", end, line["status"]]]
    for row in line["rows"]:
        verdict = {None: "", True: "ok", False: "missed" if row["target"] else "FAILED"}[row["ok"]]
        rows.append([line["part"], row["what"], row["found"], row["wanted"], verdict])
    return ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]


def main() -> int:
    """Returns 0 if every part ran and every check passed, 1 if not, 2 if nothing could start."""
    args = parse()
    wanted = [part for part in LIMITS if part in args.parts and part != "device"]
    if not args.rehearse and not (MINIATURE / "config.json").exists() and set(wanted) & set(WITH_MINIATURE):
        print(
            f"error: {MINIATURE.relative_to(ROOT)} is missing, and the parts {' and '.join(WITH_MINIATURE)} need it: "
            "make it with `python -m srt_jax pretrain` here or elsewhere, or choose other parts with --parts.",
            file=sys.stderr,
        )
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("gpu_session.jsonl", "gpu_session.log", "gpu_session.md"):
        (args.out / name).unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running part and writes the table
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(args.out.resolve(), pathlib.Path(scratch), args.rehearse)
        lines = [session.run("device", LIMITS["device"])]
        if not args.rehearse and lines[0].get("platform") != "gpu":
            reason = lines[0].get("error") or f"JAX sees {lines[0].get('kind', 'nothing')}"
            print(
                f"error: there is no GPU to measure ({reason}): install the CUDA plug-in of jax, or give --rehearse.",
                file=sys.stderr,
            )
            return 2
        try:
            if args.rehearse:
                lines.append(session.run(BASE, BASE_SECONDS))
            for part in wanted:
                lines.append(session.run(part, LIMITS[part]))
        finally:  # also for Ctrl-C
            text = table(lines)
            (args.out / "gpu_session.md").write_text(text)
            print(text)
    return int(any(line["status"] == "failed" for line in lines))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts",
        type=_parts,
        default=tuple(LIMITS),
        metavar="PART,...",
        help=f"some of {', '.join(LIMITS)}; `device` always runs",
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs" / "gpu_session", metavar="DIR")
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(LIMITS):
        raise argparse.ArgumentTypeError(f"there is no part {sorted(unknown)[0]!r}: give some of {', '.join(LIMITS)}.")
    return parts


if __name__ == "__main__":
    sys.exit(main())
