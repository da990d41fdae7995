"""Hybrid and lexical search and late interaction, on every engine, against sums that anybody can check."""

from __future__ import annotations

import math
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from qdrant_client import QdrantClient

from rag_embed.errors import InputError, MissingVectorError, StoreError, UnsupportedQueryError
from rag_embed.fusion import fuse
from rag_embed.llamaindex.context import stamp_node
from rag_embed.max_sim import TokenForm, to_units
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.stage_scores import DENSE_SCORE, LEXICAL_SCORE, TOKEN_SCORE
from rag_embed.stamp import ChunkStamp
from tests.qdrant_cases import where
from tests.qdrant_standin import serve

DIM = 6
WORDS = ["harbour", "ferry", "zoo", "kiel", "dock", "rates", "crane", "port", "ship", "tide"]
PLAIN = LexicalForm(language=None)
ENGINES = ["memory", "folder", "wire"]


@contextmanager
def open_store(engine: str, **options: object) -> Iterator[QdrantChunkStore]:
    if engine == "wire":
        with serve() as server:
            store = QdrantChunkStore("docs", url=server.url, **options)
            yield store
            store.close()
    elif engine == "folder":
        with tempfile.TemporaryDirectory() as folder:
            store = QdrantChunkStore("docs", path=folder, **options)
            yield store
            store.close()
    else:
        client = QdrantClient(location=":memory:")
        yield QdrantChunkStore("docs", client=client, **options)
        client.close()


