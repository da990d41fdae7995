"""Windows of whole chunks: what is in them, and how little an edit changes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.chunk_windows import NO_CHUNK, Piece, cut_pieces, find_anchors, group_pieces
from rag_embed.errors import InputError
from rag_embed.spans import TokenSpan

spans_strategy = st.lists(
    st.tuples(st.integers(0, 300), st.integers(1, 120)).map(
        lambda each: TokenSpan(each[0], each[0] + each[1])
    ),
    min_size=1,
    max_size=30,
)


@given(spans_strategy, st.integers(1, 70))
def test_pieces_are_the_chunks_cut_evenly(spans: list[TokenSpan], longest: int) -> None:
    pieces = cut_pieces(spans, 450, longest)
    assert [(piece.start, piece.end) for piece in pieces] == sorted((each.start, each.end) for each in pieces)
    for row, span in enumerate(spans):
        own = [piece for piece in pieces if piece.row == row]
        assert [token for piece in own for token in range(piece.start, piece.end)] == list(
            range(span.start, span.end)
        )
        assert len(own) == -(-len(span) // longest)
        assert max(map(len, own)) - min(map(len, own)) <= 1
    covered = {token for span in spans for token in range(span.start, span.end)}
    between = [token for piece in pieces if piece.row == NO_CHUNK for token in range(piece.start, piece.end)]
    assert between == [token for token in range(450) if token not in covered]
    assert max(map(len, pieces)) <= longest


def test_pieces_without_a_token_are_refused() -> None:
    with pytest.raises(InputError, match="pieces of 0 tokens; expected at least one"):
        cut_pieces([TokenSpan(0, 3)], 3, 0)


@given(spans_strategy, st.integers(20, 200), st.integers(0, 5), st.integers(0, 2**31))
def test_windows_hold_every_piece_once_and_are_not_too_long(
    spans: list[TokenSpan], capacity: int, extra: int, seed: int
) -> None:
    token_ids = np.random.default_rng(seed).integers(0, 50, 500)
    pieces = cut_pieces(spans, 500, capacity - extra)
    windows = group_pieces(pieces, token_ids, capacity=capacity, extra=extra)
    assert [piece for window in windows for piece in window] == pieces
    assert all(window for window in windows)
    assert all(sum(len(piece) + extra for piece in window) <= capacity for window in windows)


def slow_anchors(sizes: Sequence[int], hashes: Sequence[int], reach: int) -> list[int]:
    """The rule word for word, looking at all pieces for each."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    anchors = [0]
    for index in range(1, len(sizes)):
        before = [hashes[i] for i in range(index) if starts[index] - starts[i] < reach]
        behind = [hashes[i] for i in range(index + 1, len(sizes)) if starts[i] - starts[index] < reach]
        if (
            starts[index] >= reach
            and all(hashes[index] < other for other in before)
            and all(hashes[index] <= other for other in behind)
        ):
            anchors.append(index)
    return anchors


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=60), st.integers(1, 100)
)
def test_anchors_equal_the_slow_rule(pieces: list[tuple[int, int]], reach: int) -> None:
    sizes, hashes = [size for size, _ in pieces], [hash_ for _, hash_ in pieces]
    assert find_anchors(sizes, hashes, reach=reach) == slow_anchors(sizes, hashes, reach)


def make_chunks(count: int, generator: random.Random) -> list[tuple[int, ...]]:
    """Chunks of 20 to 250 tokens."""
    return [
        tuple(generator.randrange(30000) for _ in range(generator.randint(20, 250))) for _ in range(count)
    ]


def windows_of(chunks: Sequence[tuple[int, ...]]) -> set[tuple[tuple[int, ...], ...]]:
    """What stands together in the windows of a document."""
    token_ids = np.array([token for chunk in chunks for token in chunk])
    ends = np.cumsum([len(chunk) for chunk in chunks])
    spans = [TokenSpan(int(end) - len(chunk), int(end)) for end, chunk in zip(ends, chunks, strict=True)]
    windows = group_pieces(cut_pieces(spans, len(token_ids), 490), token_ids, capacity=500, extra=2)
    return {tuple(tuple(token_ids[p.start : p.end].tolist()) for p in window) for window in windows}


@pytest.mark.parametrize("edit", ["insert", "delete", "replace", "move"])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_an_edit_changes_windows_beside_it_alone(edit: str, seed: int) -> None:
    """Of the windows of about 100,000 tokens at most 3 are new; for a move 3 on either side."""
    generator = random.Random(seed)
    chunks = make_chunks(740, generator)
    before = windows_of(chunks)
    place = generator.randrange(len(chunks))
    changed = list(chunks)
    if edit != "insert":
        taken = changed.pop(place)
    if edit == "move":
        changed.insert(generator.randrange(len(changed)), taken)
    elif edit != "delete":
        changed.insert(place, make_chunks(1, generator)[0])
    new = windows_of(changed) - before
    assert len(new) <= (6 if edit == "move" else 3)


def test_windows_of_one_text_over_and_over() -> None:
    """Equal chunks have equal hashes; windows are then as full as they go."""
    chunk = tuple(range(100))
    token_ids = np.array(chunk * 50)
    spans = [TokenSpan(100 * i, 100 * i + 100) for i in range(50)]
    windows = group_pieces(cut_pieces(spans, len(token_ids), 490), token_ids, capacity=500, extra=2)
    assert sum(map(len, windows)) == 50
    assert max(map(len, windows)) == 4
    assert len(windows) <= 14


def test_a_chunk_longer_than_a_window_is_alone_in_several() -> None:
    windows = group_pieces(
        cut_pieces([TokenSpan(0, 10), TokenSpan(10, 260), TokenSpan(260, 270)], 270, 98),
        np.arange(270),
        capacity=100,
        extra=2,
    )
    long = [window for window in windows if any(piece.row == 1 for piece in window)]
    assert [piece for window in long for piece in window if piece.row == 1] == [
        Piece(1, 10, 93),
        Piece(1, 93, 176),
        Piece(1, 176, 260),
    ]
    assert len(long) == 3
