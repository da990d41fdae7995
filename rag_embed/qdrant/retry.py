"""Which failures of a server deserve another attempt, when, and how the others are reported."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

from rag_embed.errors import StoreError, StoreUnavailableError
from rag_embed.qdrant.deadline import DeadlineExceeded, MalformedAnswer

T = TypeVar("T")
ENGINE_ERRORS = (
    ApiException,
    QdrantException,
    grpc.RpcError,
    httpx.HTTPError,
    ValueError,
    DeadlineExceeded,
    MalformedAnswer,
)
"""What qdrant-client raises (ValueError is local mode's only kind), and what we say of its answers."""

_GRPC_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.DEADLINE_EXCEEDED: 408,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_CLOCK_DIGITS = 15
_UNREACHABLE = 0
"""Status of a request that got no answer."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently a server is asked again.

    Attributes:
        attempts: Tries in all, the first included.
        first_wait_s: Pause after the first failure; it doubles from one to the next, with jitter.
        max_wait_s: Longest pause. A server that asks for more (Retry-After) is given up at once.
    """

    attempts: int = 4
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    async def call(
        self, request: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]], where: str
    ) -> T:
        """Send a request until it succeeds, fails for good, or has been tried often enough.

        Args:
            request: Must be safe to repeat, as all requests of this package are.
            sleep: Waits the given seconds.
            where: The server, for messages.

        Raises:
            StoreUnavailableError: The server does not answer, or does not let us in.
            StoreError: It answers that the request is wrong.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=self._wait_s,
            retry=retry_if_exception(self._is_worth_repeating),
            sleep=sleep,
            reraise=True,
        )
        try:
            return await retrying(request)
        except ENGINE_ERRORS as error:
            raise to_store_error(error, where, self.attempts) from error

    def _is_worth_repeating(self, error: BaseException) -> bool:
        if not is_transient(error):
            return False
        asked_s = retry_after_s(error)
        return asked_s is None or asked_s <= self.max_wait_s

    def _wait_s(self, state: RetryCallState) -> float:
        growing = wait_exponential(multiplier=self.first_wait_s) + wait_random(0, self.first_wait_s)
        backoff_s = min(growing(state), self.max_wait_s)
        error = state.outcome.exception() if state.outcome else None
        return max(backoff_s, (retry_after_s(error) if error else None) or 0.0)


def status_of(error: BaseException) -> int | None:
    """Find the HTTP status that a failure has or corresponds to; 0 without an answer, None if unknown."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    if isinstance(error, ResponseHandlingException):
        return status_of(error.source)
    if isinstance(error, httpx.TransportError | DeadlineExceeded):
        return _UNREACHABLE
    if isinstance(error, grpc.RpcError):
        code = getattr(error, "code", None)
        return _GRPC_STATUS.get(code()) if callable(code) else None
    if isinstance(error, QdrantException):
        # The client makes one of every 429 that has a Retry-After, readable or not.
        return 429
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, 408, 429 or 5xx."""
    status = status_of(error)
    return status is not None and (status in (_UNREACHABLE, 408, 429) or status >= 500)


def retry_after_s(error: BaseException) -> float | None:
    """Read how many seconds the server asks to wait."""
    if isinstance(error, ResourceExhaustedResponse):
        return _to_seconds(str(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return _to_seconds(error.headers.get("Retry-After", ""))
    return None


def _to_seconds(text: str) -> float | None:
    """Read a number of seconds, None if it is none; one of more digits than any clock has is infinite."""
    if not (text.isascii() and text.isdigit()):
        return None
    return float(text) if len(text) <= _CLOCK_DIGITS else math.inf


def to_store_error(error: BaseException, where: str, attempts: int) -> StoreError:
    """Say what failed, in terms of what the user can do about it."""
    status = status_of(error)
    if status in (401, 403):
        return StoreUnavailableError(
            f"{where} refused the credentials ({status}): {_detail(error)}; expected an api_key with access "
            "to the collection. Pass api_key=, or set QDRANT_API_KEY where a store was unpickled"
        )
    if is_transient(error):
        asked_s = retry_after_s(error)
        wish = f", asking to wait {asked_s:g} s" if asked_s else ""
        answer = "does not answer" if status == _UNREACHABLE else f"answered {status}{wish}"
        return StoreUnavailableError(
            f"{where} {answer} (at most {attempts} attempts): {_detail(error)}; expected a running Qdrant. "
            "Check the url, that the server is up (`docker compose up -d`), its load and its log"
        )
    if isinstance(error, MalformedAnswer) or (
        isinstance(error, ResponseHandlingException) and status is None
    ):
        return StoreError(
            f"{where} answered with something that is none of Qdrant's answers: {_detail(error)}; expected "
            "its REST interface. Check url and port, and whether a login page, a proxy or another program "
            "answers there"
        )
    if status == 404:
        return StoreError(f"{where} does not have it (404): {_detail(error)}; check collection_name and url")
    return StoreError(f"{where} refused the request ({status or type(error).__name__}): {_detail(error)}")


def _detail(error: BaseException) -> str:
    if isinstance(error, UnexpectedResponse):
        return error.content.decode("utf-8", "replace").strip()[:300] or error.reason_phrase
    if isinstance(error, ResponseHandlingException):
        return f"{type(error.source).__name__}: {str(error.source)[:300]}"
    if isinstance(error, grpc.RpcError):
        details = getattr(error, "details", None)
        return str(details() if callable(details) else error)[:300]
    return str(error)[:300]
