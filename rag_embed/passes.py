"""Forward passes over texts of any length: what an encoder must offer, and what is made of its states.

A `Reading` is a text made ready: the sequences that the encoder has to see, and what their states become. So
one stream of states through the encoder serves any number of texts, long and short, each taking its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.errors import InputError
from rag_embed.guards import Guard
from rag_embed.modes import Pooling
from rag_embed.pooling import SpanPool, pool_text
from rag_embed.profiles import Profile
from rag_embed.scored_tokens import ScoredTokens
from rag_embed.spans import TokenSpan
from rag_embed.tokens import Tokens
from rag_embed.windows import Window, make_windows

NO_TOKENS: Int[np.ndarray, " _"] = np.array([], dtype=np.int64)


@runtime_checkable
class TokenEncoder(Protocol):
    """What the algorithms need of an encoder."""

    profile: Profile
    insist: Collection[Guard]
    prefix_ids: list[int]
    suffix_ids: list[int]
    scored_tokens: ScoredTokens | None
    dtype: torch.dtype
    device: torch.device

    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    @property
    def shared_pass_tokens(self) -> int: ...  # noqa: D102
    @property
    def batches_documents(self) -> bool: ...  # noqa: D102
    def tokenize(self, text: str) -> Tokens: ...  # noqa: D102
    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]: ...  # noqa: D102
    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " _"]: ...  # noqa: D102
    def encode(  # noqa: D102
        self,
        sequences: Iterable[Int[np.ndarray, " _"]],
        *,
        adds_special_tokens: bool = True,
        pass_tokens: int | None = None,
        unseen_tokens: int = 0,
    ) -> Iterator[Float[Tensor, "_ dim"]]: ...


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How a document is cut into forward passes.

    Attributes:
        window_tokens: Most tokens of one pass, head and special tokens included; None is all the model can
            read.
        overlap_tokens: Fewest tokens of the document that neighbouring windows share.
        head_tokens: Most tokens of the context head; a longer head is cut there.
    """

    window_tokens: int | None = None
    overlap_tokens: int = 32
    head_tokens: int = 64


DEFAULT_WINDOWS = WindowOptions()


@runtime_checkable
class StateReader(Protocol):
    """Sees the states of a document's tokens as the window pass makes them, each once, in reading order."""

    def add(self, token_states: Float[Tensor, "tokens dim"], start: int) -> None:
        """Take in the states of consecutive tokens, the first of which is the document's token `start`."""


@runtime_checkable
class Reading(Protocol):
    """A text, or several, made ready for the encoder."""

    @property
    def sequences(self) -> Sequence[Int[np.ndarray, " _"]]:
        """What the encoder has to see, without special tokens."""

    def finish(self, states: Iterator[Float[Tensor, "_ dim"]]) -> Float[Tensor, "rows dim"]:
        """Take the states of the own sequences off the stream and average them.

        Returns:
            float32 where the states are, not normalised.
        """


@dataclass(frozen=True, slots=True)
class TextReading:
    """A text that fits into one pass; one row.

    Attributes:
        token_ids: The text.
        pooling: Which of its states make the row.
        readers: Also see its states, those of special tokens among them.
    """

    token_ids: Int[np.ndarray, " tokens"]
    pooling: Pooling
    readers: Sequence[StateReader] = ()

    @property
    def sequences(self) -> Sequence[Int[np.ndarray, " _"]]:
        """The text itself."""
        return [self.token_ids]

    def finish(self, states: Iterator[Float[Tensor, "_ dim"]]) -> Float[Tensor, "one dim"]:
        """Pool its states."""
        own = next(states)
        for reader in self.readers:
            reader.add(own, 0)
        return pool_text(own, self.pooling)[None]


@dataclass(frozen=True, slots=True)
class WindowReading:
    """A document of any length in windows; a row per chunk.

    Attributes:
        token_ids: The document.
        token_spans: Its chunks.
        dim: Size of a token state.
        windows: Which pass reads and owns which token.
        head_ids: Stand before every window, and in no chunk.
        skipped: Tokens before the first of the document in every window, special tokens included.
        readers: Also see the states that the rows are made of; nothing is computed twice for them.
    """

    token_ids: Int[np.ndarray, " tokens"]
    token_spans: Sequence[TokenSpan]
    dim: int
    windows: Sequence[Window]
    head_ids: Int[np.ndarray, " head"]
    skipped: int
    readers: Sequence[StateReader] = ()

    @property
    def sequences(self) -> Sequence[Int[np.ndarray, " _"]]:
        """Head and window, window by window."""
        parts = (self.token_ids[window.start : window.end] for window in self.windows)
        return [np.concatenate([self.head_ids, part]).astype(np.int64) for part in parts]

    def only_needed(self) -> WindowReading:
        """Leave out the windows that own no token of any chunk."""
        needed = [
            window
            for window in self.windows
            if any(span.start < window.own_end and span.end > window.own_start for span in self.token_spans)
        ]
        return replace(self, windows=needed)

    def finish(self, states: Iterator[Float[Tensor, "_ dim"]]) -> Float[Tensor, "chunks dim"]:
        """Average each chunk's token states over the windows that own them."""
        pool = SpanPool(self.token_spans, self.dim)
        for window in self.windows:
            offset = self.skipped - window.start
            own = next(states)[offset + window.own_start : offset + window.own_end]
            for reader in (pool, *self.readers):
                reader.add(own, window.own_start)
        return pool.means()


