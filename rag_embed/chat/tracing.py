"""Answers that come in pieces, each inside one span of LlamaIndex's instrumentation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TypeVar
from uuid import uuid4

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span import active_span_id

dispatcher = get_dispatcher(__name__)

T = TypeVar("T")


def trace_pieces(
    pieces: Iterator[T],
    *,
    instance: object,
    method: str,
    arguments: inspect.BoundArguments,
    outcome: Callable[[], object],
) -> Iterator[T]:
    """Give what an iterator gives, in a span that ends with it.

    LlamaIndex's own decorator ends the span of a generator before its first piece. Here the iterator runs in
    a context of its own, so that everything it does belongs to the span, and nothing that whoever reads the
    pieces does in between.

    Args:
        pieces: The work; a generator, which is closed when nobody wants more.
        instance: Whose method it is.
        method: Its name; the span is called after class and method.
        arguments: What it was called with: the span's input.
        outcome: The span's output, asked for when the work is over.
    """
    context = copy_context()
    span_id = f"{type(instance).__name__}.{method}-{uuid4()}"

    def enter() -> None:
        parent_id = active_span_id.get()
        active_span_id.set(span_id)
        dispatcher.span_enter(id_=span_id, bound_args=arguments, instance=instance, parent_id=parent_id)

    def leave() -> None:
        dispatcher.span_exit(id_=span_id, bound_args=arguments, instance=instance, result=outcome())

    def drop(error: BaseException) -> None:
        dispatcher.span_drop(id_=span_id, bound_args=arguments, instance=instance, err=error)

    context.run(enter)
    end = object()
    try:
        while (piece := context.run(next, pieces, end)) is not end:
            yield piece  # type: ignore[misc]
    except GeneratorExit:  # whoever reads has enough: no fault
        context.run(pieces.close)  # type: ignore[attr-defined]
        context.run(leave)
        raise
    except BaseException as error:
        context.run(drop, error)
        raise
    context.run(leave)
