"""ListwiseRerank: at most one forward per query, results by id, candidates untouched."""

from __future__ import annotations

import asyncio
import copy
import pickle
import pydoc_data.topics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import PrivateAttr
from qdrant_client import AsyncQdrantClient, QdrantClient

from rag_embed.errors import (
    DimensionMismatchError,
    EmptyTextError,
    FingerprintMismatchError,
    InputError,
    MissingVectorError,
    NonFiniteError,
    UnsupportedModelError,
)
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.stage_scores import LEXICAL_SCORE, TOKEN_SCORE, TOKENS_FROM
from tests import reference
from tests.checkpoints_families import write_family

TOPICS = pydoc_data.topics.topics
QUERY = "what does a list display make"
METHODS = ["late_interaction", "listwise"]


@pytest.fixture(scope="session")
def e2rank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("rerank"), "e2rank")


@pytest.fixture
def model(tiny_folder: Path) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32")


@pytest.fixture
def e2rank(e2rank_folder: Path) -> ContextualEmbedding:
    """A model that was trained for a list prompt."""
    return ContextualEmbedding(model=str(e2rank_folder), device="cpu", dtype="float32", strategy="isolated")


@pytest.fixture(params=METHODS)
def any_model(
    request: pytest.FixtureRequest, model: ContextualEmbedding, e2rank: ContextualEmbedding
) -> ContextualEmbedding:
    """A model for each method, which it takes by itself."""
    return e2rank if request.param == "listwise" else model


def parser_of(model: ContextualEmbedding) -> LateChunkingNodeParser:
    return LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0), embed_model=model
    )


def read() -> list[Document]:
    return [Document(text=TOPICS[name], id_=name) for name in ("lists", "assert", "lambda")]


def candidates_of(model: ContextualEmbedding) -> list[NodeWithScore]:
    """Every chunk with its vector, scored by cosine, best first."""
    query = np.array(model.get_query_embedding(QUERY))
    nodes = parser_of(model)(read())
    scored = [NodeWithScore(node=node, score=float(query @ node.embedding)) for node in nodes]
    return sorted(scored, key=lambda hit: -hit.score)


def bundle_of(model: ContextualEmbedding) -> QueryBundle:
    return QueryBundle(QUERY, embedding=model.get_query_embedding(QUERY))


def ids(hits: Sequence[NodeWithScore]) -> list[str]:
    return [hit.node.node_id for hit in hits]


def results(hits: Sequence[NodeWithScore]) -> list[tuple]:
    return [(hit.node.node_id, hit.score, hit.node.metadata) for hit in hits]


# --- how it scores --------------------------------------------------------------------------------


def test_the_method_follows_from_what_the_model_was_trained_for(
    model: ContextualEmbedding, e2rank: ContextualEmbedding
) -> None:
    assert ListwiseRerank(embed_model=model).chosen_method == "late_interaction"
    assert ListwiseRerank(embed_model=e2rank).chosen_method == "listwise"
    with pytest.raises(UnsupportedModelError, match="trained for no list prompt; use method='late_interact"):
        ListwiseRerank(embed_model=model, method="listwise").postprocess_nodes(
            candidates_of(model), query_str=QUERY
        )
    with pytest.raises(UnsupportedModelError, match="cannot be used for late interaction"):
        ListwiseRerank(embed_model=e2rank, method="late_interaction").postprocess_nodes(
            candidates_of(e2rank), query_str=QUERY
        )


def test_a_list_prompt_is_one_forward_pass(e2rank: ContextualEmbedding) -> None:
    candidates = candidates_of(e2rank)
    reranker = ListwiseRerank(embed_model=e2rank, top_n=3)
    before = e2rank.encoder.forward_count
    for _ in range(5):
        assert len(reranker.postprocess_nodes(candidates, query_bundle=bundle_of(e2rank))) == 3
    assert e2rank.encoder.forward_count - before == 10  # the bundle's query vector is the other one


