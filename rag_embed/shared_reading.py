"""A document made ready for `shared_layers.py`, and what becomes of its states."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.chunk_windows import NO_CHUNK, Piece, cut_pieces, group_pieces
from rag_embed.passes import NO_TOKENS, StateReader, TokenEncoder, WindowOptions, window_capacity
from rag_embed.shared_layers import SharedLayers, TwoReadings, WindowTexts
from rag_embed.spans import TokenSpan


@dataclass(frozen=True, slots=True)
class Halves:
    """Mean states of chunks, or of their pieces in one window, a row each, float32, not normalised.

    Attributes:
        alone: Each by itself, over special tokens and prefix too, as the encoder was trained.
        in_context: Each in its window, over its own tokens.
    """

    alone: Float[Tensor, "chunks dim"]
    in_context: Float[Tensor, "chunks dim"]


@dataclass(frozen=True, slots=True)
class SharedReading:
    """A document in windows of whole chunks.

    Attributes:
        token_ids: The document.
        chunk_count: Of its chunks.
        dim: Size of a token state.
        windows: Which pieces of chunks, and of text between them, stand together.
        head_ids: A text of its own before the chunks of every window, with special tokens; empty for none.
        prefix_ids: Before the tokens of every piece, special tokens included.
        suffix_ids: Behind them.
        readers: For each chunk what else sees the states of its tokens in context; none at all, or all.
    """

    token_ids: Int[np.ndarray, " tokens"]
    chunk_count: int
    dim: int
    windows: Sequence[Sequence[Piece]]
    head_ids: Int[np.ndarray, " head"]
    prefix_ids: Int[np.ndarray, " prefix"]
    suffix_ids: Int[np.ndarray, " suffix"]
    readers: Sequence[StateReader] = ()

    @property
    def texts(self) -> Iterator[WindowTexts]:
        """Window by window what the encoder has to see."""
        head = [self.head_ids] if len(self.head_ids) else []
        for window in self.windows:
            ids = (self.token_ids[piece.start : piece.end] for piece in window)
            texts = (np.concatenate([self.prefix_ids, each, self.suffix_ids]) for each in ids)
            yield [*head, *texts]

    def only(self, rows: Collection[int]) -> SharedReading:
        """Leave out the windows that hold nothing of these chunks."""
        needed = [window for window in self.windows if any(piece.row in rows for piece in window)]
        return replace(self, windows=needed)

    def finish(self, states: Iterator[Sequence[TwoReadings]]) -> Halves:
        """Take the states of the own windows off the stream and average them, chunk by chunk."""
        return self.join([self.pool(window, next(states)) for window in self.windows])

    def pool(self, window: Sequence[Piece], readings: Sequence[TwoReadings]) -> Halves:
        """Average the states of a window, piece by piece, text between chunks left out."""
        alone: list[Float[Tensor, " dim"]] = []
        in_context: list[Float[Tensor, " dim"]] = []
        for piece, reading in zip(window, readings[-len(window) :], strict=True):
            if piece.row == NO_CHUNK:
                continue
            own = self.own_states(reading)
            if self.readers:
                self.readers[piece.row].add(own, piece.start)
            alone.append(reading.alone.float().mean(dim=0))
            in_context.append(own.float().mean(dim=0))
        if not alone:
            nothing = readings[0].alone.new_empty(0, self.dim, dtype=torch.float32)
            return Halves(nothing, nothing)
        return Halves(torch.stack(alone), torch.stack(in_context))

    def own_states(self, reading: TwoReadings) -> Float[Tensor, "tokens dim"]:
        """States in context of a piece's own tokens: without special ones and prefix."""
        return reading.in_context[len(self.prefix_ids) : len(reading.in_context) - len(self.suffix_ids)]

    def join(self, pooled: Sequence[Halves]) -> Halves:
        """Put the pieces of all windows together.

        A chunk of several pieces has the mean of their means, by their own tokens.
        """
        pieces = [piece for window in self.windows for piece in window if piece.row != NO_CHUNK]
        rows, sizes = [piece.row for piece in pieces], [len(piece) for piece in pieces]
        return Halves(
            self._average([halves.alone for halves in pooled], rows, sizes),
            self._average([halves.in_context for halves in pooled], rows, sizes),
        )

    def _average(
        self, means: Sequence[Float[Tensor, "_ dim"]], rows: Sequence[int], sizes: Sequence[int]
    ) -> Float[Tensor, "chunks dim"]:
        of_pieces = torch.cat(list(means)).cpu() if means else torch.empty(0, self.dim)
        if list(rows) == list(range(self.chunk_count)):  # whole chunks in reading order
            return of_pieces
        weights = torch.tensor(sizes, dtype=torch.float32)
        totals = torch.zeros(self.chunk_count).index_add(0, torch.tensor(rows), weights)
        shares = weights / totals[torch.tensor(rows)]
        return torch.zeros(self.chunk_count, self.dim).index_add(
            0, torch.tensor(rows), shares[:, None] * of_pieces
        )


