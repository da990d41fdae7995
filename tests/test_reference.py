"""The reference itself, against examples computed by hand; and the tools that it is used with."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rag_embed.errors import EmptySpanError, EmptyTextError
from tests import reference
from tests.checkpoints import DIM, MAX_TOKENS, tiny_bert
from tests.strategies import (
    chunked_documents,
    context_sizes,
    documents,
    has_content,
    partitions,
    window_layouts,
)

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerFast]
LONG_TEXT = "Berlin is the capital of Germany. Its river is the Spree. " * 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only wait for each other on a model this small; on a busy machine for seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return reference.load(folder)


# ---------------------------------------------------------------- token_spans


def test_a_token_goes_to_the_chunk_with_most_of_its_characters() -> None:
    text = "abcdefgh"
    # The second token has one character in the first chunk and three in the second.
    assert reference.token_spans([(0, 2), (2, 6), (6, 8)], text, [(0, 3), (3, 8)]) == [(0, 1), (1, 3)]
    # Three in the first and one in the second.
    assert reference.token_spans([(0, 2), (2, 6), (6, 8)], text, [(0, 5), (5, 8)]) == [(0, 2), (2, 3)]


def test_a_tie_goes_to_the_earlier_chunk() -> None:
    assert reference.token_spans([(0, 2), (2, 6), (6, 8)], "abcdefgh", [(0, 4), (4, 8)]) == [(0, 2), (2, 3)]


def test_a_chunk_inside_a_token_takes_the_token() -> None:
    # The tie goes to the first chunk; the second owns no token and takes the one that it touches.
    assert reference.token_spans([(0, 4)], "abcd", [(0, 2), (2, 4)]) == [(0, 1), (0, 1)]
    # Two characters that stand in two tokens, whose middles are both outside.
    assert reference.token_spans([(0, 4), (4, 8)], "abcdefgh", [(3, 5)]) == [(0, 2)]


def test_white_space_of_a_token_does_not_count() -> None:
    # " a" with its blank would be a tie and go to the chunk of the blank.
    assert reference.token_spans([(0, 1), (1, 3)], "x a", [(0, 2), (2, 3)]) == [(0, 1), (1, 2)]
    # The chunk of the blank alone touches no token then.
    with pytest.raises(EmptySpanError):
        reference.token_spans([(0, 1), (1, 3)], "x a", [(1, 2)])


def test_a_token_of_white_space_keeps_its_range() -> None:
    assert reference.token_spans([(0, 1), (1, 3), (3, 4)], "a  b", [(0, 1), (1, 3), (3, 4)]) == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_an_empty_token_counts_as_one_character() -> None:
    assert reference.token_spans([(0, 0), (0, 1), (1, 2)], "ab", [(0, 1), (1, 2)]) == [(0, 2), (2, 3)]


def test_chunks_may_overlap_and_leave_gaps() -> None:
    offsets = [(0, 2), (3, 5), (6, 8), (9, 11)]
    assert reference.token_spans(offsets, "ab cd ef gh", [(0, 5), (3, 8), (3, 11)]) == [
        (0, 2),
        (1, 3),
        (1, 4),
    ]
    assert reference.token_spans(offsets, "ab cd ef gh", [(9, 11), (0, 2)]) == [(3, 4), (0, 1)]


def test_a_chunk_without_token_is_refused() -> None:
    with pytest.raises(EmptySpanError) as caught:
        reference.token_spans([(0, 1), (3, 4)], "a  b", [(0, 1), (1, 3), (3, 4), (4, 4)])
    assert caught.value.indices == (1, 3)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("token_count", "capacity", "overlap", "expected"),
    [
        (6, 6, 2, [(0, 6, 0, 6)]),
        (0, 6, 2, [(0, 0, 0, 0)]),
        # Token 4 is 1 from the end of the first window, 0 from the start of the second; token 5 mirrors it.
        (10, 6, 2, [(0, 6, 0, 5), (4, 10, 5, 10)]),
        # Token 4 is 1 from both: a tie, so the earlier window has it.
        (9, 6, 3, [(0, 6, 0, 5), (3, 9, 5, 9)]),
        # Ties at tokens 4 and 7.
        (12, 6, 2, [(0, 6, 0, 5), (3, 9, 5, 8), (6, 12, 8, 12)]),
        # k = ceil(13 / 5) = 3, size = ceil(13 / 3) = 5; equal windows, starts 0, 8 / 2, 16 / 2.
        # Token 4 is 0 from both, so is token 8.
        (13, 5, 0, [(0, 5, 0, 5), (4, 9, 5, 9), (8, 13, 9, 13)]),
        # One new token per window: the middle window owns one token only.
        (12, 10, 9, [(0, 10, 0, 6), (1, 11, 6, 7), (2, 12, 7, 12)]),
        (3, 1, 0, [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]),
    ],
)
def test_windows_by_hand(
    token_count: int, capacity: int, overlap: int, expected: list[tuple[int, int, int, int]]
) -> None:
    assert reference.windows(token_count, capacity, overlap) == expected


def test_windows_refuse_an_overlap_that_leaves_no_room() -> None:
    with pytest.raises(ValueError, match="overlap 4"):
        reference.windows(10, 4, 4)


@given(window_layouts())
@settings(max_examples=100, deadline=None)
def test_windows_cover_overlap_and_own(layout: tuple[int, int, int]) -> None:
    token_count, capacity, overlap = layout
    result = reference.windows(token_count, capacity, overlap)
    assert result[0][0] == 0
    assert result[-1][1] == token_count
    for before, after in itertools.pairwise(result):
        assert before[1] - after[0] >= overlap
        assert before[0] < after[0]
        assert before[1] - before[0] == after[1] - after[0]
        assert before[3] == after[2]
    for start, end, own_start, own_end in result:
        assert start <= own_start < own_end <= end


def test_windows_of_every_small_layout() -> None:
    for token_count in range(1, 17):
        for capacity in range(1, 17):
            for overlap in range(capacity):
                owned = [window[2:] for window in reference.windows(token_count, capacity, overlap)]
                assert sum(end - start for start, end in owned) == token_count


# ---------------------------------------------------------------- vectors


def test_unit_mean_and_blend_by_hand() -> None:
    assert reference.unit([3.0, 4.0]) == [0.6, 0.8]
    assert reference.mean([[1.0, 2.0], [3.0, 6.0]]) == [2.0, 4.0]
    # The only chunk of a document is the document, and has its place in context whatever its share is.
    assert reference.blend([[2.0, 0.0]], [[0.0, 3.0]], 0.3, [(0, 9)]) == [pytest.approx([1.0, 0.0])]
    # Two chunks that are told apart alone and not in context: the centres are (1, 0) and (1/2, 1/2), so the
    # isolated ones, (0, 1) and (1, 0), move by (1/2, -1/2), to (1/2, 1/2) and (3/2, -1/2).
    late, isolated = [[2.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]]
    chunks = [(0, 5), (5, 9)]
    assert reference.blend(late, isolated, 1.0, chunks) == [pytest.approx([1.0, 0.0])] * 2
    first, second = reference.blend(late, isolated, 0.0, chunks)
    assert first == pytest.approx([1 / 2**0.5, 1 / 2**0.5])
    assert second == pytest.approx([3 / 10**0.5, -1 / 10**0.5])
    # Half of each: (3/4, 1/4) and (5/4, -1/4).
    first, second = reference.blend(late, isolated, 0.5, chunks)
    assert first == pytest.approx([3 / 10**0.5, 1 / 10**0.5])
    assert second == pytest.approx([5 / 26**0.5, -1 / 26**0.5])


def test_a_blend_leaves_out_what_neighbours_say_by_hand() -> None:
    alone = [[1.0, 0, 0], [0, 1.0, 0], [-1.0, 0, 0], [0, -1.0, 0]]
    # Each is half itself and half the next, and goes up or down besides; only the next is left out.
    late = [[1.0, 1, 1], [-1.0, 1, 1], [-1.0, -1, -1], [1.0, -1, -1]]
    side, up = 3**0.5 + 1, 1.0
    length = (side**2 + up**2) ** 0.5
    expected = [[side, 0, up], [0, side, up], [-side, 0, -up], [0, -side, -up]]
    found = reference.blend(late, alone, 0.5, [(0, 3), (2, 6), (6, 7), (9, 12)])
    assert [v / length for row in expected for v in row] == pytest.approx([v for row in found for v in row])


def test_late_vectors_of_one_window(loaded: Loaded) -> None:
    model, tokenizer = loaded
    text = "Berlin is a city. It has a river."
    encoding = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = model(**encoding).last_hidden_state[0]
    border = encoding.char_to_token(0, text.index("It"))
    expected = torch.stack([states[1:border].mean(0), states[border:-1].mean(0)])
    expected = torch.nn.functional.normalize(expected, dim=1)
    vectors = reference.late_vectors(model, tokenizer, text, [(0, 17), (18, 33)], MAX_TOKENS, 0)
    torch.testing.assert_close(torch.tensor(vectors), expected, atol=1e-6, rtol=0)


def test_late_vectors_of_several_windows(loaded: Loaded) -> None:
    model, tokenizer = loaded
    ids, offsets = reference.tokenize(tokenizer, LONG_TEXT)
    max_tokens, overlap = 22, 7
    for start, end, own_start, own_end in reference.windows(len(ids), max_tokens - 2, overlap):
        chunk = (offsets[own_start][0], offsets[own_end - 1][1])
        [vector] = reference.late_vectors(model, tokenizer, LONG_TEXT, [chunk], max_tokens, overlap)
        with torch.no_grad():
            window = torch.tensor([[tokenizer.cls_token_id, *ids[start:end], tokenizer.sep_token_id]])
            states = model(window).last_hidden_state[0, 1:-1]
        expected = torch.nn.functional.normalize(states[own_start - start : own_end - start].mean(0), dim=0)
        torch.testing.assert_close(torch.tensor(vector), expected, atol=1e-6, rtol=0)


def test_a_context_head_stands_in_every_window_and_takes_room(loaded: Loaded) -> None:
    model, tokenizer = loaded
    head, _ = reference.tokenize(tokenizer, "title")
    body, offsets = reference.tokenize(tokenizer, "a b c d e f")
    # Room for 4 of the 6 tokens: two windows of 4, tokens 0 to 3 and 2 to 5, of which each owns 3.
    max_tokens = len(head) + 2 + 4
    vectors = reference.late_vectors(model, tokenizer, "a b c d e f", offsets, max_tokens, 1, head)
    expected = []
    for window, owned in [(body[0:4], slice(0, 3)), (body[2:6], slice(1, 4))]:
        with torch.no_grad():
            ids = torch.tensor([[tokenizer.cls_token_id, *head, *window, tokenizer.sep_token_id]])
            states = model(ids).last_hidden_state[0, 1 + len(head) : -1]
        expected.append(torch.nn.functional.normalize(states[owned], dim=1))
    torch.testing.assert_close(torch.tensor(vectors), torch.cat(expected), atol=1e-6, rtol=0)


def test_context_head_and_window_change_a_vector(loaded: Loaded) -> None:
    model, tokenizer = loaded
    chunk = [(len(LONG_TEXT) // 2, len(LONG_TEXT) // 2 + 30)]
    head, _ = reference.tokenize(tokenizer, "A title")
    plain = reference.late_vectors(model, tokenizer, LONG_TEXT, chunk, 40, 10)[0]
    headed = reference.late_vectors(model, tokenizer, LONG_TEXT, chunk, 40, 10, head)[0]
    shorter = reference.late_vectors(model, tokenizer, LONG_TEXT, chunk, 30, 10)[0]
    alone = reference.isolated_vector(model, tokenizer, LONG_TEXT[chunk[0][0] : chunk[0][1]], 40, 10)
    for other in (headed, shorter, alone):
        # Far more than the 1e-5 of the comparisons: they would notice.
        assert max(abs(a - b) for a, b in zip(plain, other, strict=True)) > 1e-2


def test_isolated_vector_counts_special_tokens_unless_it_needs_windows(loaded: Loaded) -> None:
    model, tokenizer = loaded
    text = "Berlin is a city."
    ids, _ = reference.tokenize(tokenizer, text)
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=0).tolist()
    assert reference.isolated_vector(model, tokenizer, text, len(ids) + 2, 0) == pytest.approx(
        expected, abs=1e-6
    )

    windowed = reference.isolated_vector(model, tokenizer, text, len(ids) + 1, 2)
    late = reference.late_vectors(model, tokenizer, text, [(0, len(text))], len(ids) + 1, 2)
    assert windowed == late[0]
    with pytest.raises(EmptyTextError):
        reference.isolated_vector(model, tokenizer, " \n", MAX_TOKENS, 0)


# ---------------------------------------------------------------- check_alignment


def test_check_alignment() -> None:
    text = "One.  Two.\r\nTwo. Three."
    reference.check_alignment(text, ["One. Two.", "Two.", "Two. Three."], [(0, 10), (12, 16), (12, 23)])
    with pytest.raises(AssertionError, match="2 spans for 1 chunks"):
        reference.check_alignment(text, ["One."], [(0, 4), (6, 10)])
    with pytest.raises(AssertionError, match=r"holds 'Two\.' and not 'One\.'"):
        reference.check_alignment(text, ["One."], [(6, 10)])
    with pytest.raises(AssertionError, match="starts at 6, before 12"):
        reference.check_alignment(text, ["Two.", "Two."], [(12, 16), (6, 10)])
    with pytest.raises(AssertionError, match="text of 23 characters"):
        reference.check_alignment(text, ["Three."], [(17, 24)])


# ---------------------------------------------------------------- tiny_bert


def test_tiny_bert_loads_as_a_stock_checkpoint(folder: Path, loaded: Loaded) -> None:
    model, tokenizer = loaded
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert names == {
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert type(model).__name__ == "BertModel"
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (DIM, 2)
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == MAX_TOKENS
    assert tokenizer.convert_ids_to_tokens(tokenizer("Berlin, reaction 東京 👍").input_ids) == [
        "[CLS]", "berlin", ",", "re", "##a", "##c", "##tion", "東", "京", "👍", "[SEP]",
    ]  # fmt: skip
    assert reference.tokenize(tokenizer, "é x")[1] == [(0, 1), (2, 3)]


def test_tiny_bert_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    def digest(checkpoint: Path) -> str:
        return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()

    torch.rand(3)
    assert digest(tiny_bert(tmp_path / "again")) == digest(folder)
    assert digest(tiny_bert(tmp_path / "other", seed=1)) != digest(folder)


# ---------------------------------------------------------------- strategies


@given(chunked_documents())
@settings(max_examples=40, deadline=None)
def test_chunked_documents_are_valid(document: tuple[str, list[tuple[int, int]]]) -> None:
    text, chunks = document
    assert chunks
    for start, end in chunks:
        assert 0 <= start < end <= len(text)
        assert has_content(text[start:end])
    reference.check_alignment(text, [text[start:end] for start, end in chunks], chunks)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_partitions_cover_the_text(data: st.DataObject) -> None:
    text = data.draw(documents())
    chunks = data.draw(partitions(text, allow_blank=data.draw(st.booleans())))
    assert "".join(text[start:end] for start, end in chunks) == text


@given(chunked_documents(max_fragments=4, max_chunks=4), context_sizes(min_tokens=24))
@settings(max_examples=12, deadline=None)
def test_every_chunk_with_content_has_a_vector(
    loaded: Loaded, document: tuple[str, list[tuple[int, int]]], sizes: tuple[int, int]
) -> None:
    model, tokenizer = loaded
    text, chunks = document
    vectors = reference.late_vectors(model, tokenizer, text, chunks, *sizes)
    assert len(vectors) == len(chunks)
    for vector in vectors:
        assert math.hypot(*vector) == pytest.approx(1.0)