def fused(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    rescaled = (second - second.mean()) / second.std() * first.std() + first.mean()
    return (1 - weight) * first + weight * rescaled


def slow_max_sims(loaded: tuple, query: str, candidates: list[NodeWithScore]) -> np.ndarray:
    """Stock states of query and windows, neighbours pooled in fours, compared pair by pair."""
    network, tokenizer = loaded
    asked = reference.query_vectors(network, tokenizer, query)
    scores = []
    for hit in candidates:
        span = (hit.node.start_char_idx, hit.node.end_char_idx)
        (states,) = reference.chunk_states(network, tokenizer, TOPICS[hit.node.ref_doc_id], [span], 64, 31)
        scores.append(reference.max_sim(asked, reference.token_vectors(states, 4)))
    return np.array(scores)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_late_interaction_is_max_sim_of_states_read_in_the_document(
    model: ContextualEmbedding, tiny_reference: tuple, weight: float
) -> None:
    candidates = candidates_of(model)
    wanted = slow_max_sims(tiny_reference, QUERY, candidates)
    first = np.array([hit.score for hit in candidates])
    reranker = ListwiseRerank(embed_model=model, weight=weight, top_n=100)
    hits = reranker.postprocess_nodes(candidates, query_str=QUERY)
    by_id = dict(zip(ids(candidates), zip(wanted, fused(first, wanted, weight), strict=True), strict=True))
    for hit in hits:
        assert hit.node.metadata[TOKEN_SCORE] == pytest.approx(by_id[hit.node.node_id][0], abs=2e-3)
        assert hit.node.metadata[TOKENS_FROM] == "read in its document"
        assert hit.score == pytest.approx(by_id[hit.node.node_id][1], abs=5e-2)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    if weight == 0:
        assert ids(hits) == ids(candidates)


def test_the_weight_is_small_where_words_were_looked_at(model: ContextualEmbedding) -> None:
    candidates = candidates_of(model)
    default = ListwiseRerank(embed_model=model, top_n=100)
    half = ListwiseRerank(embed_model=model, top_n=100, weight=0.5)
    quarter = ListwiseRerank(embed_model=model, top_n=100, weight=0.25)

    def scores(reranker: ListwiseRerank) -> list[float]:
        return [hit.score for hit in reranker.postprocess_nodes(candidates, query_str=QUERY)]

    assert scores(default) == scores(half) != scores(quarter)
    for hit in candidates:
        hit.node.metadata = {**hit.node.metadata, LEXICAL_SCORE: 1.0}
    assert scores(default) == scores(quarter)


def test_a_candidate_whose_document_is_not_there_is_read_alone(model: ContextualEmbedding) -> None:
    candidates = candidates_of(model)
    one = [hit for hit in candidates if hit.node.ref_doc_id == "lists"][:1]
    (alone,) = ListwiseRerank(embed_model=model).postprocess_nodes(one, query_str=QUERY)
    places = {
        hit.node.metadata[TOKENS_FROM]
        for hit in ListwiseRerank(embed_model=model).postprocess_nodes(candidates, query_str=QUERY)
    }
    assert places == {"read in its document"}
    expected = (
        "read alone" if len([h for h in candidates if h.node.ref_doc_id == "lists"]) > 1 else places.pop()
    )
    assert alone.node.metadata[TOKENS_FROM] == expected


def test_only_the_windows_around_the_candidates_are_read(model: ContextualEmbedding) -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        retriever = index_in(store, model).as_retriever(similarity_top_k=100)
        found = [hit for hit in retriever.retrieve(QUERY) if hit.node.ref_doc_id == "lists"]
        reranker = ListwiseRerank(embed_model=model, vector_store=store)

        def count_tokens(candidates: list[NodeWithScore]) -> int:
            before = model.encoder.token_count
            hits = reranker.postprocess_nodes(candidates, query_str=QUERY)
            assert {hit.node.metadata[TOKENS_FROM] for hit in hits} == {"read in its document"}
            return model.encoder.token_count - before

        assert len(found) > 1
        assert count_tokens(found[:1]) < count_tokens(found)


def test_shown_tokens_are_visible(e2rank: ContextualEmbedding, model: ContextualEmbedding) -> None:
    candidates = candidates_of(e2rank)
    assert len(candidates) > 5
    reranker = ListwiseRerank(embed_model=e2rank, prompt_candidates=4, top_n=100)
    hits = reranker.postprocess_nodes(candidates, query_str=QUERY)
    shown = {hit.node.node_id: hit.node.metadata.get("rerank_shown_tokens") for hit in hits}
    assert [shown[i] is not None for i in ids(candidates)] == [True] * 4 + [False] * (len(candidates) - 4)
    counts = [tuple(map(int, shown[i].split("/"))) for i in ids(candidates[:4])]
    assert [total for _, total in counts] == [
        len(e2rank.encoder.tokenize(hit.node.text)) for hit in candidates[:4]
    ]
    assert all(0 < seen <= total for seen, total in counts)
    others = ListwiseRerank(embed_model=model).postprocess_nodes(candidates_of(model), query_str=QUERY)
    assert all("rerank_shown_tokens" not in hit.node.metadata for hit in others)


def test_a_question_that_fills_the_context_keeps_the_first_order_and_says_so(
    any_model: ContextualEmbedding, caplog: pytest.LogCaptureFixture
) -> None:
    reranker = ListwiseRerank(embed_model=any_model, top_n=3)
    candidates = candidates_of(any_model)
    hits = reranker.postprocess_nodes(candidates, query_str="river " * any_model.profile.max_tokens)
    assert ids(hits) == ids(candidates[:3])
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in candidates[:3]])
    reason = hits[0].node.metadata["rerank_skipped"]
    assert "tokens" in reason
    assert all(hit.node.metadata["rerank_skipped"] == reason for hit in hits)
    assert all(reason not in hit.node.get_content(metadata_mode=MetadataMode.LLM) for hit in hits)
    (record,) = [r for r in caplog.records if "order is kept" in r.getMessage()]
    assert reason in record.getMessage()
    assert "rerank_skipped" not in reranker.postprocess_nodes(candidates, query_str=QUERY)[0].node.metadata


