"""Overlapping windows over a document of any length, and which window speaks for which token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from rag_embed.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """One forward pass: the tokens it reads, and those whose states are taken from it.

    Attributes:
        start: First token of the window.
        end: One past its last token.
        own_start: First token that it owns.
        own_end: One past the last token that it owns.
    """

    start: int
    end: int
    own_start: int
    own_end: int


def make_windows(token_count: int, *, capacity: int, overlap: int) -> list[Window]:
    """Cover a document with the fewest windows, all of one size, each token owned by exactly one.

    A token is owned by the window in which it is most central, that is, farthest from the nearer of the two
    cut edges; the document's own beginning and end are no cuts. Between two windows that is the middle of
    their overlap. Equal sizes keep the last window from being a stump without context.

    Args:
        token_count: Tokens of the document, without special tokens.
        capacity: Most tokens of the document in one window.
        overlap: Fewest tokens that neighbouring windows share; at most half the capacity.

    Returns:
        The windows in reading order; none for an empty document.

    Raises:
        InputError: The capacity is not positive, or the overlap is negative or above half of it.

    Source: Günther et al. 2024, arXiv:2409.04701, "long late chunking". Differs in: the overlap's states
    come from
        the more central window instead of the earlier, and the windows share one size.
    """
    if capacity < 1 or not 0 <= overlap <= capacity // 2:
        raise InputError(
            f"windows of {capacity} tokens with an overlap of {overlap}; "
            "expected a positive size and an overlap of at most half of it"
        )
    if token_count == 0:
        return []
    if token_count <= capacity:
        return [Window(0, token_count, 0, token_count)]
    count = ceil((token_count - overlap) / (capacity - overlap))
    size = ceil((token_count + (count - 1) * overlap) / count)
    starts = [i * (token_count - size) // (count - 1) for i in range(count)]
    # From this token on the later of two neighbours is the more central; on a tie the earlier keeps it.
    middles = [(start + size + later - 1) // 2 + 1 for start, later in pairwise(starts)]
    owned = pairwise([0, *middles, token_count])
    return [Window(start, start + size, *range_) for start, range_ in zip(starts, owned, strict=True)]
