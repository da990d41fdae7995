"""Where chunks and tokens stand in a text: the one place that turns one kind of position into the other.

Everything is addressed by character spans of the original text. A splitter only hands over texts, so its
chunks are first located in their document (`align_chunks`); the tokenizer's offset mapping then says which
tokens each span holds (`align_tokens`). Tokens are never counted per chunk: a chunk tokenised alone has
other tokens than the same characters inside their document, and one surplus token would shift every later
border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from rag_embed.errors import AlignmentError, EmptySpanError, SpanOutOfRangeError

Offsets = Int[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True, order=True)
class CharSpan:
    """Half-open range of characters (Unicode code points) of a text."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise SpanOutOfRangeError(
                f"character span [{self.start}, {self.end}) is negative or reversed; expected 0 <= start "
                "<= end"
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
    overlap. Each is sought first where its predecessor ended, then reaching back into the predecessor, then
    behind a gap, and last inside the predecessor; never where a later chunk would be left without a place, so
    that repeated text cannot mislead it. The time grows with the text and the chunks, not with their product.

    Args:
        text: The document.
        chunks: Chunk texts in the order in which they start in the document.

    Returns:
        One span per chunk in the same order; starts never decrease. The document's text at a span equals the
        chunk wherever the document has the chunk's own white space, else but for white space.

    Raises:
        AlignmentError: A chunk is blank, or not a part of the document, or starts before its predecessor.
    """
    positions = [i for i, char in enumerate(text) if not char.isspace()]
    squeezed = "".join([text[i] for i in positions])
    needles = ["".join(chunk.split()) for chunk in chunks]
    for index, needle in enumerate(needles):
        if not needle:
            raise AlignmentError(
                f"chunk {index} of {len(chunks)} is blank and stands nowhere; remove blank chunks first"
            )
    spans: list[CharSpan] = []
    for chunk, needle, start in zip(chunks, needles, _place_in_order(squeezed, needles, chunks), strict=True):
        earliest = spans[-1].start if spans else 0
        first, last = positions[start], positions[start + len(needle) - 1]
        spans.append(_with_outer_blanks(text, chunk, first, last + 1, earliest))
    return spans


def _place_in_order(text: str, needles: Sequence[str], chunks: Sequence[str]) -> list[int]:
    """Give each needle the likeliest start that leaves a place for all later ones."""
    backwards = text[::-1]  # str.rfind is quadratic on periodic text, str.find is not
    latest: list[int] = []
    for index in range(len(needles) - 1, -1, -1):
        bound = _find_last(backwards, needles[index], 0, latest[-1] if latest else len(text))
        if bound < 0:
            raise _cannot_place(text, needles, chunks, index)
        latest.append(bound)
    starts: list[int] = []
    previous = CharSpan(0, 0)
    for needle, bound in zip(needles, reversed(latest), strict=True):
        start = _likeliest_start(text, backwards, needle, previous, bound)
        previous = CharSpan(start, start + len(needle))
        starts.append(start)
    return starts


def _likeliest_start(text: str, backwards: str, needle: str, previous: CharSpan, bound: int) -> int:
    """Choose a start up to `bound`, where there is one: adjoining, overlapping, behind a gap, inside."""
    if previous.end <= bound and text.startswith(needle, previous.end):
        return previous.end
    last_overlap = min(previous.end - 1, bound)
    start = _find_last(backwards, needle, max(previous.start, previous.end - len(needle) + 1), last_overlap)
    if start < 0:
        start = text.find(needle, previous.end + 1, bound + len(needle))
    if start < 0:
        start = _find_last(backwards, needle, previous.start, last_overlap)
    return start


def _find_last(backwards: str, needle: str, low: int, high: int) -> int:
    """Find the last start of a needle from `low` to `high` in a text that is given backwards; -1 if none."""
    first = max(len(backwards) - high - len(needle), 0)
    found = backwards.find(needle[::-1], first, len(backwards) - low)
    return -1 if found < 0 else len(backwards) - found - len(needle)


def _cannot_place(text: str, needles: Sequence[str], chunks: Sequence[str], index: int) -> AlignmentError:
    for missing, needle in enumerate(needles):
        if needle not in text:
            return AlignmentError(
                f"chunk {missing} of {len(chunks)} is not a part of its document: {chunks[missing][:80]!r}. "
                "Use a splitter that keeps the document's words, or index without late chunking"
            )
    return AlignmentError(
        f"chunk {index} of {len(chunks)}, {chunks[index][:80]!r}, occurs in its document, but only behind "
        "the "
        f"start of chunk {index + 1}; hand the chunks over in the order in which they start"
    )


def _with_outer_blanks(text: str, chunk: str, start: int, end: int, earliest: int) -> CharSpan:
    """Widen a span over the white space that the chunk begins and ends with, if the document has it."""
    lead = len(chunk) - len(chunk.lstrip())
    trail = len(chunk) - len(chunk.rstrip())
    if start - lead < earliest or not text.startswith(chunk[:lead], start - lead):
        lead = 0
    if not text.startswith(chunk[len(chunk) - trail :], end):
        trail = 0
    return CharSpan(start - lead, end + trail)


def align_tokens(text: str, starts: Offsets, ends: Offsets, spans: Sequence[CharSpan]) -> list[TokenSpan]:
    """Find the tokens of each chunk, of which each must have one.

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
    """
    found = find_tokens(text, starts, ends, spans)
    if empty := [index for index, tokens in enumerate(found) if not len(tokens)]:
        first_empty = spans[empty[0]]
        raise EmptySpanError(
            f"{len(empty)} of {len(spans)} chunks hold no token; the first is chunk {empty[0]}, "
            f"{text[first_empty.start : first_empty.end][:40]!r}. Leave out chunks that the tokenizer "
            "sees nothing in",
            indices=tuple(empty),
        )
    return found


def find_tokens(text: str, starts: Offsets, ends: Offsets, spans: Sequence[CharSpan]) -> list[TokenSpan]:
    """Find the tokens of each chunk; the span of a chunk that no token touches is empty.

    A token belongs to the chunk that holds its middle character, so one that straddles two chunks goes to the
    chunk with most of it, on a tie to the earlier. A chunk inside a single token shares that token.

    Args:
        text: The document.
        starts: First character of each token, as the tokenizer's offset mapping says.
        ends: One past the last character of each token.
        spans: The chunks; they may overlap and leave gaps, in any order.

    Returns:
        One span of tokens per chunk, in the given order.

    Raises:
        SpanOutOfRangeError: A span leaves the text.

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
    result = []
    for span in spans:
        first, last = np.searchsorted(doubled_middles, (2 * span.start, 2 * span.end), side="right")
        if first == last and span.start < span.end:
            first = np.searchsorted(ends, span.start, side="right")
            last = np.searchsorted(starts, span.end, side="left")
        result.append(TokenSpan(int(first), max(int(first), int(last))))
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


def find_neighbours(spans: Sequence[CharSpan]) -> tuple[list[int], list[int]]:
    """Find the chunks right before and right behind each chunk.

    Before it is the chunk that begins last of those that begin earlier and end earlier, behind it the one
    that ends first of those that end later and begin later. Overlaps do not matter, and what contains a
    chunk, as the parent in a hierarchy does, is no neighbour of it.

    Returns:
        For each span the place of the one before, and of the one behind; -1 for none.
    """
    before = _find_previous([(span.start, span.end) for span in spans])
    return before, _find_previous([(-span.end, -span.start) for span in spans])


def _find_previous(ranges: Sequence[tuple[int, int]]) -> list[int]:
    order = sorted(range(len(ranges)), key=lambda place: ranges[place])
    found = [-1] * len(ranges)
    for rank, place in enumerate(order):
        start, end = ranges[place]
        backwards = (order[other] for other in range(rank - 1, -1, -1))
        found[place] = next((p for p in backwards if ranges[p][0] < start and ranges[p][1] < end), -1)
    return found
