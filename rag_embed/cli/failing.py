"""Whatever goes wrong, in one message and an exit code; and what a signal does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from rag_embed.cli.options import ExitCode
from rag_embed.errors import RagEmbedError
from rag_embed.files.faults import describe

TRACEBACK_VARIABLE = "RAG_EMBED_TRACEBACK"
"""Environment variable that lets tracebacks be shown above the message."""

_KEPT = "what was done so far is kept; run the command again to go on"


class Terminated(BaseException):
    """The process was asked to end by SIGTERM; not an Exception, so that nothing takes it for a failure."""


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: files closed, child processes ended.

    The second signal of either kind ends the process at once.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for sent in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sent, signal.SIG_DFL)
        raise (KeyboardInterrupt if number == signal.SIGINT else Terminated)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child in multiprocessing.active_children():
            child.terminate()


def belongs_to_typer(error: BaseException) -> bool:
    """Whether an error is how Typer ends a command, or a reader that went away, which is not told."""
    # Typer carries a click of its own in late versions, so that classes cannot be told by their home.
    return isinstance(error, SystemExit | typer.Abort | BrokenPipeError) or hasattr(error, "exit_code")


def explain(error: BaseException) -> tuple[str, ExitCode]:
    """Find the message and the exit code for anything that can be raised."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {_KEPT}", ExitCode.INTERRUPTED
    if isinstance(error, Terminated):
        return f"terminated; {_KEPT}", ExitCode.TERMINATED
    if os.environ.get(TRACEBACK_VARIABLE):
        return f"{''.join(traceback.format_exception(error))}\n{describe(error)}", ExitCode.FAILED
    message = describe(error)
    if not isinstance(error, RagEmbedError | OSError | MemoryError):
        message += f" (unforeseen; {TRACEBACK_VARIABLE}=1 shows where it comes from)"
    return message, ExitCode.FAILED
