"""The documented way to a server that speaks OpenAI's protocol, against one that does, on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from rag_embed.chat.conversation import Conversation
from rag_embed.chat.llms import load_llm
from rag_embed.chat.turns import Turn
from tests.chats import open_searcher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WORDS = ["It ", "opens ", "at ", "seven ", "[1]."]
REQUESTS: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    """Answers every chat with the same words, as a stream where that is asked for; breaks off for "break"."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        REQUESTS.append(request)
        asked = str(request["messages"][-1]["content"])
        if "refuse" in asked:
            self.send_error(400, "no such model")
            return
        self.send_response(200)
        if not request.get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            content = json.dumps({**body, "choices": choices}).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in WORDS[: 2 if "break" in asked else None]:
            delta = {"role": "assistant", "content": word}
            body = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            self._send({**body, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if "break" in asked:
            self.close_connection = True
            return
        self._write(b"data: [DONE]\n\n")
        self._write(b"")

    def _send(self, event: dict[str, Any]) -> None:
        self._write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def converse_with(address: str) -> Conversation:
    arguments = (
        f"model=m api_base={address} api_key=none is_chat_model=true context_window=2048 max_retries=0"
    )
    llm = load_llm("llama_index.llms.openai_like:OpenAILike", arguments.split())
    return Conversation(open_searcher(), llm)


def test_a_server_answers_as_it_streams_and_at_once(address: str) -> None:
    REQUESTS.clear()
    conversation = converse_with(address)
    *pieces, turn = conversation.stream("When does the café open?")
    assert isinstance(turn, Turn)
    assert turn.error is None
    assert pieces == WORDS
    system, user = REQUESTS[0]["messages"]
    assert user == {"role": "user", "content": "When does the café open?"}
    assert f"[1] {turn.citations[0].passage.place}\n{turn.citations[0].passage.text}" in system["content"]
    again = conversation.ask("And when does it close?")
    assert again.answer == "".join(WORDS)
    assert again.searched == "".join(WORDS)  # it condenses by the same words
    assert [message["role"] for message in REQUESTS[-1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_a_server_that_breaks_off_or_refuses_or_is_not_there_loses_nothing(address: str) -> None:
    conversation = converse_with(address)
    *_, broken = conversation.stream("break off, please")
    assert isinstance(broken, Turn)
    assert broken.answer == "It opens "
    assert str(broken.error).startswith("OpenAILike broke off after 9 characters (")
    conversation.reset()
    assert "OpenAILike gave no answer (BadRequestError" in str(conversation.ask("refuse this").error)
    nobody = converse_with("http://127.0.0.1:9/v1")
    assert "OpenAILike gave no answer (APIConnectionError" in str(nobody.ask("Anybody there?").error)
    assert len(nobody.turns) == 1
