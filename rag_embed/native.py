"""The way of models that were trained to embed the chunks of a document together.

Perplexity 2026, "Diffusion-Pretrained Dense and Contextual Embeddings", arXiv:2602.11151, and the model cards
of pplx-embed-context: the chunks are joined by the tokenizer's separator, read in one bidirectional pass, and
each vector is the mean of the states between two separators. A query is a document of one chunk. Differences:
separator text inside a chunk is read as ordinary characters, so it cannot break the count; a document that is
longer than the window is read in several, cut between chunks, instead of losing its end; a chunk that is
longer alone is averaged over windows of its own; an empty chunk has the state of its separator instead of a
vector of zeros, which would have no direction; a context head, if there is one, is a chunk of its own before
the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.errors import EmptyTextError
from rag_embed.guards import check_form, check_native
from rag_embed.passes import (
    DEFAULT_WINDOWS,
    NO_TOKENS,
    JoinedReading,
    Reading,
    TokenEncoder,
    WindowOptions,
    make_window_reading,
    read,
    tokenize_head,
    window_capacity,
)
from rag_embed.spans import TokenSpan
from rag_embed.vector_form import UNIT_FORM, VectorForm, form_vectors

TokenIds = Int[np.ndarray, " _"]


@dataclass(frozen=True, slots=True)
class ChunkWindow:
    """Consecutive chunks in one pass, and those whose vectors are taken from it; all ranges half-open.

    Attributes:
        start: First chunk that is read.
        end: One past the last.
        own_start: First chunk that it owns.
        own_end: One past the last that it owns.
    """

    start: int
    end: int
    own_start: int
    own_end: int


def embed_native(
    encoder: TokenEncoder,
    chunks: Sequence[str],
    *,
    prefix: str = "",
    head: str = "",
    options: WindowOptions = DEFAULT_WINDOWS,
    form: VectorForm = UNIT_FORM,
) -> Float[Tensor, "chunks form_dim"]:
    """Embed the chunks of one document together, joined by the model's separator.

    Args:
        encoder: Of a model that has a separator.
        chunks: Texts in reading order, in any number and of any length.
        prefix: Put before every window, attended to and never pooled.
        head: A title or heading path; a chunk of its own before every window, never pooled.
        options: Sizes of windows, overlap and head.
        form: Size and numbers of the vectors.

    Returns:
        One vector per chunk in the given order, float32 on the CPU; of length 1 unless `form` says otherwise.

    Raises:
        UnsupportedModelError: The model was not trained so.
        EmptyTextError: No chunk has a token.
    """
    check_native(encoder.profile)
    check_form(encoder.profile, form, encoder.insist)
    reading = make_native_reading(encoder, chunks, prefix=prefix, head=head, options=options)
    return form_vectors(read(encoder, reading), form)


@dataclass(frozen=True, slots=True)
class NativeReading:
    """Consecutive chunks that fit into one pass; a row for each that is owned.

    Attributes:
        token_ids: Head and chunks, joined.
        token_spans: The owned chunks, counted from the first token of the first chunk.
        skipped: Tokens before it, special tokens included.
    """

    token_ids: TokenIds
    token_spans: Sequence[TokenSpan]
    skipped: int

    @property
    def sequences(self) -> Sequence[TokenIds]:
        """The one pass."""
        return [self.token_ids]

    def finish(self, states: Iterator[Float[Tensor, "_ dim"]]) -> Float[Tensor, "chunks dim"]:
        """Average between the separators."""
        of_chunks = next(states)[self.skipped :].float()
        return torch.stack([of_chunks[span.start : span.end].mean(dim=0) for span in self.token_spans]).cpu()


def make_native_reading(
    encoder: TokenEncoder, chunks: Sequence[str], *, prefix: str, head: str, options: WindowOptions
) -> Reading:
    """Make the chunks of a document ready; see `embed_native`."""
    separator = encoder.tokenize_template(encoder.profile.separator)
    chunk_ids = [tokens.ids for tokens in encoder.tokenize_all(chunks)]
    if chunks and not any(map(len, chunk_ids)):
        raise EmptyTextError(
            f"the tokenizer sees nothing in any of {len(chunks)} chunks, the first is {chunks[0][:40]!r}; "
            "leave the document out"
        )
    head_ids = encoder.tokenize(prefix).ids if prefix else NO_TOKENS
    if head:
        head_ids = np.concatenate([head_ids, tokenize_head(encoder, head, options), separator])
    capacity = window_capacity(encoder, options) - len(head_ids)
    windows = make_chunk_windows(
        [len(ids) for ids in chunk_ids], capacity=capacity, overlap=min(options.overlap_tokens, capacity // 4)
    )
    parts: list[Reading] = []
    for window in windows:
        ids, spans = _join(chunk_ids[window.start : window.end], separator)
        if len(ids) > capacity:  # one chunk that is longer than the window
            whole = [TokenSpan(0, len(ids))]
            parts.append(make_window_reading(encoder, ids, whole, head_ids=head_ids, options=options))
        else:
            own = spans[window.own_start - window.start : window.own_end - window.start]
            full = np.concatenate([head_ids, ids]).astype(np.int64)
            parts.append(NativeReading(full, own, len(encoder.prefix_ids) + len(head_ids)))
    return JoinedReading(parts, encoder.dim)


def make_chunk_windows(lengths: Sequence[int], *, capacity: int, overlap: int) -> list[ChunkWindow]:
    """Cover a document's chunks with windows cut between chunks; each chunk is owned by exactly one.

    A document that fits is one window. Otherwise each window owns as many chunks as fit beside an overlap on
    both sides, and is then filled with whole chunks before and behind them. A chunk that is longer than a
    window stands alone.

    Args:
        lengths: Tokens of each chunk; one separator stands between two.
        capacity: Most tokens of a window.
        overlap: Tokens kept free on each side for neighbours.

    Returns:
        The windows in reading order; none for no chunks.
    """
    ends = np.cumsum([0, *(length + 1 for length in lengths)])

    def size(start: int, end: int) -> int:
        return int(ends[end] - ends[start]) - 1

    if lengths and size(0, len(lengths)) <= capacity:
        return [ChunkWindow(0, len(lengths), 0, len(lengths))]
    windows = []
    own_start = 0
    while own_start < len(lengths):
        own_end = own_start + 1
        while own_end < len(lengths) and size(own_start, own_end + 1) <= capacity - 2 * overlap:
            own_end += 1
        start, end = own_start, own_end
        can_grow = True
        while can_grow:
            can_grow = False
            if start > 0 and size(start - 1, end) <= capacity:
                start, can_grow = start - 1, True
            if end < len(lengths) and size(start, end + 1) <= capacity:
                end, can_grow = end + 1, True
        windows.append(ChunkWindow(start, end, own_start, own_end))
        own_start = own_end
    return windows


def _join(chunk_ids: Sequence[TokenIds], separator: TokenIds) -> tuple[TokenIds, list[TokenSpan]]:
    """One sequence out of several chunks, and where each stands in it.

    An empty chunk stands at the separator that ends it, the last one at the separator before it.
    """
    parts: list[TokenIds] = []
    spans: list[TokenSpan] = []
    length = 0
    for ids in chunk_ids:
        if spans:
            parts.append(separator)
            length += len(separator)
        parts.append(ids)
        spans.append(TokenSpan(length, length + len(ids)))
        length += len(ids)
    if length == 0:  # an empty chunk between two that have windows of their own
        parts, length = [separator], len(separator)
    spans = [span if len(span) else _separator_at(min(span.start, length - 1)) for span in spans]
    return np.concatenate(parts), spans


def _separator_at(index: int) -> TokenSpan:
    return TokenSpan(index, index + 1)
