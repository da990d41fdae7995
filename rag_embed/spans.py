"""Where chunks and tokens stand in a text: the one place that turns one kind of position into the other.

Everything is addressed by character spans of the original text. A splitter only hands over texts, so its chunks
are first located in their document (`align_chunks`); the tokenizer's offset mapping then says which tokens each
span holds (`align_tokens`). Tokens are never counted per chunk: a chunk tokenised alone has other tokens than the
same characters inside their document, and one surplus token would shift every later border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from rag_embed.errors import AlignmentError, EmptySpanError, SpanOutOfRangeError

Offsets = Int[np.ndarray, "tokens"]


@dataclass(frozen=True, slots=True, order=True)
class CharSpan:
    """Half-open range of characters (Unicode code points) of a text."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise SpanOutOfRangeError(
                f"character span [{self.start}, {self.end}) is negative or reversed; expected 0 <= start <= end"
            )


@dataclass(frozen=True, slots=True, order=True)
class TokenSpan:
    """Half-open range of tokens, counted from the first token of the document, special tokens not counted."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def align_chunks(text: str, chunks: Sequence[str]) -> list[CharSpan]:
    """Locate the chunks of any splitter in their document.

    Chunks are compared without white space, because splitters strip and re-join it, and may leave gaps or
    overlap. Each is sought first where its predecessor ended, then inside the predecessor, then further on; a
    choice that leaves a later chunk without a place is taken back, so that repeated text cannot mislead it.

    Args:
        text: The document.
        chunks: Chunk texts in the order in which they start in the document.

    Returns:
        One span per chunk in the same order; starts never decrease. The document's text at a span equals the
        chunk wherever the document has the chunk's own white space, else but for white space.

    Raises:
        AlignmentError: A chunk is blank, or not a part of the document.
    """
    positions = [i for i, char in enumerate(text) if not char.isspace()]
    squeezed = "".join([text[i] for i in positions])
    needles = ["".join(chunk.split()) for chunk in chunks]
    hint = 0
    for index, needle in enumerate(needles):
        if not needle:
            raise AlignmentError(
                f"chunk {index} of {len(chunks)} is blank and stands nowhere; remove blank chunks first"
            )
        hit = squeezed.find(needle, hint)
        hint = squeezed.find(needle) if hit < 0 else hit
        if hint < 0:
            raise AlignmentError(
                f"chunk {index} of {len(chunks)} is not a part of its document: {chunks[index][:80]!r}. "
                "Use a splitter that keeps the document's words, or index without late chunking"
            )
    starts = _place_in_order(squeezed, needles)
    return [
        _with_outer_blanks(text, chunk, positions[start], positions[start + len(needle) - 1] + 1)
        for chunk, needle, start in zip(chunks, needles, starts, strict=True)
    ]


def _place_in_order(text: str, needles: Sequence[str]) -> list[int]:
    """Depth-first search for non-decreasing starts; remembers dead ends, so each place is tried once."""
    starts: list[int] = []
    branches: list[Iterator[int]] = []
    dead: set[tuple[int, int]] = set()
    while len(starts) < len(needles):
        index = len(starts)
        if len(branches) == index:
            after = (starts[-1], starts[-1] + len(needles[index - 1])) if starts else (0, 0)
            branches.append(_candidates(text, needles[index], *after))
        start = next((s for s in branches[-1] if (index, s) not in dead), None)
        if start is not None:
            starts.append(start)
            continue
        branches.pop()
        if not starts:
            raise AlignmentError(
                f"{len(needles)} chunks occur in their document, but not in this order; "
                "hand them over in the order in which they start"
            )
        dead.add((index - 1, starts.pop()))
    return starts


def _candidates(text: str, needle: str, previous_start: int, previous_end: int) -> Iterator[int]:
    """Possible starts, likeliest first: adjoining, overlapping as little as possible, behind a gap."""
    if text.startswith(needle, previous_end):
        yield previous_end
    stop = previous_end + len(needle) - 1
    while (start := text.rfind(needle, previous_start, stop)) >= 0:
        yield start
        stop = start + len(needle) - 1
    start = previous_end
    while (start := text.find(needle, start + 1)) >= 0:
        yield start


def _with_outer_blanks(text: str, chunk: str, start: int, end: int) -> CharSpan:
    """Widen a span over the white space that the chunk begins and ends with, where the document has it too."""
    lead = len(chunk) - len(chunk.lstrip())
    trail = len(chunk) - len(chunk.rstrip())
    if text.startswith(chunk[:lead], max(start - lead, 0)) and text.startswith(chunk[len(chunk) - trail :], end):
        return CharSpan(max(start - lead, 0), end + trail)
    return CharSpan(start, end)


def align_tokens(text: str, starts: Offsets, ends: Offsets, spans: Sequence[CharSpan]) -> list[TokenSpan]:
    """Find the tokens of each chunk.

    A token belongs to the chunk that holds its middle character, so one that straddles two chunks goes to the
    chunk with most of it, on a tie to the earlier. A chunk inside a single token shares that token.

    Args:
        text: The document.
        starts: First character of each token, as the tokenizer's offset mapping says.
        ends: One past the last character of each token.
        spans: The chunks; they may overlap and leave gaps, in any order.

    Returns:
        One span of tokens per chunk, in the given order, none empty.

    Raises:
        SpanOutOfRangeError: A span leaves the text.
        EmptySpanError: No token touches a chunk: it is blank, or holds only characters the tokenizer drops.

    Source: Günther et al. 2024, arXiv:2409.04701, algorithm 1. Differs in: straddling tokens are kept.
    """
    for index, span in enumerate(spans):
        if span.end > len(text):
            raise SpanOutOfRangeError(
                f"chunk {index} is [{span.start}, {span.end}) of a text of {len(text)} characters; "
                "the spans belong to another text or another version of it"
            )
    starts, ends = _without_outer_blanks(text, starts, ends)
    doubled_middles = starts + ends
    result, empty = [], []
    for index, span in enumerate(spans):
        first, last = np.searchsorted(doubled_middles, (2 * span.start, 2 * span.end), side="right")
        if first == last:
            first = np.searchsorted(ends, span.start, side="right")
            last = np.searchsorted(starts, span.end, side="left")
        if first >= last:
            empty.append(index)
        result.append(TokenSpan(int(first), int(last)))
    if empty:
        first_empty = spans[empty[0]]
        raise EmptySpanError(
            f"{len(empty)} of {len(spans)} chunks hold no token; the first is chunk {empty[0]}, "
            f"{text[first_empty.start : first_empty.end][:40]!r}. Leave out chunks that the tokenizer sees nothing in",
            indices=tuple(empty),
        )
    return result


def _without_outer_blanks(text: str, starts: Offsets, ends: Offsets) -> tuple[Offsets, Offsets]:
    """Trim white space off the tokens' ranges (byte-level tokenizers put the space before a word into it)."""
    ends = np.maximum(ends, starts + 1)
    blank = np.fromiter((char.isspace() for char in text), dtype=bool, count=len(text))
    if not len(starts) or not blank.any():
        return starts, ends
    index = np.arange(len(text))
    following = np.minimum.accumulate(np.where(blank, len(text), index)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(blank, -1, index))
    trimmed_starts = following[np.minimum(starts, len(text) - 1)]
    trimmed_ends = preceding[np.minimum(ends, len(text)) - 1] + 1
    holds_words = trimmed_starts < trimmed_ends
    return np.where(holds_words, trimmed_starts, starts), np.where(holds_words, trimmed_ends, ends)
