"""A small server of the OpenAI protocol on loopback, which answers as its documentation says, or fails as told."""

import base64
import io
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image


def completion(text="4", listed=None, *, finish="stop", refusal=None, tokens=100):
    """A chat completion; `listed` maps tokens to probabilities (the first is the one that was drawn)."""
    logprobs = None
    if listed is not None:
        top = [{"token": t, "logprob": math.log(p) if p > 0 else -9999.0, "bytes": None} for t, p in listed.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "logprobs": logprobs,
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def images_of(body):
    """The images of a request, decoded."""
    found = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            url = part["image_url"]["url"]
            data = Path(url[7:]).read_bytes() if url.startswith("file://") else base64.b64decode(url.split(",")[1])
            found.append(Image.open(io.BytesIO(data)).convert("RGB"))
    return found


class Server(ThreadingHTTPServer):
    """`answer(body)` gives what a chat request gets: a JSON object, or (status, body, headers); None drops the
    connection. `bodies` and `headers` keep what came, `most` says how many requests were open at once.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = lambda body: completion("4", {"4": 0.5, "3": 0.3, "5": 0.2})
        self.models = [{"id": "m", "object": "model", "created": 0, "owned_by": "someone"}]
        self.others = {}  # path -> function of the body
        self.bodies, self.headers, self.lock = [], [], threading.Lock()
        self.open = self.most = 0
        self.pause = 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """Clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Silence."""

    def do_GET(self):
        if self.path == "/v1/models" and self.server.models is not None:
            return self._send(200, {"object": "list", "data": self.server.models})
        return self._other(None)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._other(body)
        with server.lock:
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.open += 1
            server.most = max(server.most, server.open)
        try:
            time.sleep(server.pause)
            answer = server.answer(body)
        finally:
            with server.lock:
                server.open -= 1
        if answer is None:
            self.close_connection = True
            self.connection.close()
        elif isinstance(answer, tuple):
            self._send(*answer)
        else:
            self._send(200, answer)

    def _other(self, body):
        function = self.server.others.get(self.path)
        self._send(200, function(body)) if function else self._send(404, {"error": {"message": "no such place"}})

    def _send(self, status, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch):
    """A running server, and no key in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = Server()
    running.completion, running.images_of = completion, images_of
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
