"""Chunks to characters, characters to tokens: where splitters and tokenizers are nasty, too."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.encoder import Encoder
from rag_embed.errors import AlignmentError, EmptySpanError, SpanOutOfRangeError
from rag_embed.spans import CharSpan, TokenSpan, align_chunks, align_tokens
from tests import reference
from tests.conftest import Loaded
from tests.strategies import chunked_documents, documents, partitions


def pairs(spans: list[CharSpan] | list[TokenSpan]) -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in spans]


# ---------------------------------------------------------------- align_chunks


@given(chunked_documents())
@settings(max_examples=100, deadline=None)
def test_chunks_are_found_where_their_text_stands(document: tuple[str, list[tuple[int, int]]]) -> None:
    text, truth = document
    chunks = [text[start:end] for start, end in truth]
    reference.check_alignment(text, chunks, pairs(align_chunks(text, chunks)))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_chunks_without_overlap_and_gap_are_found_exactly(data: st.DataObject) -> None:
    text = data.draw(documents())
    truth = data.draw(partitions(text))
    assert pairs(align_chunks(text, [text[start:end] for start, end in truth])) == truth


@given(chunked_documents(), st.data())
@settings(max_examples=60, deadline=None)
def test_white_space_that_a_splitter_changed_is_no_obstacle(
    document: tuple[str, list[tuple[int, int]]], data: st.DataObject
) -> None:
    text, truth = document
    blanks = st.sampled_from([" ", "\n", "  ", "\u3000"])
    chunks = [data.draw(blanks).join(text[start:end].split()) for start, end in truth]
    reference.check_alignment(text, chunks, pairs(align_chunks(text, chunks)))


@given(st.text("ab ", min_size=1, max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_any_chunks_in_order_have_a_place(text: str, data: st.DataObject) -> None:
    """Two letters only: nearly everything repeats, and most first guesses are wrong for a later chunk."""
    ranges = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).filter(lambda r: r[0] < r[1])
    truth = sorted(data.draw(st.lists(ranges, max_size=8)))
    chunks = [text[start:end].strip() for start, end in truth]
    chunks = [chunk for chunk in chunks if chunk]
    reference.check_alignment(text, chunks, pairs(align_chunks(text, chunks)))


def brute_force_has_place(text: str, chunks: list[str]) -> bool:
    squeezed = "".join(text.split())
    places = [
        [start for start in range(len(squeezed)) if squeezed.startswith("".join(chunk.split()), start)]
        for chunk in chunks
    ]
    return any(list(starts) == sorted(starts) for starts in itertools.product(*places))


@given(st.text("ab", min_size=1, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
@settings(max_examples=100, deadline=None)
def test_chunks_are_refused_only_if_there_is_no_place(text: str, chunks: list[str]) -> None:
    if brute_force_has_place(text, chunks):
        reference.check_alignment(text, chunks, pairs(align_chunks(text, chunks)))
    else:
        with pytest.raises(AlignmentError):
            align_chunks(text, chunks)


def test_repeated_chunks_advance() -> None:
    assert pairs(align_chunks("It is. It is. It is.", ["It is."] * 3)) == [(0, 6), (7, 13), (14, 20)]
    # One sentence that the splitter left out stands between two equal ones.
    assert pairs(align_chunks("Yes. No. Yes.", ["Yes.", "Yes."])) == [(0, 4), (9, 13)]
    # The first "b" would be nearer, but leaves "c b" without a place.
    assert pairs(align_chunks("b a b c b", ["b", "a b", "c b"])) == [(0, 1), (2, 5), (6, 9)]


def test_a_first_guess_that_blocks_a_later_chunk_is_not_taken() -> None:
    text = "x x x y"
    # One behind the other, the three would leave no room for the last, which starts at the second "x".
    assert pairs(align_chunks(text, ["x", "x", "x", "x x y"])) == [(0, 1), (2, 3), (2, 3), (2, 7)]


def test_overlap_and_gaps() -> None:
    text = "One two three. Four five. Six seven eight."
    chunks = ["One two three. Four five.", "Four five. Six seven", "seven eight."]
    assert [text[span.start : span.end] for span in align_chunks(text, chunks)] == chunks
    assert pairs(align_chunks(text, ["One", "five.", "eight."])) == [(0, 3), (20, 25), (36, 42)]


def test_a_chunk_keeps_its_outer_white_space_where_the_document_has_it() -> None:
    text = "\n  a b \r\n c\n"
    assert pairs(align_chunks(text, ["\n  a b ", "\r\n c\n"])) == [(0, 7), (7, 12)]
    # White space of the splitter's own is not the document's.
    assert pairs(align_chunks(text, ["\t a b", "c   "])) == [(3, 6), (10, 11)]


def test_starts_never_decrease_over_outer_white_space() -> None:
    spans = align_chunks(" x y x", ["x", " x"])
    assert pairs(spans) == [(1, 2), (4, 6)]
    assert pairs(align_chunks(" x", ["x", " x"])) == [(1, 2), (1, 2)]


def test_no_chunks_have_no_spans() -> None:
    assert align_chunks("some text", []) == []
    assert align_chunks("", []) == []


WORD = "the "


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([WORD * 50] * 500, id="back to back"),
        pytest.param([WORD * 100] * 250, id="fewer and longer"),
        pytest.param([WORD] * 25_000, id="one word each"),
        pytest.param([WORD * 60] * 420, id="overlapping by a sixth"),
        # The chunks before it must all start in the first half, although half of them would fill the text.
        pytest.param([WORD * 2] * 10_000 + [WORD * 15_000 + "end"], id="the last one forces all to give way"),
        pytest.param(
            [WORD * 200] * 1000 + [WORD * 24_999 + "end"], id="the last one starts at the second word"
        ),
        pytest.param([WORD * 24_000 + "the"] * 50 + ["end"], id="many long ones"),
    ],
)
def test_periodic_text_of_100_kb(chunks: list[str]) -> None:
    text = WORD * 25_000 + "end"
    began = time.process_time()
    spans = align_chunks(text, chunks)
    assert time.process_time() - began < 5
    previous = 0
    for chunk, span in zip(chunks, spans, strict=True):
        assert span.start >= previous
        assert text[span.start : span.end] == chunk or text[span.start : span.end].split() == chunk.split()
        previous = span.start


def test_periodic_text_whose_chunks_do_not_fit_is_refused_soon() -> None:
    text = "start " + WORD * 25_000
    began = time.process_time()
    with pytest.raises(AlignmentError, match=r"chunk 299 of 301, .* only behind the start of chunk 300"):
        align_chunks(text, [WORD * 80] * 300 + ["start the"])
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (["One.", " \n\t"], r"chunk 1 of 2 is blank and stands nowhere; remove blank chunks first"),
        ([""], r"chunk 0 of 1 is blank"),
        (["One.", "Three."], r"chunk 1 of 2 is not a part of its document: 'Three\.'\. Use a splitter that"),
        (["One. Two. Two."], r"chunk 0 of 1 is not a part of its document"),
        (
            ["Two.", "One."],
            r"chunk 0 of 2, 'Two\.', occurs .* hand the chunks over in the order in which they start",
        ),
    ],
)
def test_chunks_without_a_place_are_refused_with_a_reason(chunks: list[str], message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        align_chunks("One. Two.", chunks)


# ---------------------------------------------------------------- spans


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2)])
def test_a_reversed_or_negative_span_is_refused(start: int, end: int) -> None:
    with pytest.raises(SpanOutOfRangeError, match=rf"\[{start}, {end}\) is negative or reversed"):
        CharSpan(start, end)


def test_spans_are_ordered_by_start() -> None:
    assert sorted([CharSpan(3, 4), CharSpan(0, 9), CharSpan(0, 2)]) == [
        CharSpan(0, 2),
        CharSpan(0, 9),
        CharSpan(3, 4),
    ]
    assert len(TokenSpan(2, 7)) == 5


# ---------------------------------------------------------------- align_tokens


def assert_tokens_equal_reference(
    encoder: Encoder, loaded: Loaded, text: str, chunks: list[tuple[int, int]]
) -> None:
    ids, offsets = reference.tokenize(loaded[1], text)
    tokens = encoder.tokenize(text)
    assert tokens.ids.tolist() == ids
    assert list(zip(tokens.starts.tolist(), tokens.ends.tolist(), strict=True)) == offsets
    spans = [CharSpan(*chunk) for chunk in chunks]
    try:
        expected = reference.token_spans(offsets, text, chunks)
    except EmptySpanError as error:
        with pytest.raises(EmptySpanError) as caught:
            align_tokens(text, tokens.starts, tokens.ends, spans)
        assert caught.value.indices == error.indices
    else:
        assert pairs(align_tokens(text, tokens.starts, tokens.ends, spans)) == expected


@given(chunked_documents())
@settings(max_examples=100, deadline=None)
def test_tokens_of_chunks_equal_the_reference(
    tiny_encoder: Encoder, tiny_reference: Loaded, document: tuple[str, list[tuple[int, int]]]
) -> None:
    assert_tokens_equal_reference(tiny_encoder, tiny_reference, *document)


@given(chunked_documents())
@settings(max_examples=60, deadline=None)
def test_tokens_of_chunks_equal_the_reference_with_minilm(
    minilm: Encoder, minilm_reference: Loaded, document: tuple[str, list[tuple[int, int]]]
) -> None:
    assert_tokens_equal_reference(minilm, minilm_reference, *document)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_chunks_without_tokens_are_named_as_the_reference_names_them(
    tiny_encoder: Encoder, tiny_reference: Loaded, data: st.DataObject
) -> None:
    text = data.draw(documents())
    assert_tokens_equal_reference(
        tiny_encoder, tiny_reference, text, data.draw(partitions(text, allow_blank=True))
    )


@given(st.text("ab ", min_size=1, max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_tokens_with_any_offsets_equal_the_reference(text: str, data: st.DataObject) -> None:
    """Offsets with gaps, doublets (one character of several tokens), blanks inside and no width."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=8)))
    offsets = list(itertools.pairwise(cuts))
    offsets = [offset for offset in offsets if data.draw(st.booleans()) and offset[0] < len(text)]
    edges = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    chunks = [(min(edge), max(edge)) for edge in data.draw(st.lists(edges, min_size=1, max_size=5))]
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    spans = [CharSpan(*chunk) for chunk in chunks]
    try:
        expected = reference.token_spans(offsets, text, chunks)
    except EmptySpanError as error:
        with pytest.raises(EmptySpanError) as caught:
            align_tokens(text, starts, ends, spans)
        assert caught.value.indices == error.indices
    else:
        assert pairs(align_tokens(text, starts, ends, spans)) == expected


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_partition_takes_every_token_and_none_twice(tiny_encoder: Encoder, data: st.DataObject) -> None:
    """Cut at white space, so that no chunk lies inside a token: nothing is lost, nothing counted twice."""
    words = data.draw(
        st.lists(st.sampled_from(["berlin", "naïve", "3.14", "東京", "end."]), min_size=1, max_size=12)
    )
    text = " ".join(words)
    borders = [0, *(i for i, char in enumerate(text) if char == " " and data.draw(st.booleans())), len(text)]
    spans = [CharSpan(*border) for border in itertools.pairwise(borders)]
    tokens = tiny_encoder.tokenize(text)
    found = pairs(align_tokens(text, tokens.starts, tokens.ends, spans))
    assert [token for start, end in found for token in range(start, end)] == list(range(len(tokens)))


