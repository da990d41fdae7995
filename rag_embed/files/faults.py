"""What went wrong with a file, in one line."""

from __future__ import annotations

from tenacity import RetryError

from rag_embed.errors import RagEmbedError


def describe(error: BaseException) -> str:
    """Say what an error is about, without the wrappers that third-party code puts around it."""
    cause = _find_cause(error)
    if isinstance(cause, RagEmbedError):
        return str(cause)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror + (f": {cause.filename}" if cause.filename is not None else "")
    if isinstance(cause, MemoryError):
        return "there is not enough memory; use smaller files, a smaller model or a larger machine"
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


def _find_cause(error: BaseException) -> BaseException:
    if isinstance(error, RetryError) and (inner := error.last_attempt.exception()) is not None:
        return _find_cause(inner)
    if type(error) is Exception and error.__cause__ is not None:
        return _find_cause(error.__cause__)  # LlamaIndex's reader says "Error loading file" of all of them
    return error
