"""List prompts, feedback and fusion, against forwards and formulas written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.encoder import Encoder
from rag_embed.errors import ContextOverflowError, EmptyTextError, InputError, NonFiniteError
from rag_embed.listwise import as_matrix, cosine_scores, embed_list, fuse_scores, move_to_feedback
from rag_embed.prompts import E2RANK_LIST, QUERY_IN_CONTEXT, ListPrompt
from tests import reference
from tests.conftest import Loaded

QUERY = "river of Berlin"
CANDIDATES = ["Its river is the Spree.", "It has bridges.", "Lima is a city."]
PROMPTS = {
    "e2rank": E2RANK_LIST,
    "query in context": QUERY_IN_CONTEXT,
    "query behind, query pooled": ListPrompt(
        start="a ", candidate="{number}: ", query=" ? ", pooling="query"
    ),
    "query in front, all pooled": ListPrompt(query="q ", is_query_first=True),
}


def ids_of(loaded: Loaded, text: str) -> list[int]:
    return reference.tokenize(loaded[1], text)[0]


def vector_by_hand(loaded: Loaded, query: str, shown: list[list[int]], prompt: ListPrompt) -> list[float]:
    """The list vector out of one stock forward over a sequence that is put together here."""
    asked = ids_of(loaded, prompt.query)
    query_ids = ids_of(loaded, query)
    listed = ids_of(loaded, prompt.start)
    for number, ids in enumerate(shown, start=1):
        listed += ids_of(loaded, prompt.candidate.format(number=number)) + ids
    body = asked + query_ids + listed if prompt.is_query_first else listed + asked + query_ids
    states = reference.run_alone(loaded[0], [loaded[1].cls_token_id, *body, loaded[1].sep_token_id])
    if prompt.pooling == "query":
        first = 1 + (len(asked) if prompt.is_query_first else len(listed) + len(asked))
        states = states[first : first + len(query_ids)]
    return reference.unit(reference.mean(states))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_list_vector_equals_a_forward_by_hand(
    tiny_encoder: Encoder, tiny_reference: Loaded, prompt: ListPrompt
) -> None:
    found = embed_list(tiny_encoder, QUERY, CANDIDATES, prompt=prompt)
    shown = [ids_of(tiny_reference, text) for text in CANDIDATES]
    expected = vector_by_hand(tiny_reference, QUERY, shown, prompt)
    assert (found.vector - torch.tensor(expected)).abs().max() < 1e-5
    assert found.shown_tokens == found.total_tokens == tuple(map(len, shown))
    assert (found.vector.dtype, found.vector.shape) == (torch.float32, (tiny_encoder.dim,))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_one_forward_per_query_and_none_per_document(tiny_encoder: Encoder, prompt: ListPrompt) -> None:
    before = tiny_encoder.forward_count
    embed_list(tiny_encoder, QUERY, CANDIDATES * 4, prompt=ListPrompt(is_query_first=prompt.is_query_first))
    assert tiny_encoder.forward_count - before == 1
    embed_list(tiny_encoder, QUERY, CANDIDATES, prompt=prompt)
    assert tiny_encoder.forward_count - before == 2


def test_feedback_and_scores_need_no_forward(tiny_encoder: Encoder) -> None:
    before = tiny_encoder.forward_count
    stored = torch.randn(8, tiny_encoder.dim, generator=torch.Generator().manual_seed(0))
    query = move_to_feedback(stored[0], stored[1:4], weight=0.5)
    fuse_scores(cosine_scores(stored[0], stored), cosine_scores(query, stored), weight=0.5)
    assert tiny_encoder.forward_count == before


def test_candidates_and_their_order_change_the_vector(tiny_encoder: Encoder) -> None:
    vectors = [
        embed_list(tiny_encoder, QUERY, candidates, prompt=QUERY_IN_CONTEXT).vector
        for candidates in (CANDIDATES, CANDIDATES[::-1], CANDIDATES[:2], [])
    ]
    for i, first in enumerate(vectors):
        for second in vectors[i + 1 :]:
            assert (first - second).abs().max() > 1e-3


def test_special_tokens_in_candidates_are_ordinary_characters(minilm: Encoder) -> None:
    found = embed_list(minilm, QUERY, ["a [SEP] b", "a [ SEP ] b"], prompt=QUERY_IN_CONTEXT)
    assert found.total_tokens[0] == found.total_tokens[1] > 3


# ---------------------------------------------------------------- what does not fit


def fairest_limit(lengths: list[int], room: int) -> int:
    """Try all limits; the largest under which everything fits."""
    return max(limit for limit in range(room + 1) if sum(min(length, limit) for length in lengths) <= room)


@given(st.lists(st.integers(0, 80), min_size=1, max_size=12), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_what_does_not_fit_is_cut_fairly_and_visibly(
    tiny_encoder: Encoder, lengths: list[int], query_length: int
) -> None:
    prompt = ListPrompt(candidate="-", query="?")
    room = tiny_encoder.capacity - 1 - query_length - len(lengths)
    query, candidates = "a " * query_length, ["a " * length for length in lengths]
    before = tiny_encoder.token_count
    found = embed_list(tiny_encoder, query, candidates, prompt=prompt)
    limit = fairest_limit(lengths, room)
    assert found.total_tokens == tuple(lengths)
    assert found.shown_tokens == tuple(min(length, limit) for length in lengths)
    computed = tiny_encoder.token_count - before
    assert computed == 2 + 1 + query_length + len(lengths) + sum(found.shown_tokens)
    # No token more could be shown to all that are cut.
    cut = sum(shown < total for shown, total in zip(found.shown_tokens, found.total_tokens, strict=True))
    assert not cut or computed + cut > tiny_encoder.max_tokens


def test_short_candidates_stay_whole(tiny_encoder: Encoder, tiny_reference: Loaded) -> None:
    candidates = ["It is.", "the city of germany " * 30, "Spree"]
    found = embed_list(tiny_encoder, QUERY, candidates, prompt=QUERY_IN_CONTEXT)
    assert found.shown_tokens[0] == found.total_tokens[0]
    assert found.shown_tokens[2] == found.total_tokens[2]
    assert 0 < found.shown_tokens[1] < found.total_tokens[1]
    shown = [
        ids_of(tiny_reference, text)[:count]
        for text, count in zip(candidates, found.shown_tokens, strict=True)
    ]
    expected = vector_by_hand(tiny_reference, QUERY, shown, QUERY_IN_CONTEXT)
    assert (found.vector - torch.tensor(expected)).abs().max() < 1e-5


def test_a_context_without_room_is_refused(tiny_encoder: Encoder) -> None:
    before = tiny_encoder.forward_count
    prompt = ListPrompt(candidate="-", query="?")
    # 62 tokens: "?", the query's, and 30 times "-" and one token.
    assert embed_list(tiny_encoder, "a", ["a b"] * 30, prompt=prompt).shown_tokens == (1,) * 30
    with pytest.raises(
        ContextOverflowError, match="leave room for 29 tokens of 31 candidates; expected at least"
    ):
        embed_list(tiny_encoder, "a", ["a b"] * 31, prompt=prompt)
    with pytest.raises(ContextOverflowError, match="leave room for 0 tokens of 1 candidates"):
        embed_list(tiny_encoder, "a " * 200, ["a"], prompt=prompt)
    assert tiny_encoder.forward_count - before == 1


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused(tiny_encoder: Encoder, query: str) -> None:
    with pytest.raises(EmptyTextError, match="holds no token; ask something"):
        embed_list(tiny_encoder, query, CANDIDATES, prompt=E2RANK_LIST)


# ---------------------------------------------------------------- feedback, scores, fusion


@given(st.integers(0, 2**31), st.integers(1, 9), st.floats(0, 10))
@settings(max_examples=50, deadline=None)
def test_feedback_is_rocchio_without_a_negative_part(seed: int, count: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    query, relevant = rng.normal(size=16), rng.normal(size=(count, 16))
    moved = query / np.linalg.norm(query)
    moved = moved + weight * np.mean(relevant / np.linalg.norm(relevant, axis=1, keepdims=True), axis=0)
    expected = moved / np.linalg.norm(moved)
    found = move_to_feedback(torch.tensor(query).float(), torch.tensor(relevant).float(), weight=weight)
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_feedback_without_weight_is_the_query() -> None:
    query, relevant = torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]])
    assert torch.allclose(move_to_feedback(query, relevant, weight=0.0), torch.tensor([0.6, 0.8]))


def test_cosine_scores() -> None:
    stored = torch.tensor([[2.0, 0.0], [0.0, -1.0], [5.0, 5.0]])
    found = cosine_scores(torch.tensor([0.0, 3.0]), stored)
    assert found.tolist() == pytest.approx([0.0, -1.0, math.sqrt(0.5)])


def test_vectors_of_another_size_are_refused() -> None:
    message = (
        "stored vectors have 8 dimensions, the encoder makes 4; rerank with the model that the collection"
    )
    with pytest.raises(InputError, match=message):
        cosine_scores(torch.ones(4), torch.ones(3, 8))
    with pytest.raises(InputError, match=r"stored vectors have \[2, 3\] dimensions; expected one size"):
        as_matrix([[1.0, 2.0], [1.0, 2.0, 3.0]])
    assert as_matrix([[1.0, 2.0], [3.0, 4.0]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_stored_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"vectors \[1\] of 2"):
        cosine_scores(torch.ones(2), torch.tensor([[1.0, 0.0], [math.nan, 0.0]]))


scores = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=20)


@given(scores, st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_fusion_without_weight_is_the_first_stage(first: list[float], seed: int) -> None:
    second = torch.randn(len(first), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(fuse_scores(torch.tensor(first), second, weight=0.0), torch.tensor(first))


@given(st.integers(2, 30), st.floats(0, 1), st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_fusion_equals_its_formula_and_ignores_the_second_scale(
    count: int, weight: float, factor: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=count), rng.normal(size=count)
    rescaled = (second - second.mean()) / second.std() * first.std() + first.mean()
    expected = (1 - weight) * first + weight * rescaled
    for scaled in (second, second * factor + offset):
        found = fuse_scores(torch.tensor(first).float(), torch.tensor(scaled).float(), weight=weight)
        assert np.abs(found.numpy() - expected).max() < 2e-3 * max(1, abs(offset) / factor)


def test_fusion_with_full_weight_ranks_as_the_second_on_the_scale_of_the_first() -> None:
    first, second = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([10.0, 30.0, 20.0])
    fused = fuse_scores(first, second, weight=1.0)
    assert fused.argsort(descending=True).tolist() == [1, 2, 0]
    assert fused.mean().item() == pytest.approx(0.8)
    assert fused.std(unbiased=False).item() == pytest.approx(first.std(unbiased=False).item())


def test_fusion_with_scores_that_tell_nothing_is_the_first_stage() -> None:
    first = torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(fuse_scores(first, torch.full((3,), 0.3), weight=0.7), first)
    assert torch.equal(fuse_scores(first[:1], torch.tensor([0.1]), weight=0.7), first[:1])
