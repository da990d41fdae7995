"""vLLM's and text-embeddings-inference's documented wire on a loopback port, answered by a local encoder.

`faults` are used up one per request for states; `habit` is what this server does to every answer.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from rag_embed.encoder import Encoder

Answer = tuple[int, dict[str, str], bytes]


class Standin:
    """One server; the local encoder's own tokenizer reads texts, with special tokens spelled out as such."""

    def __init__(self, encoder: Encoder, *, habit: str = "", key: str | None = None) -> None:
        self.encoder, self.habit, self.key = encoder, habit, key
        self.faults: list[str] = []
        self.requests: list[tuple[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.url = ""

    # --- what it computes

    def states(self, full: list[int]) -> np.ndarray:
        if self.habit == "adds":
            full = [full[0], *full][: self.encoder.max_tokens]
        limit = 40 if self.habit == "truncates" else len(full)
        ids = np.array(full[:limit], dtype=np.int64)
        (states,) = self.encoder.encode([ids], adds_special_tokens=False)
        found = states.float().numpy().copy()
        if self.habit == "normalises":
            found /= np.linalg.norm(found, axis=1, keepdims=True)
        if self.habit == "narrow":
            found = found[:, :-1]
        if self.habit == "pools":
            found = found.mean(0, keepdims=True)
        if self.habit == "coarse":
            found = found.astype(np.float16).astype(np.float32) * (1 + 5e-3)
        return found

    def read(self, text: str) -> list[int]:
        return [
            *self.encoder.prefix_ids,
            *self.encoder.tokenize_template(text.replace("{", "{{").replace("}", "}}"), x="").tolist(),
            *self.encoder.suffix_ids,
        ]

    # --- its wire

    def answer(self, method: str, path: str, body: Any, fault: str) -> Answer:
        if path == "/v1/models":
            return self._json({"object": "list", "data": [{"id": "served", "object": "model"}]})
        if path == "/pooling":
            if body["task"] != "token_embed" or body["add_special_tokens"] or body["model"] != "served":
                return 400, {}, b'{"error": "not what vLLM documents"}'
            if self.habit == "short" and any(len(ids) > 40 for ids in body["input"]):
                return 400, {}, b'{"error": {"message": "maximum context length is 40"}}'
            rows = [
                {
                    "index": i,
                    "object": "pooling",
                    "data": self._pack(self._spoil(self.states(ids), fault), body),
                }
                for i, ids in enumerate(body["input"])
            ]
            rows = rows[::-1] if "reorder" in (fault, self.habit) else rows
            rows = rows[:-1] if fault == "short" else rows
            rows = [*rows[:-1], {**rows[-1], "index": 0}] if fault == "twice" else rows
            return self._json({"object": "list", "model": "served", "data": rows})
        if path == "/tokenize":
            add = body["add_special_tokens"]
            read = [self.read(text) if add else self.read(text)[1:-1] for text in body["inputs"]]
            if self.habit == "other tokenizer":
                read = [[*ids[:-1], 5, ids[-1]] for ids in read]
            return self._json([[{"id": i, "text": "", "special": False} for i in ids] for ids in read])
        if path == "/embed_all":
            states = [self._spoil(self.states(self.read(text)), fault).tolist() for text in body["inputs"]]
            return self._json(states[:-1] if fault == "short" else states)
        return 404, {}, b"not found"

    def _pack(self, states: np.ndarray, body: Any) -> Any:
        if self.habit == "lists":
            return states.tolist()
        packed = base64.b64encode(states.astype("<f4").tobytes()).decode()
        return packed[:-8] if self.habit == "cut base64" else packed

    def _spoil(self, states: np.ndarray, fault: str) -> np.ndarray:
        if fault == "nan":
            states[len(states) // 2, 1] = np.nan
        if fault == "row":
            states = states[:-1]
        if fault == "dim":
            states = states[:, :-1]
        return states

    @staticmethod
    def _json(value: Any) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def serving(encoder: Encoder, **options: Any) -> Iterator[Standin]:
    """Run a stand-in in a thread."""
    standin = Standin(encoder, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._handle("GET", None)

        def do_POST(self) -> None:
            self._handle("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _handle(self, method: str, body: Any) -> None:
            with standin.lock:
                is_states = self.path in ("/pooling", "/embed_all")
                fault = standin.faults.pop(0) if standin.faults and is_states else ""
                standin.requests.append((self.path, body))
                standin.under_way += 1
                standin.most_under_way = max(standin.most_under_way, standin.under_way)
            try:
                self._send(method, body, fault)
            finally:
                with standin.lock:
                    standin.under_way -= 1

        def _send(self, method: str, body: Any, fault: str) -> None:
            if standin.key and self.headers.get("Authorization") != f"Bearer {standin.key}":
                told = f"no such key: {self.headers.get('Authorization')}".encode()
                status, headers, content = 401, {}, told
            elif fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            elif fault.split()[0:1] == ["status"]:
                _, code, *after = fault.split()
                status, headers, content = int(code), {"Retry-After": after[0]} if after else {}, b"busy"
            else:
                if fault == "delay":
                    time.sleep(1.0)
                status, headers, content = standin.answer(method, self.path, body, fault)
            if standin.habit == "slow":
                time.sleep(0.02)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "cut":
                content = content[: len(content) // 2]
                self.close_connection = True
            elif fault == "garbage":
                content = b"<" * len(content)
            self.wfile.write(content)
            if fault == "cut":
                self.connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        handle_error: Callable[..., None] = lambda *_: None

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
