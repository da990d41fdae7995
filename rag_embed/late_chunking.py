"""Late chunking: read the document first, cut it into chunks afterwards.

Günther et al. 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Embedding Models",
arXiv:2409.04701, algorithm 1 and section 3 ("long late chunking"). Differences: chunks are located by
characters, straddling tokens are kept, overlap states come from the more central window, special tokens are
in no chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.encoder import Tokens
from rag_embed.errors import EmptyTextError, InputError
from rag_embed.pooling import SpanPool, blend, normalise
from rag_embed.spans import CharSpan, TokenSpan, align_tokens
from rag_embed.windows import make_windows

Strategy = Literal["isolated", "late", "blend"]


@runtime_checkable
class TokenEncoder(Protocol):
    """What the algorithms need of an encoder."""

    prefix_ids: list[int]
    suffix_ids: list[int]

    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def capacity(self) -> int: ...  # noqa: D102
    def tokenize(self, text: str) -> Tokens: ...  # noqa: D102
    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]: ...  # noqa: D102
    def encode(  # noqa: D102
        self, sequences: Iterable[Int[np.ndarray, " _"]]
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


def embed_late(
    encoder: TokenEncoder,
    text: str,
    spans: Sequence[CharSpan],
    *,
    head: str = "",
    options: WindowOptions = WindowOptions(),  # frozen
) -> Float[Tensor, "chunks dim"]:
    """Embed the chunks of one document in the document's context.

    Args:
        encoder: Gives token states.
        text: The whole document, of any length.
        spans: Characters of each chunk, in any order; chunks may overlap and leave gaps.
        head: Text that is put before every window, attended to and never pooled: a title, a heading path.
        options: Sizes of windows, overlap and head.

    Returns:
        One unit vector per span in the given order, float32 on the CPU.

    Raises:
        EmptyTextError: The document has no token.
        EmptySpanError: A chunk has no token.
        SpanOutOfRangeError: A span leaves the text.
    """
    tokens = encoder.tokenize(text)
    if not len(tokens):
        raise EmptyTextError(
            f"the tokenizer sees nothing in a document of {len(text)} characters, {text[:40]!r}; leave it out"
        )
    token_spans = align_tokens(text, tokens.starts, tokens.ends, spans)
    return normalise(_pool_windows(encoder, tokens, token_spans, _head_ids(encoder, head, options), options))


def embed_isolated(
    encoder: TokenEncoder,
    texts: Sequence[str],
    *,
    options: WindowOptions = WindowOptions(),  # frozen
) -> Float[Tensor, "chunks dim"]:
    """Embed each text alone, as everybody does: the mean over all its tokens, special tokens included.

    A text that is longer than the model reads is not cut: it is read in windows like a document, and its
    vector is the mean over its own tokens.

    Args:
        encoder: Gives token states.
        texts: In any number and of any length; a text without tokens gets the model's vector of nothing.
        options: Sizes of windows and overlap of the texts that are too long.

    Returns:
        One unit vector per text in the given order, float32 on the CPU.
    """
    tokenized = encoder.tokenize_all(texts)
    fits = [len(tokens) <= encoder.capacity for tokens in tokenized]
    states = encoder.encode(tokens.ids for tokens, does_fit in zip(tokenized, fits, strict=True) if does_fit)
    no_head = np.array([], dtype=np.int64)
    vectors = [
        next(states).float().mean(dim=0).cpu()
        if does_fit
        else _pool_windows(encoder, tokens, [TokenSpan(0, len(tokens))], no_head, options)[0]
        for tokens, does_fit in zip(tokenized, fits, strict=True)
    ]
    return normalise(torch.stack(vectors)) if vectors else torch.empty(0, encoder.dim)


def embed_chunks(
    encoder: TokenEncoder,
    text: str,
    spans: Sequence[CharSpan],
    *,
    strategy: Strategy,
    context_encoder: TokenEncoder | None = None,
    alpha: float = 0.5,
    isolated_texts: Sequence[str] | None = None,
    head: str = "",
    options: WindowOptions = WindowOptions(),  # frozen
) -> Float[Tensor, "chunks dim"]:
    """Embed the chunks of one document by any strategy.

    Args:
        encoder: Gives token states.
        text: The whole document.
        spans: Characters of each chunk.
        strategy: "isolated", "late", or "blend" of both.
        context_encoder: Reads the windows, where that is another than embeds chunks alone: an adapted one.
        alpha: Share of the late vector in a blend, from 0 to 1.
        isolated_texts: What each chunk is when embedded alone; by default its characters.
        head: Context head of the late windows.
        options: Sizes of windows, overlap and head.

    Returns:
        One unit vector per span in the given order, float32 on the CPU.

    Raises:
        InputError: `alpha` is outside [0, 1], or the texts do not match the spans.
        EmptyTextError: The document has no token.
        EmptySpanError: A chunk has no token.
    """
    texts = [text[span.start : span.end] for span in spans] if isolated_texts is None else isolated_texts
    if len(texts) != len(spans) or not 0 <= alpha <= 1:
        raise InputError(
            f"{len(texts)} isolated texts for {len(spans)} spans, alpha {alpha}; "
            "expected one text per span and an alpha between 0 and 1"
        )
    if strategy == "isolated":
        return embed_isolated(encoder, texts, options=options)
    late = embed_late(context_encoder or encoder, text, spans, head=head, options=options)
    if strategy == "late":
        return late
    return blend(late, embed_isolated(encoder, texts, options=options), alpha)


def _pool_windows(
    encoder: TokenEncoder,
    tokens: Tokens,
    token_spans: Sequence[TokenSpan],
    head_ids: Int[np.ndarray, " head"],
    options: WindowOptions,
) -> Float[Tensor, "chunks dim"]:
    """Average each chunk's token states over the windows that own them, one batch of states at a time."""
    capacity = _window_capacity(encoder, options) - len(head_ids)
    windows = make_windows(len(tokens), capacity=capacity, overlap=min(options.overlap_tokens, capacity // 2))
    sequences = (np.concatenate([head_ids, tokens.ids[w.start : w.end]]).astype(np.int64) for w in windows)
    pool = SpanPool(token_spans, encoder.dim)
    skipped = len(encoder.prefix_ids) + len(head_ids)
    for window, states in zip(windows, encoder.encode(sequences), strict=True):
        offset = skipped - window.start
        pool.add(states[offset + window.own_start : offset + window.own_end], window.own_start)
    return pool.means()


def _window_capacity(encoder: TokenEncoder, options: WindowOptions) -> int:
    """Most tokens of head and document in one window."""
    if options.window_tokens is None:
        return encoder.capacity
    special_count = len(encoder.prefix_ids) + len(encoder.suffix_ids)
    if not special_count < options.window_tokens <= encoder.capacity + special_count:
        raise InputError(
            f"windows of {options.window_tokens} tokens; expected more than the {special_count} special "
            "tokens and "
            f"at most the {encoder.capacity + special_count} that the model reads"
        )
    return options.window_tokens - special_count


def _head_ids(encoder: TokenEncoder, head: str, options: WindowOptions) -> Int[np.ndarray, " head"]:
    """Tokens of the context head; never more than half a window, which belongs to the document."""
    if not head:
        return np.array([], dtype=np.int64)
    return encoder.tokenize(head).ids[: min(options.head_tokens, _window_capacity(encoder, options) // 2)]
