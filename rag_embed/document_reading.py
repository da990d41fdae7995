"""Documents made ready for the encoder by a recipe: what is read in context, and what is read alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeAlias

from rag_embed.chunked_text import ChunkedText
from rag_embed.encoder import Encoder
from rag_embed.errors import EmptyTextError
from rag_embed.late_chunking import make_isolated_reading
from rag_embed.late_interaction import SpanTokens
from rag_embed.max_sim import TokenForm
from rag_embed.native import make_native_reading
from rag_embed.passes import JoinedReading, Reading, make_window_reading, tokenize_head
from rag_embed.recipe import Recipe
from rag_embed.spans import find_tokens
from rag_embed.tokens import Tokens

logger = logging.getLogger(__name__)

InContext: TypeAlias = tuple[Reading, list[int]]
"""What is read in context, and which chunks its rows are."""


def prepare_in_context(
    encoder: Encoder, documents: Sequence[ChunkedText], recipe: Recipe, token_form: TokenForm | None
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
        _prepare_windows(encoder, document, each, recipe, token_form)
        for document, each in zip(documents, tokens, strict=True)
    ]


def prepare_alone(encoder: Encoder, document: ChunkedText, rows: Sequence[int], recipe: Recipe) -> Reading:
    """Make some chunks of a document ready to be read alone."""
    texts, prefix = document.texts, recipe.prefix("document")
    return make_isolated_reading(
        encoder, [prefix + texts[row] for row in rows], options=recipe.window_options
    )


def _prepare_native(encoder: Encoder, document: ChunkedText, recipe: Recipe) -> InContext:
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


def _prepare_windows(
    encoder: Encoder,
    document: ChunkedText,
    tokens: Tokens,
    recipe: Recipe,
    token_form: TokenForm | None,
) -> InContext:
    spans = find_tokens(document.text, tokens.starts, tokens.ends, document.spans)
    rows = [row for row, span in enumerate(spans) if len(span)]
    if len(rows) < len(spans):
        _warn_of_chunks_without_context(len(spans) - len(rows), document)
    if not rows:
        return JoinedReading([], encoder.dim), []
    known = [spans[row] for row in rows]
    head = recipe.prefix("document") + document.head
    reading = make_window_reading(
        encoder,
        tokens.ids,
        known,
        head_ids=tokenize_head(encoder, head, recipe.window_options),
        options=recipe.window_options,
        readers=[] if token_form is None else [SpanTokens(known, token_form)],
    )
    return reading, rows


def _warn_of_chunks_without_context(count: int, document: ChunkedText) -> None:
    logger.warning(
        "%d of %d chunks have no token and are embedded alone, in a document that begins %r",
        count,
        len(document.spans),
        document.text[:40],
    )
