"""Documents made ready for the encoder by a recipe: what is read in context, and what is read alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from rag_embed.chunked_text import ChunkedText
from rag_embed.errors import EmptyTextError
from rag_embed.late_chunking import make_isolated_reading
from rag_embed.late_interaction import SpanTokens, keep_tokens_alone, make_span_tokens
from rag_embed.max_sim import TokenForm
from rag_embed.native import make_native_reading
from rag_embed.passes import (
    NO_TOKENS,
    JoinedReading,
    Reading,
    TokenEncoder,
    WindowReading,
    make_window_reading,
    tokenize_head,
)
from rag_embed.recipe import Recipe
from rag_embed.shared_reading import SharedReading, make_shared_reading
from rag_embed.spans import TokenSpan, find_tokens
from rag_embed.tokens import Tokens

logger = logging.getLogger(__name__)

InContext: TypeAlias = tuple[Reading, list[int]]
"""What is read in context, and which chunks its rows are."""


def prepare_in_context(
    encoder: TokenEncoder, documents: Sequence[ChunkedText], recipe: Recipe, token_form: TokenForm | None
) -> list[InContext]:
    """Make documents ready whose chunks know each other.

    Args:
        encoder: Will read them.
        documents: Tokenised together, on all cores.
        recipe: How they are read; nothing is in context where it says "isolated".
        token_form: What is kept of token states; None keeps nothing.

    Returns:
        For each document its reading. A chunk without a token, which no window knows, has no row.
    """
    if recipe.strategy == "isolated":
        return [(JoinedReading([], encoder.dim), []) for _ in documents]
    if recipe.strategy == "native":
        return [_prepare_native(encoder, document, recipe) for document in documents]
    tokens = encoder.tokenize_all([document.text for document in documents])
    return [
        _prepare_late(encoder, document, each, recipe, token_form)
        for document, each in zip(documents, tokens, strict=True)
    ]


def prepare_shared(
    encoder: TokenEncoder, documents: Sequence[ChunkedText], recipe: Recipe, token_form: TokenForm | None
) -> list[tuple[SharedReading, list[int]]]:
    """Make documents ready whose chunks are read both ways in one pass; else as `prepare_in_context`."""
    tokens = encoder.tokenize_all([document.text for document in documents])
    prepared = []
    for document, each in zip(documents, tokens, strict=True):
        rows, spans = find_chunks(document, each)
        kept = [] if token_form is None else keep_tokens_apart(encoder, each, spans, token_form)
        reading = make_document_windows(encoder, document, each, spans, recipe=recipe, readers=kept)
        prepared.append((reading, rows))
    return prepared


def make_document_windows(
    encoder: TokenEncoder,
    document: ChunkedText,
    tokens: Tokens,
    token_spans: Sequence[TokenSpan],
    *,
    recipe: Recipe,
    readers: Sequence[SpanTokens] = (),
) -> SharedReading:
    """Make the windows of whole chunks of a tokenised document ready."""
    options, prefix = recipe.window_options, recipe.prefix("document")
    return make_shared_reading(
        encoder,
        tokens.ids,
        token_spans,
        head_ids=tokenize_head(encoder, document.head, options),
        prefix_ids=encoder.tokenize(prefix).ids if prefix else NO_TOKENS,
        options=options,
        readers=readers,
    )


def keep_tokens_apart(
    encoder: TokenEncoder, tokens: Tokens, spans: Sequence[TokenSpan], form: TokenForm
) -> list[SpanTokens]:
    """Make ready to keep token vectors chunk by chunk: chunks that overlap have states of their own."""
    return [make_span_tokens(encoder, tokens.ids, [span], form) for span in spans]


def prepare_alone(
    encoder: TokenEncoder,
    document: ChunkedText,
    rows: Sequence[int],
    recipe: Recipe,
    token_form: TokenForm | None,
) -> tuple[Reading, list[SpanTokens]]:
    """Make some chunks of a document ready to be read alone.

    Returns:
        The reading, and what is kept of each chunk: something only where `keeps_tokens_alone` says so.
    """
    texts, prefix = document.texts, recipe.prefix("document")
    prefixed = [prefix + texts[row] for row in rows]
    reading = make_isolated_reading(encoder, prefixed, options=recipe.window_options)
    if token_form is not None and keeps_tokens_alone(encoder, recipe):
        return keep_tokens_alone(encoder, reading, token_form)
    return reading, []


def keeps_tokens_alone(encoder: TokenEncoder, recipe: Recipe) -> bool:
    """Whether chunks that are read alone keep token vectors: where the model was trained to compare them."""
    return recipe.strategy == "isolated" and encoder.scored_tokens is not None


def prepare_windows(
    encoder: TokenEncoder,
    document: ChunkedText,
    token_ids: Int[np.ndarray, " tokens"],
    token_spans: Sequence[TokenSpan],
    *,
    recipe: Recipe,
    readers: Sequence[SpanTokens] = (),
) -> WindowReading:
    """Make the windows of a tokenised document ready."""
    options = recipe.window_options
    head_ids = tokenize_head(encoder, recipe.prefix("document") + document.head, options)
    return make_window_reading(
        encoder, token_ids, token_spans, head_ids=head_ids, options=options, readers=readers
    )


def _prepare_native(encoder: TokenEncoder, document: ChunkedText, recipe: Recipe) -> InContext:
    chunks = [document.text[span.start : span.end] for span in document.spans]
    try:
        reading = make_native_reading(
            encoder,
            chunks,
            prefix=recipe.prefix("document"),
            head=document.head,
            options=recipe.window_options,
        )
    except EmptyTextError:
        _warn_of_chunks_without_context(len(chunks), document)
        return JoinedReading([], encoder.dim), []
    return reading, list(range(len(chunks)))


def _prepare_late(
    encoder: TokenEncoder,
    document: ChunkedText,
    tokens: Tokens,
    recipe: Recipe,
    token_form: TokenForm | None,
) -> InContext:
    rows, known = find_chunks(document, tokens)
    if not rows:
        return JoinedReading([], encoder.dim), []
    readers = [] if token_form is None else [make_span_tokens(encoder, tokens.ids, known, token_form)]
    return prepare_windows(encoder, document, tokens.ids, known, recipe=recipe, readers=readers), rows


def find_chunks(document: ChunkedText, tokens: Tokens) -> tuple[list[int], list[TokenSpan]]:
    """Chunks with tokens, and where these are."""
    spans = find_tokens(document.text, tokens.starts, tokens.ends, document.spans)
    rows = [row for row, span in enumerate(spans) if len(span)]
    if len(rows) < len(spans):
        _warn_of_chunks_without_context(len(spans) - len(rows), document)
    return rows, [spans[row] for row in rows]


def _warn_of_chunks_without_context(count: int, document: ChunkedText) -> None:
    logger.warning(
        "%d of %d chunks have no token and are embedded alone, in a document that begins %r",
        count,
        len(document.spans),
        document.text[:40],
    )