@dataclass(frozen=True, slots=True)
class JoinedReading:
    """Several readings as one, their rows one behind the other.

    Attributes:
        parts: In the order of the rows.
        dim: Size of a token state.
    """

    parts: Sequence[Reading]
    dim: int

    @property
    def sequences(self) -> Sequence[Int[np.ndarray, " _"]]:
        """Those of all parts."""
        return [ids for part in self.parts for ids in part.sequences]

    def finish(self, states: Iterator[Float[Tensor, "_ dim"]]) -> Float[Tensor, "rows dim"]:
        """Finish part by part."""
        rows = [part.finish(states) for part in self.parts]
        return torch.cat(rows) if rows else torch.empty(0, self.dim)


def read(encoder: TokenEncoder, reading: Reading) -> Float[Tensor, "rows dim"]:
    """Send one reading through the encoder; the rows are on the CPU."""
    return reading.finish(encoder.encode(reading.sequences)).cpu()


def read_all(encoder: TokenEncoder, readings: Sequence[Reading]) -> list[Float[Tensor, "rows dim"]]:
    """Send many readings through the encoder, with the same bits for each as if it were the only one.

    Short readings, of at most a quarter of a shared pass, go through in passes of one fixed size, in which
    company changes no bit (`Encoder.encode`); longer ones go through by themselves. Which is which depends on
    the reading alone. Only where an encoder batches documents do last bits depend on company: an accelerator
    spends more on starting a pass, and on waiting for a copy, than on what is in it.

    Args:
        encoder: Gives token states.
        readings: In any number.

    Returns:
        The rows of each, in the given order, on the CPU.
    """
    if encoder.batches_documents:
        states = encoder.encode(chain.from_iterable(reading.sequences for reading in readings))
        rows = [reading.finish(states) for reading in readings]
        full = [each for each in rows if len(each)]  # what has no sequence has its no rows on the CPU
        whole = torch.cat(full).cpu() if full else torch.empty(0, encoder.dim)
        return list(whole.split([len(each) for each in rows]))
    special = len(encoder.prefix_ids) + len(encoder.suffix_ids)
    sizes = [sum(len(ids) + special for ids in reading.sequences) for reading in readings]
    is_short = [size <= encoder.shared_pass_tokens // 4 for size in sizes]
    together = [reading for reading, short in zip(readings, is_short, strict=True) if short]
    states = encoder.encode(
        chain.from_iterable(reading.sequences for reading in together), pass_tokens=encoder.shared_pass_tokens
    )
    return [
        reading.finish(states).cpu() if short else read(encoder, reading)
        for reading, short in zip(readings, is_short, strict=True)
    ]


def make_window_reading(
    encoder: TokenEncoder,
    token_ids: Int[np.ndarray, " tokens"],
    token_spans: Sequence[TokenSpan],
    *,
    head_ids: Int[np.ndarray, " head"],
    options: WindowOptions,
    readers: Sequence[StateReader] = (),
) -> WindowReading:
    """Make a document ready.

    Args:
        encoder: Will give token states.
        token_ids: A document without special tokens.
        token_spans: One per chunk.
        head_ids: Put before every window, never averaged.
        options: Sizes of windows and overlap.
        readers: Also see the states.
    """
    capacity = window_capacity(encoder, options) - len(head_ids)
    overlap = min(options.overlap_tokens, capacity // 2)
    windows = make_windows(len(token_ids), capacity=capacity, overlap=overlap)
    skipped = len(encoder.prefix_ids) + len(head_ids)
    return WindowReading(token_ids, token_spans, encoder.dim, windows, head_ids, skipped, readers)


def window_capacity(encoder: TokenEncoder, options: WindowOptions) -> int:
    """Most tokens of head and document in one window.

    Raises:
        InputError: The windows are longer than the model reads, or hold no token of a document.
    """
    if options.window_tokens is None:
        return encoder.capacity
    special_count = len(encoder.prefix_ids) + len(encoder.suffix_ids)
    if not special_count < options.window_tokens <= encoder.capacity + special_count:
        raise InputError(
            f"windows of {options.window_tokens} tokens; expected more than the {special_count} special "
            f"tokens and at most the {encoder.capacity + special_count} that the model reads"
        )
    return options.window_tokens - special_count


def tokenize_head(encoder: TokenEncoder, head: str, options: WindowOptions) -> Int[np.ndarray, " head"]:
    """Tokens of the context head; never more than half a window, which belongs to the document."""
    if not head:
        return NO_TOKENS
    return encoder.tokenize(head).ids[: min(options.head_tokens, window_capacity(encoder, options) // 2)]
