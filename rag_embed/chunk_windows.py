"""Windows of whole chunks, cut where the chunks themselves say so: an edit moves the cuts beside it alone.

Windows that are counted from the start of a document all change when something is inserted near it. Here a
cut depends on what stands around it and on nothing else, as in content-defined chunking: Teodosiu et al.
2006, "Optimizing File Replication over Limited-Bandwidth Networks using Remote Differential Compression",
MSR-TR-2006-157, section 3.2, cuts where a hash is the smallest of its surroundings. Differs in: what is
hashed are chunks, never bytes, so that no chunk is cut, and surroundings are measured in tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
from jaxtyping import Int

from rag_embed.errors import InputError
from rag_embed.spans import TokenSpan

_REACH = 1 / 3
"""How far a cut looks to both sides, as a share of the window. Windows are at least so long; with a third
they are 0.6 full on the average, and an edit changes 1.3 of them."""


NO_CHUNK = -1
"""Row of a piece that belongs to no chunk: text between chunks is context for them all the same."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk, or a part of one that is longer than a window, or text between chunks.

    Attributes:
        row: Number of the chunk, or `NO_CHUNK`.
        start: First token of the document in it.
        end: One past its last.
    """

    row: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def cut_pieces(token_spans: Sequence[TokenSpan], token_count: int, longest: int) -> list[Piece]:
    """Cut what is longer than `longest` into equal pieces; every other chunk or gap is one piece.

    Args:
        token_spans: One per chunk, none of them empty; may overlap.
        token_count: Of the document.
        longest: Most tokens of a piece.

    Returns:
        The pieces in reading order.

    Raises:
        InputError: `longest` is not positive.
    """
    if longest < 1:
        raise InputError(f"pieces of {longest} tokens; expected at least one. Make windows longer")
    pieces = []
    gaps = [(NO_CHUNK, gap) for gap in _find_gaps(token_spans, token_count)]
    for row, span in [*enumerate(token_spans), *gaps]:
        count = ceil(len(span) / longest)
        cuts = [span.start + len(span) * number // count for number in range(count + 1)]
        pieces += [Piece(row, start, end) for start, end in pairwise(cuts)]
    return sorted(pieces, key=lambda piece: (piece.start, piece.end, piece.row))


def _find_gaps(token_spans: Sequence[TokenSpan], token_count: int) -> list[TokenSpan]:
    """Stretches of the document that are in no chunk."""
    gaps = []
    reached = 0
    for span in sorted(token_spans, key=lambda each: each.start):
        if span.start > reached:
            gaps.append(TokenSpan(reached, span.start))
        reached = max(reached, span.end)
    return [*gaps, TokenSpan(reached, token_count)] if reached < token_count else gaps


def group_pieces(
    pieces: Sequence[Piece], token_ids: Int[np.ndarray, " tokens"], *, capacity: int, extra: int
) -> list[list[Piece]]:
    """Group pieces into windows, in which they know each other.

    Args:
        pieces: In reading order.
        token_ids: The document.
        capacity: Most tokens of a window.
        extra: Tokens that a piece takes in a window beside its own, special ones and a prefix.

    Returns:
        The windows in reading order; each piece is in one, and a piece that fills a window is alone in it.
    """
    sizes = [len(piece) + extra for piece in pieces]
    hashes = [_hash(token_ids[piece.start : piece.end]) for piece in pieces]
    anchors = find_anchors(sizes, hashes, reach=ceil(_REACH * capacity))
    windows = []
    for first, last in pairwise([*anchors, len(pieces)]):
        windows += _split_evenly(pieces[first:last], sizes[first:last], capacity)
    return windows


def find_anchors(sizes: Sequence[int], hashes: Sequence[int], *, reach: int) -> list[int]:
    """Pieces at which a window begins whatever stands further away than `reach` tokens.

    The first piece is one, and every piece whose hash is smaller than those of the pieces that begin less
    than `reach` before it, and not larger than those of the pieces that begin less than `reach` behind it;
    none begins less than `reach` behind the document.
    """
    starts = np.cumsum([0, *sizes])[:-1]
    anchors = [0] if len(sizes) else []
    for index in range(1, len(sizes)):
        before = int(np.searchsorted(starts, starts[index] - reach, side="right"))
        behind = int(np.searchsorted(starts, starts[index] + reach, side="left"))
        is_smallest = all(hashes[index] < other for other in hashes[before:index]) and all(
            hashes[index] <= other for other in hashes[index + 1 : behind]
        )
        if is_smallest and starts[index] >= reach:
            anchors.append(index)
    return anchors


def _split_evenly(pieces: Sequence[Piece], sizes: Sequence[int], capacity: int) -> list[list[Piece]]:
    """Cut a stretch between two anchors that is longer than a window into parts of about one size."""
    total = sum(sizes)
    aim = total / ceil(total / capacity)
    windows: list[list[Piece]] = [[]]
    used = 0
    for piece, size in zip(pieces, sizes, strict=True):
        if windows[-1] and (used + size > capacity or used + size / 2 > aim):
            windows.append([])
            used = 0
        windows[-1].append(piece)
        used += size
    return windows


def _hash(token_ids: Int[np.ndarray, " tokens"]) -> int:
    digest = hashlib.blake2b(token_ids.astype(np.int64).tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
