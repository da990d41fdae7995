"""How long a request may take from its first to its last byte, however slowly a server drips them.

The client's own time-out counts anew with every byte that arrives.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar, cast

T = TypeVar("T")
_STUMBLES = (AssertionError, AttributeError, TypeError, LookupError, json.JSONDecodeError, UnicodeDecodeError)


class DeadlineExceeded(Exception):  # noqa: N818
    """An answer did not end in time."""


class MalformedAnswer(Exception):  # noqa: N818
    """The client stumbled over an answer that no Qdrant gives, such as one without a result."""


async def answer_within(
    timeout_s: float | None, request: Callable[[], T | Awaitable[T]], *, blocks: bool
) -> T:
    """Send a request to a server and wait for the end of its answer.

    Args:
        timeout_s: How long; None for as long as the client waits.
        request: What sends it.
        blocks: Whether it blocks rather than returns what is to be awaited.

    Raises:
        DeadlineExceeded: The answer did not end in time.
        MalformedAnswer: The client stumbled over it.
    """
    try:
        if blocks:
            return cast(T, request() if timeout_s is None else _run(request, timeout_s))
        return await asyncio.wait_for(cast(Awaitable[T], request()), timeout_s)
    except (FutureTimeoutError, asyncio.TimeoutError) as error:
        raise DeadlineExceeded(f"the answer did not end within {timeout_s} s") from error
    except _STUMBLES as error:
        raise MalformedAnswer(f"{type(error).__name__}: {error}") from error


def _run(request: Callable[[], T], timeout_s: float) -> T:
    """Run a blocking request on a thread of its own, and leave it to itself when the time is over."""
    done: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            done.set_result(context.run(request))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name="rag-embed-request", daemon=True).start()
    return done.result(timeout_s)
