"""The list prompt: what does not fit is cut fairly and visibly, and nothing is cut where all fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.encoder import Encoder
from rag_embed.errors import ContextOverflowError, EmptyTextError
from rag_embed.listwise import embed_list
from rag_embed.loading import load_encoder
from rag_embed.prompts import E2RANK_CHAT
from tests.checkpoints_families import write_family

QUERY = "river of Berlin"
CANDIDATES = ["Its river is the Spree.", "It has bridges.", "Lima is a city."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(
        write_family(Path(tmp_path_factory.mktemp("listwise")), "e2rank"), device="cpu", dtype="float32"
    )


def test_one_forward_per_query_and_none_per_document(encoder: Encoder) -> None:
    before = encoder.forward_count
    embed_list(encoder, QUERY, CANDIDATES * 4, prompt=E2RANK_CHAT)
    assert encoder.forward_count - before == 1


def test_candidates_and_their_order_change_the_vector(encoder: Encoder) -> None:
    vectors = [
        embed_list(encoder, QUERY, candidates, prompt=E2RANK_CHAT).vector
        for candidates in (CANDIDATES, CANDIDATES[::-1], CANDIDATES[:2])
    ]
    for i, first in enumerate(vectors):
        assert float(first.norm()) == pytest.approx(1.0, abs=1e-5)
        for second in vectors[i + 1 :]:
            assert (first - second).abs().max() > 1e-4


def fairest_limit(lengths: list[int], room: int) -> int:
    """Try all limits; the largest under which everything fits."""
    return max(limit for limit in range(room + 1) if sum(min(length, limit) for length in lengths) <= room)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_what_does_not_fit_is_cut_fairly_and_visibly(encoder: Encoder, lengths: list[int]) -> None:
    candidates = [" a" * length for length in lengths]
    found = embed_list(encoder, QUERY, candidates, prompt=E2RANK_CHAT)
    shown, total = found.shown_tokens, found.total_tokens
    limit = max(shown)
    assert all(seen == min(whole, limit) for seen, whole in zip(shown, total, strict=True))
    if shown != total:  # not one token more could be shown to all that are cut, but for borders between texts
        cut = sum(seen < whole for seen, whole in zip(shown, total, strict=True))
        assert sum(shown) + cut * 4 + 60 > encoder.max_tokens - 120


def test_a_context_without_room_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ContextOverflowError, match="leave room for 0 tokens of 1 candidates"):
        embed_list(encoder, "a " * 2 * encoder.max_tokens, ["a"], prompt=E2RANK_CHAT)


@pytest.mark.parametrize("query", [""])
def test_an_empty_query_is_refused(encoder: Encoder, query: str) -> None:
    with pytest.raises(EmptyTextError, match="holds no token; ask something"):
        embed_list(encoder, query, CANDIDATES, prompt=E2RANK_CHAT)
