"""Requests to one server: bounded in number, repeated where that may help, reported without secrets."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from rag_embed.errors import EncoderAnswerError, EncoderUnavailableError, InputError
from rag_embed.served.server import KEY_VARIABLE, Server

_CLOCK_DIGITS = 15
_TRANSIENT = {408, 425, 429}


class Connection:
    """Asks one address of a server.

    Args:
        server: How it is asked.
        url: Which of its addresses.
    """

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url.rstrip("/")
        self._key = server.find_key()
        self._slots = threading.BoundedSemaphore(server.requests_in_flight)
        self._opened: tuple[int, httpx.Client] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def get(self, path: str) -> Any:
        """Ask for a JSON value; as `post`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        """Send JSON and give back the JSON of the answer.

        Only as many requests as the server's options allow are under way at a time; others wait here.

        Raises:
            EncoderUnavailableError: The server does not answer, also not after several attempts, or does not
                let us in.
            InputError: It answers that the request is wrong.
            EncoderAnswerError: It answers with something that is no JSON.
        """
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: object) -> Any:
        retrying = Retrying(
            stop=stop_after_attempt(self.server.attempts),
            wait=self._wait_s,
            retry=retry_if_exception(self._is_worth_repeating),
            reraise=True,
        )
        try:
            response = retrying(self._send, method, path, body)
        except httpx.HTTPError as error:
            raise self._explain(error, path) from error
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise EncoderAnswerError(
                f"{self.url}{path} answered with {len(response.content)} bytes that are no JSON, "
                f"{self._shown(response.text[:80])!r}; expected token states. Check url and port, and "
                "whether a proxy, a login page or another program answers there or cuts answers"
            ) from error

    def _send(self, method: str, path: str, body: object) -> httpx.Response:
        with self._slots:
            response = self._client().request(method, f"{self.url}{path}", json=body)
        if response.is_redirect:
            raise httpx.HTTPStatusError("a redirect", request=response.request, response=response)
        return response.raise_for_status()

    def _client(self) -> httpx.Client:
        """The client of this process: sockets of a parent are not used by its children."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
                limits = httpx.Limits(max_connections=self.server.requests_in_flight)
                client = httpx.Client(headers=headers, timeout=self.server.timeout_s, limits=limits)
                self._opened = os.getpid(), client
                weakref.finalize(self, client.close)
            return self._opened[1]

    def renew_lock(self) -> None:
        """Forget who holds the connection: after a fork, nobody who could let go of it."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self.server.requests_in_flight)

    def _is_worth_repeating(self, error: BaseException) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            status = error.response.status_code
            asked_s = _retry_after_s(error.response)
            is_patient = asked_s is None or asked_s <= self.server.max_wait_s
            return is_patient and (status in _TRANSIENT or status >= 500)
        return isinstance(error, httpx.TransportError)

    def _wait_s(self, state: RetryCallState) -> float:
        first = self.server.first_wait_s
        growing: Callable[[RetryCallState], float] = wait_exponential(multiplier=first) + wait_random(
            0, first
        )
        error = state.outcome.exception() if state.outcome else None
        asked_s = _retry_after_s(error.response) if isinstance(error, httpx.HTTPStatusError) else None
        return max(min(growing(state), self.server.max_wait_s), asked_s or 0.0)

    def _explain(self, error: httpx.HTTPError, path: str) -> Exception:
        """Say what failed, in terms of what the user can do about it."""
        where = f"{self.url}{path}"
        if not isinstance(error, httpx.HTTPStatusError):
            return EncoderUnavailableError(
                f"{where} does not answer ({self.server.attempts} attempts): {type(error).__name__}: "
                f"{self._shown(str(error)[:300])}; expected a running {self.server.engine} server. Check the "
                "url, that it is up, its load and its log"
            )
        response = error.response
        status, detail = response.status_code, self._shown(response.text.strip()[:300])
        if status in {401, 403}:
            return EncoderUnavailableError(
                f"{where} refused the credentials ({status}): {detail}; expected the key that the server was "
                f"started with. Pass api_key=, or set {KEY_VARIABLE}"
            )
        if status in _TRANSIENT or status >= 500:
            asked_s = _retry_after_s(response)
            wish = f", asking to wait {asked_s:g} s" if asked_s else ""
            return EncoderUnavailableError(
                f"{where} answered {status}{wish} (at most {self.server.attempts} attempts): {detail}; "
                "expected token states. Look at its load and its log, or send fewer requests at a time"
            )
        if status == 404 or response.is_redirect:
            return EncoderAnswerError(
                f"{where} answered {status}: {detail}; expected a {self.server.engine} server that has this "
                "address. Check url and engine (docs/serving.md)"
            )
        return InputError(
            f"{where} refused the request ({status}): {detail}; expected it to take what this model reads. "
            "Check with which model and lengths it was started (docs/serving.md)"
        )

    def _shown(self, text: str) -> str:
        """What a server wrote, without the key, which it may repeat."""
        return text.replace(self._key, "***") if self._key else text


def _retry_after_s(response: httpx.Response) -> float | None:
    """Read a number of seconds, None if it is none; one of more digits than any clock has is infinite."""
    text = response.headers.get("Retry-After", "")
    if not (text.isascii() and text.isdigit()):
        return None
    return float(text) if len(text) <= _CLOCK_DIGITS else math.inf
