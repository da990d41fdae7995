"""Where an encoder is served, and how patiently it is asked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from rag_embed.errors import InputError

Engine = Literal["torch", "vllm", "tei"]
"""What computes token states: this process, vLLM, or text-embeddings-inference."""

KEY_VARIABLE = "RAG_EMBED_SERVER_API_KEY"
"""Environment variable with the key of the servers, for all who are given none, such as worker processes."""


@dataclass(frozen=True, slots=True)
class Server:
    """One or two servers of an encoder, and how they are asked.

    Attributes:
        engine: What runs there.
        url: Serves the checkpoint as it is: queries, and chunks alone.
        context_url: Serves the weights with the adapter merged (`rag-embed export`), which read windows.
            Needed with an adapter only.
        api_key: Sent as a bearer token; None takes the environment's, if there is one. Never shown.
        timeout_s: How long one answer may take.
        batch_tokens: Most tokens of one request, unless a single sequence is longer.
        batch_sequences: Most sequences of one request; text-embeddings-inference refuses more than 32.
        requests_in_flight: Most requests that wait for an answer at the same time; nothing is read ahead.
        attempts: Tries of a request in all, the first included.
        first_wait_s: Pause after the first failure; it doubles from one to the next, with jitter.
        max_wait_s: Longest pause. A server that asks for more (Retry-After) is given up at once.

    Raises:
        InputError: A url is none, or carries a password; or the key cannot be sent.
    """

    engine: Engine
    url: str
    context_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    batch_tokens: int = 4096
    batch_sequences: int = 32
    requests_in_flight: int = 4
    attempts: int = 5
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.engine not in {"vllm", "tei"}:
            raise InputError(
                f"engine is {self.engine!r} beside a server; expected 'vllm' or 'tei', which is "
                "text-embeddings-inference"
            )
        for url in (self.url, self.context_url):
            if url is not None:
                _check_url(url)
        key = self.find_key()
        # An HTTP library would show the whole key in its own complaint.
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
            raise InputError(
                "the api_key of the server is empty or has characters that no HTTP header can carry, such as "
                f"a line break; expected printable ASCII. Check api_key= or {KEY_VARIABLE}"
            )

    def find_key(self) -> str | None:
        """The key that was given, or the environment's."""
        return os.environ.get(KEY_VARIABLE) if self.api_key is None else self.api_key


def _check_url(url: str) -> None:
    """Refuse an address with a password, or one that names no server."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        is_address = False
    if is_address and "@" in parts.netloc:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InputError(
            f"the url of {shown} carries a user or password, which would stand in errors and pickles; "
            "expected an address alone. Pass api_key="
        )
    if not is_address or parts.query or parts.fragment:
        # What is no address may still hold a password.
        shown = "one with a user part" if "@" in url else repr(url)
        raise InputError(
            f"the url of the server is {shown}; expected an address such as http://127.0.0.1:8000"
        )