def test_a_straddling_token_goes_to_the_chunk_with_most_of_it() -> None:
    starts, ends = np.array([0, 2, 6]), np.array([2, 6, 8])
    text = "abcdefgh"
    for border, expected in [(3, [(0, 1), (1, 3)]), (5, [(0, 2), (2, 3)]), (4, [(0, 2), (2, 3)])]:
        spans = [CharSpan(0, border), CharSpan(border, 8)]
        assert pairs(align_tokens(text, starts, ends, spans)) == expected


def test_the_order_of_the_spans_is_kept() -> None:
    starts, ends = np.array([0, 3, 6]), np.array([2, 5, 8])
    spans = [CharSpan(6, 8), CharSpan(0, 5), CharSpan(3, 5), CharSpan(3, 5)]
    assert pairs(align_tokens("ab cd ef", starts, ends, spans)) == [(2, 3), (0, 2), (1, 2), (1, 2)]


def test_a_span_beyond_the_text_is_refused() -> None:
    message = r"chunk 1 is \[1, 4\) of a text of 3 characters; the spans belong to another text"
    with pytest.raises(SpanOutOfRangeError, match=message):
        align_tokens("abc", np.array([0]), np.array([3]), [CharSpan(0, 3), CharSpan(1, 4)])


def test_a_chunk_without_tokens_is_refused() -> None:
    message = r"2 of 3 chunks hold no token; the first is chunk 1, '  '\. Leave out chunks"
    with pytest.raises(EmptySpanError, match=message) as caught:
        align_tokens(
            "a  b", np.array([0, 3]), np.array([1, 4]), [CharSpan(0, 1), CharSpan(1, 3), CharSpan(2, 2)]
        )
    assert caught.value.indices == (1, 2)


def test_a_document_without_tokens_is_refused() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(EmptySpanError, match="1 of 1 chunks hold no token"):
        align_tokens("\u200b", nothing, nothing, [CharSpan(0, 1)])
