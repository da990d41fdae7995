"""Means, unit vectors and blends, against double precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.errors import EmptySpanError, InputError, NonFiniteError
from rag_embed.pooling import SpanPool, blend, normalise, pool_spans
from rag_embed.spans import CharSpan, TokenSpan
from rag_embed.windows import make_windows
from tests import reference

DIM = 6


@st.composite
def token_spans(draw: st.DrawFn, token_count: int) -> list[TokenSpan]:
    edges = st.tuples(st.integers(0, token_count), st.integers(0, token_count)).filter(lambda e: e[0] != e[1])
    return [TokenSpan(min(edge), max(edge)) for edge in draw(st.lists(edges, min_size=1, max_size=8))]


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**31), st.data())
@settings(max_examples=80, deadline=None)
def test_window_by_window_equals_the_whole_equals_double_precision(
    token_count: int, capacity: int, seed: int, data: st.DataObject
) -> None:
    spans = data.draw(token_spans(token_count))
    overlap = data.draw(st.integers(0, capacity // 2))
    states = torch.randn(token_count, DIM, generator=torch.Generator().manual_seed(seed))
    pool, on_accelerator = SpanPool(spans, DIM), SpanPool(spans, DIM)
    for window in make_windows(token_count, capacity=capacity, overlap=overlap):
        pool.add(states[window.own_start : window.own_end], window.own_start)
        on_accelerator._add_at_once(states[window.own_start : window.own_end], window.own_start)
    expected = torch.stack([states[span.start : span.end].double().mean(dim=0) for span in spans])
    whole = pool_spans(states, spans)
    assert whole.dtype == torch.float32
    assert (pool.means().double() - expected).abs().max() < 1e-6
    assert (whole.double() - expected).abs().max() < 1e-6
    assert (on_accelerator.means().double() - expected).abs().max() < 1e-6


def test_the_order_of_windows_does_not_matter() -> None:
    states = torch.arange(20.0).reshape(10, 2)
    pool = SpanPool([TokenSpan(0, 10), TokenSpan(3, 7)], 2)
    pool.add(states[6:], 6)
    pool.add(states[:6], 0)
    assert pool.means().tolist() == [[9.0, 10.0], [9.0, 10.0]]


def test_states_in_half_precision_are_summed_in_float32() -> None:
    # 4097 is no number of bfloat16; its neighbour is 4096.
    states = torch.ones(4097, 3, dtype=torch.bfloat16)
    assert pool_spans(states, [TokenSpan(0, 4097)]).tolist() == [[1.0, 1.0, 1.0]]


def test_no_spans_no_vectors() -> None:
    assert pool_spans(torch.ones(3, 2), []).shape == (0, 2)
    assert normalise(torch.empty(0, 4)).shape == (0, 4)


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(
        EmptySpanError, match=r"token spans \[1, 2\] are empty; expected at least one"
    ) as caught:
        SpanPool([TokenSpan(0, 2), TokenSpan(2, 2), TokenSpan(3, 2)], DIM)
    assert caught.value.indices == (1, 2)


def test_missing_states_are_refused() -> None:
    pool = SpanPool([TokenSpan(0, 4), TokenSpan(2, 8)], DIM)
    pool.add(torch.ones(5, DIM), 0)
    with pytest.raises(InputError, match=r"states of 3 tokens are missing and of 0 .* add every window"):
        pool.means()
    with pytest.raises(InputError, match="states of 1 tokens are missing"):
        pool_spans(torch.ones(5, DIM), [TokenSpan(0, 6)])


def test_states_that_come_twice_are_refused() -> None:
    pool = SpanPool([TokenSpan(0, 4)], DIM)
    pool.add(torch.ones(4, DIM), 0)
    pool.add(torch.ones(2, DIM), 2)
    with pytest.raises(InputError, match="0 tokens are missing and of 2 were added twice"):
        pool.means()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_vectors_that_are_not_finite_are_refused(bad: float) -> None:
    vectors = torch.ones(3, 4)
    vectors[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"vectors \[1\] of 3 are not finite or have no length"):
        normalise(vectors)


def test_a_vector_without_length_is_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"vectors \[0\] of 2 .*dtype='float32'"):
        normalise(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_unit_length_at_any_scale(scale: float) -> None:
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) * scale
    expected = torch.tensor([reference.unit(vector) for vector in vectors.double().tolist()])
    assert (normalise(vectors) - expected).abs().max() < 1e-6


def all_differ(spans: list[TokenSpan]) -> bool:
    """Whether no two chunks are the same characters, of which either might be the neighbour of a third."""
    return len(set(spans)) == len(spans)


IN_A_ROW = [CharSpan(10 * row, 10 * row + 12) for row in range(5)]


@given(st.floats(0, 1), st.integers(0, 2**31), st.none() | token_spans(9).filter(all_differ))
@settings(max_examples=80, deadline=None)
def test_blend_equals_the_reference(alpha: float, seed: int, drawn: list[TokenSpan] | None) -> None:
    spans = IN_A_ROW if drawn is None else [CharSpan(each.start, each.end) for each in drawn]
    late, isolated = torch.randn(2, len(spans), 2 * DIM, generator=torch.Generator().manual_seed(seed))
    found = blend(late, isolated, alpha, spans=spans)
    chunks = [(span.start, span.end) for span in spans]
    expected = reference.blend(late.double().tolist(), isolated.double().tolist(), alpha, chunks)
    assert (found - torch.tensor(expected)).abs().max() < 1e-5
    assert (found.norm(dim=1) - 1).abs().max() < 1e-6


def test_a_blend_ends_where_its_parts_begin() -> None:
    late, isolated = torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(3))
    # Two chunks have no more to say than their mean and their difference; of these nothing is left out.
    assert (blend(late[:2], isolated[:2], 1.0, spans=IN_A_ROW[:2]) - normalise(late[:2])).abs().max() < 1e-6
    shift = normalise(late).mean(dim=0) - normalise(isolated).mean(dim=0)
    assert (
        blend(late, isolated, 0.0, spans=IN_A_ROW) - normalise(normalise(isolated) + shift)
    ).abs().max() < 1e-6
    assert (blend(late[:1], isolated[:1], 0.0, spans=IN_A_ROW[:1]) - normalise(late[:1])).abs().max() < 1e-6
    # The length of its parts is no weight.
    longer = blend(late * 100, isolated, 0.3, spans=IN_A_ROW)
    assert (longer - blend(late, isolated, 0.3, spans=IN_A_ROW)).abs().max() < 1e-6


def test_what_only_the_neighbours_say_is_left_out_of_a_blend() -> None:
    # Around their mean, 0, the chunks point east, north, west and south. In context each is itself, as much
    # of the next one, and as much upward or downward, which none of them says alone.
    isolated = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    upward = torch.tensor([1.0, 1, -1, -1])[:, None] * torch.tensor([0.0, 0, 1])
    late = isolated + isolated.roll(-1, dims=0) + upward
    expected = normalise((3**0.5 + 1) * isolated + upward)
    assert (blend(late, isolated, 0.5, spans=IN_A_ROW[:4]) - expected).abs().max() < 1e-6
    # Neighbours are those in the document, whatever the order of the chunks.
    mixed = [2, 0, 3, 1]
    spans = [IN_A_ROW[row] for row in mixed]
    assert (blend(late[mixed], isolated[mixed], 0.5, spans=spans) - expected[mixed]).abs().max() < 1e-6
    # The last chunk is no neighbour of the first: what they have of each other stays.
    late = isolated + torch.stack([isolated[3], *torch.zeros(2, 3), isolated[0]])
    found = blend(late, isolated, 0.5, spans=IN_A_ROW[:4])
    assert found[0, 1] < -0.1 and found[3, 0] > 0.1


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeError, match="vectors"):
        normalise(torch.ones(3))
    with pytest.raises(TypeError, match="isolated"):
        blend(torch.ones(3, 2), torch.ones(2, 2), 0.5, spans=IN_A_ROW[:3])