def make_collection(seed: int, count: int = 40) -> list[TextNode]:
    """Chunks of random words with random vectors and token vectors."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    nodes = []
    for number in range(count):
        node = TextNode(
            id_=f"n{number}",
            text=" ".join(draw.choices(WORDS, k=draw.randint(1, 9))),
            metadata={"group": number % 3},
            excluded_embed_metadata_keys=["group"],
            embedding=rng.normal(size=DIM).tolist(),
        )
        states = torch.from_numpy(rng.normal(size=(draw.randint(1, 7), DIM)))
        tokens = TokenForm("float16", 1).keep(states).numpy()
        stamp_node(node, ChunkStamp(f"{number:032x}", 0, len(node.text), fingerprint="f"), tokens=tokens)
        nodes.append(node)
    return nodes


def slow_cosine(a: object, b: object) -> float:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def slow_bm25(query: str, nodes: list[TextNode]) -> list[float]:
    """The formula with every count taken anew."""
    texts = [re.findall(r"\w+", node.text) for node in nodes]
    scores = []
    for text in texts:
        score = 0.0
        for word in set(query.split()):
            holders = sum(word in other for other in texts)
            count = text.count(word)
            if count:
                idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
                score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(text) / 256))
        scores.append(score)
    return scores


def slow_max_sim(query: np.ndarray, tokens: np.ndarray) -> float:
    return sum(max(slow_cosine(asked, token) for token in tokens) for asked in query) / len(query)


def tokens_by_hand(node: TextNode) -> np.ndarray:
    return to_units(node.source_node.metadata["rag_embed"].tokens)


def slow_hybrid(vector: list[float], query: str, nodes: list[TextNode], found: int) -> dict[str, float]:
    """Candidates of both legs, scored by both, mixed half and half."""
    dense = [slow_cosine(vector, node.embedding) for node in nodes]
    words = slow_bm25(query, nodes)
    by_vector = sorted(range(len(nodes)), key=lambda i: -dense[i])[:found]
    by_words = [i for i in sorted(range(len(nodes)), key=lambda i: -words[i])[:found] if words[i] > 0]
    union = sorted({*by_vector, *by_words})
    fused = fuse(np.array([dense[i] for i in union]), np.array([words[i] for i in union]), weight=0.5)
    return {nodes[i].node_id: float(score) for i, score in zip(union, fused, strict=True)}


def ask(vector: list[float], query: str | None, mode: str = "hybrid", **options: object) -> VectorStoreQuery:
    options = {"similarity_top_k": 10, **options}
    return VectorStoreQuery(
        query_embedding=vector, query_str=query, mode=VectorStoreQueryMode(mode), **options
    )


def scores_of(result: VectorStoreQueryResult) -> dict[str, float]:
    return dict(zip(result.ids, result.similarities, strict=True))


def assert_same_ranking(found: dict[str, float], expected: dict[str, float], top_k: int) -> None:
    """The same scores, and the best of them; ties may fall either way."""
    best = sorted(expected.values(), reverse=True)[:top_k]
    assert len(found) == min(top_k, len(expected))
    assert sorted(found.values(), reverse=True) == pytest.approx(best, abs=1e-4)
    assert found == pytest.approx({id_: expected[id_] for id_ in found}, abs=1e-4)


def check_collection(engine: str, seed: int) -> None:
    nodes = make_collection(seed)
    rng, draw = np.random.default_rng(seed + 1), random.Random(seed + 1)
    query, vector = " ".join(draw.sample(WORDS, 3)), rng.normal(size=DIM).tolist()
    tokens = to_units(rng.normal(size=(3, DIM)))
    with open_store(engine, lexical=PLAIN, tokens="float16") as store:
        store.add(nodes)
        expected = slow_hybrid(vector, query, nodes, 50)
        assert_same_ranking(scores_of(store.query(ask(vector, query))), expected, 10)
        words = dict(zip([n.node_id for n in nodes], slow_bm25(query, nodes), strict=True))
        sparse = scores_of(store.query(ask(vector, query, "sparse", similarity_top_k=40)))
        assert sparse == pytest.approx({i: s for i, s in words.items() if s > 0}, abs=1e-4)
        wanted = [node.node_id for node in nodes[:20]]
        by_tokens = {n.node_id: slow_max_sim(tokens, tokens_by_hand(n)) for n in nodes[:20]}
        assert store.score_tokens(wanted, tokens) == pytest.approx(by_tokens, abs=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_hybrid_words_and_tokens_rank_as_sums_by_hand(engine: str, seed: int) -> None:
    check_collection(engine, seed)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_thousand_random_collections_rank_as_sums_by_hand(engine: str) -> None:
    for seed in range(1_000):
        check_collection(engine, seed)


@pytest.mark.parametrize("engine", ENGINES)
def test_candidates_that_one_leg_alone_finds_are_scored_by_both(engine: str) -> None:
    nodes = make_collection(7, count=150)
    for number, node in enumerate(nodes):
        node.text += " filler" * number  # no two chunks of one length, so none of one score
    vector, query = nodes[0].embedding, "harbour ferry"
    with open_store(engine, lexical=PLAIN) as store:
        store.add(nodes)
        found = store.query(ask(vector, query, similarity_top_k=60))
        expected = slow_hybrid(vector, query, nodes, 60)
        assert_same_ranking(scores_of(found), expected, 60)
        words = dict(zip([n.node_id for n in nodes], slow_bm25(query, nodes), strict=True))
        for node in found.nodes:
            own = next(n for n in nodes if n.node_id == node.node_id)
            assert node.metadata[DENSE_SCORE] == pytest.approx(slow_cosine(vector, own.embedding), abs=1e-4)
            assert node.metadata[LEXICAL_SCORE] == pytest.approx(words[node.node_id], abs=1e-4)
            assert "score" not in node.get_content(metadata_mode="llm")


def test_one_request_answers_a_hybrid_query_with_late_interaction() -> None:
    nodes = make_collection(3)
    with serve() as server:
        store = QdrantChunkStore("docs", url=server.url, lexical=PLAIN, tokens="float16")
        store.add(nodes)
        store.count()
        before = len(server.requests)
        tokens = to_units(np.random.default_rng(0).normal(size=(4, DIM)))
        found = store.query(
            ask(nodes[0].embedding, "harbour ferry"), query_tokens=tokens.tolist(), token_weight=0.25
        )
        assert [request.split("?")[0] for request in server.requests[before:]] == [
            "POST /collections/docs/points/query/batch"
        ]
        store.close()
    first = slow_hybrid(nodes[0].embedding, "harbour ferry", nodes, 50)
    ids = sorted(first, key=[n.node_id for n in nodes].index)
    moved = np.array([slow_max_sim(tokens, tokens_by_hand(nodes[int(id_[1:])])) for id_ in ids])
    fused = fuse(np.array([first[id_] for id_ in ids]), moved, weight=0.25)
    expected = dict(zip(ids, fused.tolist(), strict=True))
    found_scores = scores_of(found)
    assert found_scores == pytest.approx({id_: expected[id_] for id_ in found_scores}, abs=5e-3)
    assert all(TOKEN_SCORE in node.metadata for node in found.nodes)


@pytest.mark.parametrize("engine", ENGINES)
def test_alpha_is_the_share_of_the_vectors(engine: str) -> None:
    nodes = make_collection(5)
    with open_store(engine, lexical=PLAIN) as store:
        store.add(nodes)
        vector, query = nodes[4].embedding, "zoo crane"
        dense = store.query(ask(vector, None, "default")).ids
        assert store.query(ask(vector, query, alpha=1.0)).ids == dense
        words = slow_bm25(query, nodes)
        best = max(range(len(nodes)), key=lambda i: words[i])
        assert words[int(store.query(ask(vector, query, alpha=0.0)).ids[0][1:])] == pytest.approx(words[best])
        with pytest.raises(InputError, match="share from 0 to 1"):
            store.query(ask(vector, query, alpha=1.5))


@pytest.mark.parametrize("engine", ENGINES)
def test_filters_hold_for_both_legs(engine: str) -> None:
    nodes = make_collection(6)
    with open_store(engine, lexical=PLAIN) as store:
        store.add(nodes)
        some: MetadataFilters = where("group", 1)
        for mode in ("hybrid", "sparse"):
            found = store.query(
                ask(nodes[0].embedding, "harbour zoo", mode, filters=some, similarity_top_k=40)
            )
            assert found.ids
            assert {node.metadata["group"] for node in found.nodes} == {1}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fusion", ["rrf", "dbsf"])
def test_other_fusions_are_there_by_name(engine: str, fusion: str) -> None:
    nodes = make_collection(8)
    with open_store(engine, lexical=PLAIN) as store:
        store.add(nodes)
        vector, query = nodes[0].embedding, "harbour zoo"
        dense = np.array([slow_cosine(vector, node.embedding) for node in nodes])
        expected = fuse(dense, np.array(slow_bm25(query, nodes)), weight=0.5, method=fusion)
        found = scores_of(store.query(ask(vector, query), fusion=fusion))
        assert found == pytest.approx({id_: expected[int(id_[1:])] for id_ in found}, abs=1e-4)
        with pytest.raises(InputError, match="expected one of scores, dbsf, rrf"):
            store.query(ask(vector, query), fusion="sum")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_question_of_stop_words_is_answered_by_vectors_and_finds_no_words(engine: str) -> None:
    nodes = make_collection(9)
    with open_store(engine, lexical=True) as store:
        store.add(nodes)
        dense = store.query(ask(nodes[0].embedding, None, "default")).ids
        assert store.query(ask(nodes[0].embedding, "what is the")).ids == dense
        assert store.query(ask(nodes[0].embedding, "what is the", "sparse")).ids == []


@pytest.mark.parametrize("engine", ENGINES)
def test_what_chunks_say_of_their_document_counts_among_their_words(engine: str) -> None:
    nodes = make_collection(10)
    for node in nodes:
        node.metadata["title"] = "Lighthouse" if node.node_id in {"n3", "n8"} else "Quay"
    with open_store(engine, lexical=True) as store:
        store.add(nodes)
        assert set(store.query(ask(nodes[0].embedding, "lighthouses", "text_search")).ids) == {"n3", "n8"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chunk_that_is_written_again_keeps_words_and_tokens(engine: str) -> None:
    nodes = make_collection(11)
    tokens = to_units(np.random.default_rng(1).normal(size=(2, DIM)))
    ids = [node.node_id for node in nodes]
    with open_store(engine, lexical=PLAIN, tokens=True) as store:
        store.add(nodes)
        before = store.score_tokens(ids, tokens)
        assert len(before) == len(nodes)
        hybrid = scores_of(store.query(ask(nodes[0].embedding, "harbour")))
        store.add(store.get_nodes())
        found = store.query(ask(nodes[0].embedding, "harbour"))
        store.add([node.model_copy(update={"embedding": nodes[0].embedding}) for node in found.nodes[:1]])
        assert store.score_tokens(ids, tokens) == pytest.approx(before, abs=1e-6)
        assert scores_of(found) == pytest.approx(hybrid, abs=1e-5)
        assert not any(DENSE_SCORE in node.metadata for node in store.get_nodes())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chunk_without_tokens_is_refused_before_anything_is_written(engine: str) -> None:
    nodes = make_collection(12)
    bare = TextNode(id_="bare", text="bare", embedding=[1.0] * DIM)
    stamp_node(bare, ChunkStamp("b" * 32, 0, 4, fingerprint="f"))
    with open_store(engine, tokens=True) as store:
        with pytest.raises(MissingVectorError, match=r"1 of 41 nodes .* come without token vectors"):
            store.add([*nodes, bare])
        assert store.count() == 0
        store.add(nodes)
        moved = make_collection(12)[:1]
        stamp_node(moved[0], ChunkStamp("c" * 32, 5, 9, fingerprint="f"))  # another place, no tokens
        with pytest.raises(MissingVectorError, match="come without token vectors"):
            store.add(moved)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_existing_collection_says_what_it_keeps(engine: str) -> None:
    nodes = make_collection(13)
    with open_store(engine) as store:
        store.add(nodes)
        with pytest.raises(UnsupportedQueryError, match=r"HYBRID needs the words .*lexical=True"):
            store.query(ask(nodes[0].embedding, "zoo"))
        with pytest.raises(UnsupportedQueryError, match=r"keeps no token vectors.*tokens=True"):
            store.query(ask(nodes[0].embedding, None, "default"), query_tokens=[[1.0] * DIM])
        assert store.score_tokens(["n1"], np.ones((1, DIM), np.float32)) == {}


def test_a_folder_remembers_its_legs_and_refuses_others(tmp_path: Path) -> None:
    nodes = make_collection(14)
    with QdrantChunkStore("docs", path=tmp_path, lexical="german", tokens="int8") as store:
        store.add(nodes)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.query(ask(nodes[0].embedding, "harbour")).ids
        assert len(store.score_tokens(["n1", "n2"], np.ones((1, DIM), np.float32))) == 2
    with pytest.raises(StoreError, match=r"keeps lexical=.*german.* opened for lexical=.*english"):
        QdrantChunkStore("docs", path=tmp_path, lexical=True)


def test_a_missing_question_is_said(tmp_path: Path) -> None:
    nodes = make_collection(15)
    with QdrantChunkStore("docs", path=tmp_path, lexical=True) as store:
        store.add(nodes)
        for mode in ("hybrid", "sparse"):
            with pytest.raises(InputError, match="expected the question"):
                store.query(ask(nodes[0].embedding, " ", mode))


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_sparse_top_k_bounds_what_words_find(seed: int) -> None:
    nodes = make_collection(seed)
    with open_store("memory", lexical=PLAIN) as store:
        store.add(nodes)
        found = store.query(
            ask(nodes[0].embedding, "harbour", similarity_top_k=3, sparse_top_k=2, hybrid_top_k=5)
        )
        assert len(found.ids) == 5