# --- what it does to the candidates ---------------------------------------------------------------


def test_candidates_are_not_touched(any_model: ContextualEmbedding) -> None:
    candidates = candidates_of(any_model)
    before = copy.deepcopy(candidates)
    hits = ListwiseRerank(embed_model=any_model, top_n=3).postprocess_nodes(candidates, query_str=QUERY)
    assert [hit.to_dict() for hit in candidates] == [hit.to_dict() for hit in before]
    assert [hit.node.embedding for hit in candidates] == [hit.node.embedding for hit in before]
    own = {hit.node.node_id: hit for hit in candidates}
    for hit in hits:
        old = own[hit.node.node_id]
        assert hit is not old and hit.node is not old.node
        assert hit.node.metadata["retrieval_score"] == old.score
        assert hit.node.text == old.node.text
        assert hit.node.get_content(metadata_mode=MetadataMode.LLM) == old.node.get_content(
            metadata_mode=MetadataMode.LLM
        )
        assert hit.node.get_content(metadata_mode=MetadataMode.EMBED) == old.node.get_content(
            metadata_mode=MetadataMode.EMBED
        )


def test_equal_texts_stay_two_candidates(any_model: ContextualEmbedding) -> None:
    candidates = candidates_of(any_model)
    twin = NodeWithScore(
        node=candidates[0].node.model_copy(update={"id_": "twin"}), score=candidates[0].score
    )
    hits = ListwiseRerank(embed_model=any_model, top_n=99).postprocess_nodes(
        [*candidates, twin], query_str=QUERY
    )
    assert sorted(ids(hits)) == sorted([*ids(candidates), "twin"])
    score = {hit.node.node_id: hit.score for hit in hits}
    assert score["twin"] == pytest.approx(score[candidates[0].node.node_id], abs=1e-9)
    assert score["twin"] != score[candidates[1].node.node_id]


def test_ties_keep_their_order(any_model: ContextualEmbedding) -> None:
    vector = candidates_of(any_model)[0].node.embedding
    other = candidates_of(any_model)[1].node.embedding
    tied = [
        NodeWithScore(node=TextNode(id_=f"n{i}", text="a text", embedding=vector), score=0.5)
        for i in range(9)
    ]
    far = NodeWithScore(node=TextNode(id_="far", text="other", embedding=other), score=0.4)
    hits = ListwiseRerank(embed_model=any_model, top_n=20).postprocess_nodes([far, *tied], query_str=QUERY)
    assert [i for i in ids(hits) if i != "far"] == [f"n{i}" for i in range(9)]
    alone = ListwiseRerank(embed_model=any_model, top_n=20).postprocess_nodes(tied, query_str=QUERY)
    assert ids(alone) == ids(tied)
    assert [hit.score for hit in alone] == [0.5] * 9


