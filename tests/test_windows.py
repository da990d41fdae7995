"""Windows: equal to the reference, and what must hold of every layout."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.errors import InputError
from rag_embed.windows import Window, make_windows
from tests import reference


def as_tuples(windows: list[Window]) -> list[tuple[int, int, int, int]]:
    return [(window.start, window.end, window.own_start, window.own_end) for window in windows]


def test_every_small_layout_equals_the_reference() -> None:
    for token_count, capacity in itertools.product(range(1, 34), range(1, 18)):
        for overlap in range(capacity // 2 + 1):
            found = as_tuples(make_windows(token_count, capacity=capacity, overlap=overlap))
            assert found == reference.windows(token_count, capacity, overlap), (
                token_count,
                capacity,
                overlap,
            )


@given(st.integers(1, 2000), st.integers(1, 600), st.data())
@settings(max_examples=60, deadline=None)
def test_any_layout_equals_the_reference(token_count: int, capacity: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, capacity // 2))
    found = as_tuples(make_windows(token_count, capacity=capacity, overlap=overlap))
    assert found == reference.windows(token_count, capacity, overlap)


@given(st.integers(1, 1_000_000), st.integers(1, 8192), st.data())
@settings(max_examples=100, deadline=None)
def test_every_token_is_owned_once_by_a_window_that_reads_it(
    token_count: int, capacity: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, capacity // 2))
    windows = make_windows(token_count, capacity=max(capacity, token_count // 500), overlap=overlap)
    capacity = max(capacity, token_count // 500)
    assert (windows[0].own_start, windows[-1].own_end) == (0, token_count)
    assert (windows[0].start, windows[-1].end) == (0, token_count)
    assert len({window.end - window.start for window in windows}) == 1
    for window in windows:
        assert window.start <= window.own_start < window.own_end <= window.end <= window.start + capacity
    for before, after in itertools.pairwise(windows):
        assert before.own_end == after.own_start
        assert before.end - after.start >= overlap
        # No owned token is nearer to a cut than half the overlap.
        assert before.end - before.own_end >= overlap // 2 - 1
        assert after.own_start - after.start >= overlap // 2


def test_as_few_windows_as_possible() -> None:
    # 128 + 7 * 96 = 800 tokens fit into 8 windows, 801 do not.
    assert len(make_windows(800, capacity=128, overlap=32)) == 8
    assert len(make_windows(801, capacity=128, overlap=32)) == 9
    assert len(make_windows(128, capacity=128, overlap=32)) == 1


def test_an_empty_document_has_no_windows() -> None:
    assert make_windows(0, capacity=8, overlap=2) == []


@pytest.mark.parametrize(("capacity", "overlap"), [(0, 0), (-3, 0), (8, -1), (8, 5), (1, 1)])
def test_sizes_that_make_no_sense_are_refused(capacity: int, overlap: int) -> None:
    message = rf"windows of {capacity} tokens with an overlap of {overlap}; expected a positive size"
    with pytest.raises(InputError, match=message):
        make_windows(100, capacity=capacity, overlap=overlap)
