"""Measures seconds per step with rollouts sampled during the update (rollout.steps_ahead = 1) and between updates (0).

    python benchmarks/steps_ahead.py [--steps 8] [--model cache/miniature]

A vLLM server of .venv-vllm answers through a proxy. The proxy delays the samples of each step, so that sampling takes
as long as the update. The machine is idle during the delay. Sampling and update share its cores, so a run can save only
this idle time. The update makes many epochs, so most of the sampling time is idle. Prints one JSON line with medians
over all steps but the first two, which include compilation, and the last, which saves.
"""

import argparse
import http.server
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from ml_collections import ConfigDict

from srt_jax import runtime
from srt_jax.rollout.vllm.command import HOST, Settings
from srt_jax.rollout.vllm.server import Server
from srt_jax.run.metrics_log import read_metrics
from srt_jax.train import train

MEASURED_FROM = 3  # the first steps include compilation
EPOCHS = 24


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--model", default="cache/miniature")
    parser.add_argument("--cpu_devices", type=int, default=1)
    args = parser.parse_args()
    runtime.start(args.cpu_devices)
    with tempfile.TemporaryDirectory() as out:
        server = Server(
            "server",
            Settings(".venv-vllm/bin/python", "float32", 28, memory_fraction=1.0),
            pathlib.Path(out) / "server.log",
            start_seconds=600,
            max_restarts=0,
        )
        server.start(args.model)
        try:
            server.wait()
            proxy = Proxy(server.url)
            plain = run(args, out, "plain", proxy.url, 0)
            proxy.delay = max(0.0, plain["update"] - plain["sample"])
            between = run(args, out, "between", proxy.url, 0)
            during = run(args, out, "during", proxy.url, 1)
        finally:
            server.stop()
    print(
        json.dumps(
            {
                "seconds_update": plain["update"],
                "seconds_sample": plain["sample"],
                "seconds_idle_delay": proxy.delay,
                "seconds_per_step_0_ahead": between["step"],
                "seconds_per_step_1_ahead": during["step"],
                "less": 1 - during["step"] / between["step"],
            }
        )
    )


def run(args, out: str, name: str, url: str, steps_ahead: int) -> dict[str, float]:
    """Median seconds of the phases of a step."""
    from srt_jax.experiments import load

    config: ConfigDict = load("quickstart").get_config()
    config.name, config.out, config.steps, config.model.path = name, out, args.steps, args.model
    config.rollout.sampler, config.rollout.servers, config.rollout.steps_ahead = "vllm", (url,), steps_ahead
    config.rollout.old_logprobs, config.rl.tis_cap, config.batch.epochs_per_step = "trainer", 2.0, EPOCHS
    config.eval.every = config.checkpoint.every = args.steps
    with config.eval.unlocked():
        config.eval.sets = ConfigDict()
    train(config)
    records = [r for r in read_metrics(pathlib.Path(out) / name) if MEASURED_FROM <= r["step"] < args.steps]
    return {
        phase: statistics.median(r[f"time/{phase}"] for r in records if f"time/{phase}" in r)
        for phase in ("step", "update", "sample")
        if any(f"time/{phase}" in r for r in records)
    }


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards requests to a server, and delays samples.

    After new weights, the first request for samples starts a wait of `delay` seconds. The proxy forwards requests for
    samples only after this wait.
    """

    def __init__(self, target: str):
        super().__init__((HOST, 0), Forward)
        self.target, self.delay, self.url = target, 0.0, f"http://{HOST}:{self.server_address[1]}"
        self.idle_until = None
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Forward(http.server.BaseHTTPRequestHandler):
    """Forwards one request and its answer."""

    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/resume":
            self.server.idle_until = None
        if self.path == "/v1/completions" and b'"prompt_logprobs"' not in body:  # not the probe
            self.server.idle_until = self.server.idle_until or time.monotonic() + self.server.delay
            time.sleep(max(0.0, self.server.idle_until - time.monotonic()))
        request = urllib.request.Request(
            self.server.target + self.path, body or None, {"Content-Type": "application/json"}, method=self.command
        )
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        data = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = forward

    def log_message(self, *_):
        """Writes no log."""


if __name__ == "__main__":
    main()