@pytest.mark.parametrize("missing", [slice(None), slice(1, 3)], ids=["all", "some"])
def test_nodes_without_scores_are_ordered_by_the_new_one_alone(
    any_model: ContextualEmbedding, missing: slice
) -> None:
    candidates = candidates_of(any_model)
    scored = ListwiseRerank(embed_model=any_model, weight=1).postprocess_nodes(candidates, query_str=QUERY)
    for hit in candidates[missing]:
        hit.score = None
    hits = ListwiseRerank(embed_model=any_model, weight=0).postprocess_nodes(candidates, query_str=QUERY)
    kept = {hit.node.node_id: hit.score for hit in candidates}
    assert all(hit.node.metadata["retrieval_score"] == kept[hit.node.node_id] for hit in hits)
    if not any_model.profile.has_list_prompt:  # a list prompt shows the candidates in their order
        assert ids(hits) == ids(scored)


def test_how_many_come_back(any_model: ContextualEmbedding) -> None:
    candidates = candidates_of(any_model)

    def rerank(nodes: list[NodeWithScore], top_n: int) -> list[NodeWithScore]:
        return ListwiseRerank(embed_model=any_model, top_n=top_n).postprocess_nodes(nodes, query_str=QUERY)

    before = any_model.encoder.forward_count
    assert rerank([], 3) == []
    assert any_model.encoder.forward_count == before
    assert len(rerank(candidates, 10_000)) == len(candidates)
    assert results(rerank(candidates, 2)) == results(rerank(candidates, 10_000))[:2]
    assert results(rerank(candidates[::-1], 10_000)) == results(rerank(candidates, 10_000))
    (only,) = rerank(candidates[:1], 3)
    assert only.node.node_id == candidates[0].node.node_id
    assert only.score == pytest.approx(candidates[0].score, abs=1e-6)


async def test_async_equals_sync(any_model: ContextualEmbedding) -> None:
    candidates = candidates_of(any_model)
    reranker = ListwiseRerank(embed_model=any_model, top_n=4)
    sync = reranker.postprocess_nodes(candidates, query_str=QUERY)
    assert results(await reranker.apostprocess_nodes(candidates, query_str=QUERY)) == results(sync)
    many = await asyncio.gather(
        *(reranker.apostprocess_nodes(candidates, query_bundle=bundle_of(any_model)) for _ in range(4))
    )
    assert all(ids(hits) == ids(sync) for hits in many)


