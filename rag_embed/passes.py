"""Forward passes over texts of any length: what an encoder must offer, and means over windows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.errors import InputError
from rag_embed.guards import Guard
from rag_embed.pooling import SpanPool
from rag_embed.profiles import Profile
from rag_embed.spans import TokenSpan
from rag_embed.tokens import Tokens
from rag_embed.windows import make_windows

NO_TOKENS: Int[np.ndarray, " _"] = np.array([], dtype=np.int64)


@runtime_checkable
class TokenEncoder(Protocol):
    """What the algorithms need of an encoder."""

    profile: Profile
    insist: Collection[Guard]
    prefix_ids: list[int]
    suffix_ids: list[int]

    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def max_tokens(self) -> int: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    def tokenize(self, text: str) -> Tokens: ...  # noqa: D102
    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]: ...  # noqa: D102
    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " _"]: ...  # noqa: D102
    def encode(  # noqa: D102
        self, sequences: Iterable[Int[np.ndarray, " _"]], *, adds_special_tokens: bool = True
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


def pool_windows(
    encoder: TokenEncoder,
    token_ids: Int[np.ndarray, " tokens"],
    token_spans: Sequence[TokenSpan],
    *,
    head_ids: Int[np.ndarray, " head"],
    options: WindowOptions,
) -> Float[Tensor, "chunks dim"]:
    """Average each chunk's token states over the windows that own them, one batch of states at a time.

    Args:
        encoder: Gives token states.
        token_ids: A document without special tokens.
        token_spans: One per chunk.
        head_ids: Put before every window, never averaged.
        options: Sizes of windows and overlap.

    Returns:
        One mean per span in the given order, float32 on the CPU, not normalised.
    """
    capacity = window_capacity(encoder, options) - len(head_ids)
    windows = make_windows(
        len(token_ids), capacity=capacity, overlap=min(options.overlap_tokens, capacity // 2)
    )
    sequences = (np.concatenate([head_ids, token_ids[w.start : w.end]]).astype(np.int64) for w in windows)
    pool = SpanPool(token_spans, encoder.dim)
    skipped = len(encoder.prefix_ids) + len(head_ids)
    for window, states in zip(windows, encoder.encode(sequences), strict=True):
        offset = skipped - window.start
        pool.add(states[offset + window.own_start : offset + window.own_end], window.own_start)
    return pool.means()


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