def make_shared_reading(
    encoder: TokenEncoder,
    token_ids: Int[np.ndarray, " tokens"],
    token_spans: Sequence[TokenSpan],
    *,
    head_ids: Int[np.ndarray, " head"],
    prefix_ids: Int[np.ndarray, " prefix"],
    options: WindowOptions,
    readers: Sequence[StateReader] = (),
) -> SharedReading:
    """Make a document ready.

    Args:
        encoder: Whose special tokens stand around every text.
        token_ids: A document without special tokens.
        token_spans: One per chunk, none of them empty.
        head_ids: Of a title or the like; stands before the chunks of every window.
        prefix_ids: Stands before every chunk.
        options: Sizes of windows; chunks share nothing but what they themselves share.
        readers: One per chunk, or none.

    Raises:
        InputError: Windows hold no token of a chunk beside head and prefix.
    """
    special = len(encoder.prefix_ids) + len(encoder.suffix_ids)
    extra = special + len(prefix_ids)
    room = window_capacity(encoder, options) + special
    if len(head_ids):
        room -= len(head_ids) + special
    pieces = cut_pieces(token_spans, len(token_ids), room - extra)
    return SharedReading(
        token_ids,
        len(token_spans),
        encoder.dim,
        group_pieces(pieces, token_ids, capacity=room, extra=extra),
        _surround(encoder, head_ids) if len(head_ids) else NO_TOKENS,
        np.concatenate([encoder.prefix_ids, prefix_ids]).astype(np.int64),
        np.array(encoder.suffix_ids, dtype=np.int64),
        readers,
    )


def read_shared(layers: SharedLayers, readings: Sequence[SharedReading]) -> list[Halves]:
    """Send readings through the encoder, with the same bits for each as if it were the only one.

    Which share passes of one fixed length, and where the promise ends, is as in `passes.read_all`.
    """
    if layers.encoder.batches_documents:
        states = layers.encode(chain.from_iterable(reading.texts for reading in readings))
        return [reading.finish(states) for reading in readings]
    shared_tokens = layers.encoder.shared_pass_tokens
    sizes = [sum(len(text) for window in reading.texts for text in window) for reading in readings]
    is_short = [size <= shared_tokens // 4 for size in sizes]
    together = [reading for reading, short in zip(readings, is_short, strict=True) if short]
    states = layers.encode(
        chain.from_iterable(reading.texts for reading in together), pass_tokens=shared_tokens
    )
    return [
        reading.finish(states if short else layers.encode(reading.texts))
        for reading, short in zip(readings, is_short, strict=True)
    ]


def _surround(encoder: TokenEncoder, ids: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    return np.concatenate([encoder.prefix_ids, ids, encoder.suffix_ids]).astype(np.int64)