def test_no_query_is_refused(model: ContextualEmbedding) -> None:
    with pytest.raises(InputError, match="no query to rerank by; pass query_bundle or query_str"):
        ListwiseRerank(embed_model=model).postprocess_nodes(candidates_of(model))


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(model: ContextualEmbedding, query: str) -> None:
    with pytest.raises(EmptyTextError, match=r"the query is '.*'; expected a question"):
        ListwiseRerank(embed_model=model).postprocess_nodes(candidates_of(model), query_str=query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "cross-encoder/x"}, r"embed_model=ContextualEmbedding\(model=\.\.\.\)"),
        ({"llm": MockLLM()}, r"no LLM is asked"),
        ({"top_k": 3}, r"top_k=3; top_n= is how many come out"),
        ({"top": 3}, r"no argument 'top'; did you mean 'top_n'\?"),
    ],
)
def test_arguments_without_effect_are_refused(
    model: ContextualEmbedding, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ListwiseRerank(embed_model=model, **options)
    assert ListwiseRerank(embed_model=model, keep_retrieval_score=True, llm=None).top_n == 10


# --- where the vectors come from ------------------------------------------------------------------


class CountingChunkStore(QdrantChunkStore):
    """A real store that counts how often it is asked."""

    _asked: list[list[str]] = PrivateAttr(default_factory=list)

    def get_nodes(self, node_ids: list[str] | None = None, filters: Any = None) -> list[BaseNode]:
        self._asked.append(list(node_ids or []))
        return super().get_nodes(node_ids, filters)


class CountingStockStore(QdrantVectorStore):
    """LlamaIndex's own store, counted likewise."""

    _asked: list[list[str]] = PrivateAttr(default_factory=list)

    def get_nodes(self, node_ids: list[str] | None = None, **options: Any) -> list[BaseNode]:
        self._asked.append(list(node_ids or []))
        return super().get_nodes(node_ids, **options)


@pytest.fixture(params=["ours", "stock"])
def store(request: pytest.FixtureRequest) -> Iterator[CountingChunkStore | CountingStockStore]:
    client = QdrantClient(location=":memory:")
    if request.param == "ours":
        yield CountingChunkStore("docs", client=client)
    else:
        yield CountingStockStore("docs", client=client)
    client.close()


def index_in(store: Any, model: ContextualEmbedding) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        read(),
        transformations=[parser_of(model)],
        embed_model=model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_missing_vectors_are_fetched_in_one_call(store: Any, e2rank: ContextualEmbedding) -> None:
    index = index_in(store, e2rank)
    bundle = QueryBundle(QUERY)
    found = index.as_retriever(similarity_top_k=6).retrieve(bundle)
    assert all(hit.node.embedding is None for hit in found)
    with pytest.raises(
        MissingVectorError, match=r"6 of 6 candidates come without a vector.*vector_store=\.\.\."
    ):
        ListwiseRerank(embed_model=e2rank).postprocess_nodes(found, query_bundle=bundle)
    reranker = ListwiseRerank(embed_model=e2rank, vector_store=store, top_n=4)
    store._asked.clear()
    hits = reranker.postprocess_nodes(found, query_bundle=bundle)
    assert [sorted(asked) for asked in store._asked] == [sorted(ids(found))]
    known = {hit.node.node_id: hit.node.embedding for hit in candidates_of(e2rank)}
    for hit in found:
        hit.node.embedding = known[hit.node.node_id]
    wanted = ListwiseRerank(embed_model=e2rank, top_n=4).postprocess_nodes(found, query_bundle=bundle)
    assert ids(hits) == ids(wanted)
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in wanted], atol=1e-5)
    store._asked.clear()
    found[2].node.embedding = None
    reranker.postprocess_nodes(found, query_bundle=bundle)
    assert store._asked == [[found[2].node.node_id]]


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_node_that_the_store_does_not_have(store: Any, e2rank: ContextualEmbedding) -> None:
    index_in(store, e2rank)
    stray = NodeWithScore(node=TextNode(id_="00000000-0000-4000-8000-000000000000", text="stray"), score=1.0)
    with pytest.raises(
        MissingVectorError, match=r"1 of 1 .*the vector store has none for them: index them again"
    ):
        ListwiseRerank(embed_model=e2rank, vector_store=store).postprocess_nodes([stray], query_str=QUERY)


async def test_a_store_with_an_async_client_alone_is_asked_asynchronously(model: ContextualEmbedding) -> None:
    aclient = AsyncQdrantClient(location=":memory:")
    store = QdrantChunkStore("docs", aclient=aclient)
    nodes = parser_of(model)(read())
    await store.async_add(nodes)
    found = [NodeWithScore(node=n.model_copy(update={"embedding": None}), score=0.5) for n in nodes[:5]]
    reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=4)
    hits = await reranker.apostprocess_nodes(found, query_str=QUERY)
    with QdrantChunkStore("docs", location=":memory:") as other:
        other.add(nodes)
        sync = ListwiseRerank(embed_model=model, vector_store=other, top_n=4)
        wanted = sync.postprocess_nodes(found, query_str=QUERY)
    assert hits[0].node.metadata[TOKENS_FROM] == "read in its document"
    assert ids(hits) == ids(wanted)
    with pytest.raises(InputError, match="Pass client=, or use the async method"):
        reranker.postprocess_nodes(found, query_str=QUERY)
    await aclient.close()


def test_parents_that_take_their_chunks_place_have_advice_of_their_own(e2rank: ContextualEmbedding) -> None:
    inner = HierarchicalNodeParser.from_defaults(chunk_sizes=[160, 40], chunk_overlap=0)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=e2rank)(read())
    docstore = SimpleDocumentStore()
    docstore.add_documents([node.model_copy(update={"embedding": None}) for node in nodes])
    store = QdrantChunkStore("docs", location=":memory:")
    context = StorageContext.from_defaults(docstore=docstore, vector_store=store)
    leaves = get_leaf_nodes(nodes)
    index = VectorStoreIndex(leaves, storage_context=context, embed_model=e2rank)
    merged = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), context).retrieve(QUERY)
    reranker = ListwiseRerank(embed_model=e2rank, vector_store=store, top_n=3)
    with pytest.raises(
        MissingVectorError, match=r"parent that AutoMergingRetriever put .*before merging, or"
    ):
        reranker.postprocess_nodes(merged, query_str=QUERY)
    # What the message advises:
    leaf_hits = index.as_retriever(similarity_top_k=5).retrieve(QUERY)
    assert len(reranker.postprocess_nodes(leaf_hits, query_str=QUERY)) == 3
    store.add(nodes)
    assert len(reranker.postprocess_nodes(merged, query_str=QUERY)) == 3


def test_a_vector_made_without_its_document_is_refused(model: ContextualEmbedding) -> None:
    """VectorStoreIndex(nodes) hands the chunks to the model as strings."""
    nodes = LateChunkingNodeParser(chunk_size=60, chunk_overlap=0)(read())
    found = VectorStoreIndex(nodes, embed_model=model).as_retriever().retrieve(QUERY)
    for hit in found:
        hit.node.embedding = model.get_text_embedding(hit.node.text)
    with pytest.raises(FingerprintMismatchError, match=r"made without it\. Index it again"):
        ListwiseRerank(embed_model=model).postprocess_nodes(found, query_str=QUERY)


def test_a_store_that_returns_vectors_is_not_asked_again(e2rank: ContextualEmbedding) -> None:
    client = QdrantClient(location=":memory:")
    store = CountingChunkStore("docs", client=client, return_vectors=True)
    found = index_in(store, e2rank).as_retriever(similarity_top_k=5).retrieve(QUERY)
    store._asked.clear()
    assert len(ListwiseRerank(embed_model=e2rank).postprocess_nodes(found, query_str=QUERY)) == 5
    assert store._asked == []
    client.close()


def test_the_in_memory_store_of_llama_index(e2rank: ContextualEmbedding) -> None:
    """It keeps vectors and no nodes, so get_nodes cannot be asked."""
    store = SimpleVectorStore()
    found = index_in(store, e2rank).as_retriever(similarity_top_k=5).retrieve(QUERY)
    for hit in found:
        hit.node.embedding = None
    hits = ListwiseRerank(embed_model=e2rank, vector_store=store).postprocess_nodes(found, query_str=QUERY)
    known = {hit.node.node_id: hit.node.embedding for hit in candidates_of(e2rank)}
    for hit in found:
        hit.node.embedding = known[hit.node.node_id]
    wanted = ListwiseRerank(embed_model=e2rank).postprocess_nodes(found, query_str=QUERY)
    assert results(hits) == results(wanted)
    stray = NodeWithScore(node=TextNode(text="stray"), score=1.0)
    with pytest.raises(MissingVectorError, match="index them again"):
        ListwiseRerank(embed_model=e2rank, vector_store=store).postprocess_nodes([stray], query_str=QUERY)


def test_a_foreign_fingerprint_is_refused(tiny_folder: Path, model: ContextualEmbedding) -> None:
    other = ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32", strategy="late")
    with pytest.raises(FingerprintMismatchError) as caught:
        ListwiseRerank(embed_model=other).postprocess_nodes(candidates_of(model), query_str=QUERY)
    assert model.fingerprint() in str(caught.value)
    assert other.fingerprint() in str(caught.value)
    assert "Rerank with the embed_model that the collection was built with" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_vector_that_is_not_finite_is_refused(e2rank: ContextualEmbedding, value: float) -> None:
    candidates = candidates_of(e2rank)
    candidates[1].node.embedding = [value, *candidates[1].node.embedding[1:]]
    with pytest.raises(NonFiniteError, match="a stored vector holds NaN or infinity"):
        ListwiseRerank(embed_model=e2rank).postprocess_nodes(candidates, query_str=QUERY)


def test_vectors_of_another_size_are_refused(e2rank: ContextualEmbedding) -> None:
    candidates = [NodeWithScore(node=TextNode(text="a", embedding=[1.0] * 5), score=1.0)] * 2
    with pytest.raises(DimensionMismatchError, match=r"have 5 dimensions; encoder '.*' makes \d+"):
        ListwiseRerank(embed_model=e2rank).postprocess_nodes(candidates, query_str=QUERY)
    mixed = [*candidates_of(e2rank)[:1], *candidates]
    with pytest.raises(DimensionMismatchError, match="have 5 dimensions"):
        ListwiseRerank(embed_model=e2rank).postprocess_nodes(mixed, query_str=QUERY)


# --- in its place ---------------------------------------------------------------------------------


def engine_of(index: VectorStoreIndex, reranker: ListwiseRerank) -> RetrieverQueryEngine:
    return RetrieverQueryEngine(
        retriever=index.as_retriever(similarity_top_k=6),
        response_synthesizer=get_response_synthesizer(llm=MockLLM()),
        node_postprocessors=[reranker],
    )


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_in_a_query_engine(store: Any, any_model: ContextualEmbedding) -> None:
    reranker = ListwiseRerank(embed_model=any_model, vector_store=store, top_n=2)
    response = engine_of(index_in(store, any_model), reranker).query(QUERY)
    assert len(response.source_nodes) == 2
    for hit in response.source_nodes:
        assert hit.node.text in str(response)
        assert isinstance(hit.node.metadata["retrieval_score"], float)
    assert "retrieval_score" not in str(response)
    assert "late_interaction" not in str(response)


async def test_in_an_async_query_engine(any_model: ContextualEmbedding) -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        reranker = ListwiseRerank(embed_model=any_model, vector_store=store, top_n=2)
        engine = engine_of(index_in(store, any_model), reranker)
        wanted = engine.query(QUERY)
        response = await engine.aquery(QUERY)
        assert ids(response.source_nodes) == ids(wanted.source_nodes)
        scores = [[hit.score for hit in each.source_nodes] for each in (response, wanted)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def reranker_of(model: ContextualEmbedding, **options: Any) -> ListwiseRerank:
    return ListwiseRerank(
        embed_model=model, method="late_interaction", weight=0.4, prompt_candidates=3, top_n=5, **options
    )


@pytest.mark.parametrize(
    "clone",
    [
        lambda reranker: pickle.loads(pickle.dumps(reranker)),
        copy.deepcopy,
        lambda reranker: ListwiseRerank.from_dict(reranker.to_dict()),
        lambda reranker: ListwiseRerank.from_json(reranker.to_json()),
    ],
    ids=["pickle", "deepcopy", "dict", "json"],
)
def test_copies_do_the_same(model: ContextualEmbedding, clone: Any) -> None:
    reranker = reranker_of(model)
    candidates = candidates_of(model)
    wanted = results(reranker.postprocess_nodes(candidates, query_str=QUERY))
    fields = dict(reranker.__dict__)
    twin = clone(reranker)
    assert results(twin.postprocess_nodes(candidates, query_str=QUERY)) == wanted
    assert reranker.__dict__ == fields, "copying damaged the original"
    assert twin.to_dict() == reranker.to_dict()
    assert twin.embed_model.encoder is model.encoder
    assert len(pickle.dumps(reranker)) < 20_000


def test_the_store_stays_in_its_process(model: ContextualEmbedding) -> None:
    store = QdrantChunkStore("docs", location=":memory:")
    reranker = reranker_of(model, vector_store=store)
    assert pickle.loads(pickle.dumps(reranker)).vector_store is None
    assert reranker.vector_store is store
    assert "vector_store" not in reranker.to_dict()
    store.close()


def test_another_kind_of_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="ContextualEmbedding"):
        ListwiseRerank(embed_model=MockEmbedding(embed_dim=3))


class Listener(BaseEventHandler):
    """A real handler that keeps the events it is told of."""

    events: list[Any] = []  # noqa: RUF012  # pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


def test_events_and_spans(model: ContextualEmbedding) -> None:
    root, listener, spans = get_dispatcher(), Listener(), SimpleSpanHandler()
    debug = LlamaDebugHandler(print_trace_on_end=False)
    candidates, bundle = candidates_of(model), bundle_of(model)
    reranker = reranker_of(model, callback_manager=CallbackManager([debug]))
    root.add_event_handler(listener)
    root.add_span_handler(spans)
    try:
        hits = reranker.postprocess_nodes(candidates, query_bundle=bundle)
    finally:
        root.event_handlers.remove(listener)
        root.span_handlers.remove(spans)
    (start,) = [event for event in listener.events if isinstance(event, ReRankStartEvent)]
    (end,) = [event for event in listener.events if isinstance(event, ReRankEndEvent)]
    assert (start.top_n, start.query.query_str, ids(start.nodes)) == (5, QUERY, ids(candidates))
    assert start.model_name == model.model
    assert results(end.nodes) == results(hits)
    ((begun, done),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (begun.payload[EventPayload.TOP_K], begun.payload[EventPayload.QUERY_STR]) == (5, QUERY)
    assert ids(done.payload[EventPayload.NODES]) == ids(hits)
    assert any("_postprocess_nodes" in span.id_ for span in spans.completed_spans)
