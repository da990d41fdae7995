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
)
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.qdrant import QdrantChunkStore
from tests import reference

TOPICS = pydoc_data.topics.topics
QUERY = "what does a list display make"
METHODS = ["listwise", "feedback"]


@pytest.fixture
def model(tiny_folder: Path) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32")


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


@pytest.mark.parametrize(("method", "forwards"), [("listwise", 1), ("feedback", 0)])
def test_forward_passes_per_query(model: ContextualEmbedding, method: str, forwards: int) -> None:
    candidates, bundle = candidates_of(model), bundle_of(model)
    reranker = ListwiseRerank(embed_model=model, method=method, top_n=3)
    before = model.encoder.forward_count
    for _ in range(5):
        assert len(reranker.postprocess_nodes(candidates, query_bundle=bundle)) == 3
    assert model.encoder.forward_count - before == 5 * forwards


def test_feedback_without_a_query_vector_embeds_the_query_once(model: ContextualEmbedding) -> None:
    candidates = candidates_of(model)
    reranker = ListwiseRerank(embed_model=model, method="feedback", top_n=4)
    before = model.encoder.forward_count
    alone = reranker.postprocess_nodes(candidates, query_str=QUERY)
    assert model.encoder.forward_count - before == 1
    assert results(alone) == results(reranker.postprocess_nodes(candidates, query_bundle=bundle_of(model)))


def fused(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    rescaled = (second - second.mean()) / second.std() * first.std() + first.mean()
    return (1 - weight) * first + weight * rescaled


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_feedback_equals_rocchio(model: ContextualEmbedding, weight: float) -> None:
    candidates, bundle = candidates_of(model), bundle_of(model)
    stored = np.array([hit.node.embedding for hit in candidates])
    moved = np.array(bundle.embedding) + 0.7 * stored[:2].mean(axis=0)
    first = np.array([hit.score for hit in candidates])
    wanted = fused(first, stored @ moved / np.linalg.norm(moved), weight)
    hits = ListwiseRerank(
        embed_model=model,
        method="feedback",
        feedback_candidates=2,
        feedback_weight=0.7,
        weight=weight,
        top_n=100,
    ).postprocess_nodes(candidates, query_bundle=bundle)
    assert len(hits) == len(candidates)
    by_id = dict(zip(ids(candidates), wanted, strict=True))
    np.testing.assert_allclose([hit.score for hit in hits], [by_id[i] for i in ids(hits)], atol=1e-5)
    np.testing.assert_allclose([hit.score for hit in hits], sorted(wanted, reverse=True), atol=1e-5)
    if weight == 0:
        assert ids(hits) == ids(candidates)


def test_listwise_equals_the_query_read_before_its_candidates(
    model: ContextualEmbedding, tiny_reference: tuple
) -> None:
    """All fits into the context: then the list vector is the late vector of the query in the joined text."""
    candidates = candidates_of(model)
    for hit in candidates:
        hit.node.text = hit.node.text[:12]
    shown = " ".join(hit.node.text for hit in candidates[:2])
    network, tokenizer = tiny_reference
    text = f"{QUERY} {shown}"
    assert len(reference.tokenize(tokenizer, text)[0]) <= 62
    (vector,) = reference.late_vectors(network, tokenizer, text, [(0, len(QUERY))], 64, 0)
    stored = np.array([hit.node.embedding for hit in candidates])
    wanted = fused(np.array([hit.score for hit in candidates]), stored @ np.array(vector), 1.0)
    hits = ListwiseRerank(
        embed_model=model, method="listwise", prompt_candidates=2, top_n=100, weight=1.0
    ).postprocess_nodes(candidates, query_str=QUERY)
    np.testing.assert_allclose([hit.score for hit in hits], sorted(wanted, reverse=True), atol=1e-5)


def test_shown_tokens_are_visible(model: ContextualEmbedding, tiny_reference: tuple) -> None:
    candidates = candidates_of(model)
    assert len(candidates) > 5
    hits = ListwiseRerank(
        embed_model=model, method="listwise", prompt_candidates=4, top_n=100
    ).postprocess_nodes(candidates, query_str=QUERY)
    shown = {hit.node.node_id: hit.node.metadata.get("rerank_shown_tokens") for hit in hits}
    assert [shown[i] is not None for i in ids(candidates)] == [True] * 4 + [False] * (len(candidates) - 4)
    _, tokenizer = tiny_reference
    room = 62 - len(reference.tokenize(tokenizer, QUERY)[0])
    counts = [tuple(map(int, shown[i].split("/"))) for i in ids(candidates[:4])]
    assert [total for _, total in counts] == [
        len(reference.tokenize(tokenizer, hit.node.text)[0]) for hit in candidates[:4]
    ]
    assert 0 < sum(seen for seen, _ in counts) <= room
    assert all(seen < total for seen, total in counts)
    feedback = ListwiseRerank(embed_model=model, method="feedback").postprocess_nodes(
        candidates, query_str=QUERY
    )
    assert all("rerank_shown_tokens" not in hit.node.metadata for hit in feedback)


def test_a_question_that_fills_the_context_keeps_the_first_order_and_says_so(
    model: ContextualEmbedding, caplog: pytest.LogCaptureFixture
) -> None:
    reranker = ListwiseRerank(embed_model=model, method="listwise", top_n=3)
    candidates = candidates_of(model)
    hits = reranker.postprocess_nodes(candidates, query_str="river " * 100)
    assert ids(hits) == ids(candidates[:3])
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in candidates[:3]])
    reason = "leave room for 0 tokens of"
    assert all(reason in hit.node.metadata["rerank_skipped"] for hit in hits)
    assert all(reason not in hit.node.get_content(metadata_mode=MetadataMode.LLM) for hit in hits)
    (record,) = [r for r in caplog.records if r.name.startswith("rag_embed")]
    assert "the first stage's order is kept" in record.getMessage()
    assert "rerank_skipped" not in reranker.postprocess_nodes(candidates, query_str=QUERY)[0].node.metadata


# --- what it does to the candidates ---------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_candidates_are_not_touched(model: ContextualEmbedding, method: str) -> None:
    candidates = candidates_of(model)
    before = copy.deepcopy(candidates)
    hits = ListwiseRerank(embed_model=model, method=method, top_n=3).postprocess_nodes(
        candidates, query_str=QUERY
    )
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


@pytest.mark.parametrize("method", METHODS)
def test_equal_texts_stay_two_candidates(model: ContextualEmbedding, method: str) -> None:
    candidates = candidates_of(model)[:4]
    twin = TextNode(text=candidates[0].node.text, id_="twin", embedding=candidates[3].node.embedding)
    candidates.append(NodeWithScore(node=twin, score=candidates[3].score))
    hits = ListwiseRerank(embed_model=model, method=method, top_n=9).postprocess_nodes(
        candidates, query_str=QUERY
    )
    assert sorted(ids(hits)) == sorted(ids(candidates))
    score = {hit.node.node_id: hit.score for hit in hits}
    assert score["twin"] == score[candidates[3].node.node_id] != score[candidates[0].node.node_id]


@pytest.mark.parametrize("method", METHODS)
def test_ties_keep_their_order(model: ContextualEmbedding, method: str) -> None:
    vector = candidates_of(model)[0].node.embedding
    other = candidates_of(model)[1].node.embedding
    tied = [
        NodeWithScore(node=TextNode(id_=f"n{i}", text="a text", embedding=vector), score=0.5)
        for i in range(9)
    ]
    far = NodeWithScore(node=TextNode(id_="far", text="other", embedding=other), score=0.4)
    hits = ListwiseRerank(embed_model=model, method=method, top_n=20).postprocess_nodes(
        [far, *tied], query_str=QUERY
    )
    assert [i for i in ids(hits) if i != "far"] == [f"n{i}" for i in range(9)]
    alone = ListwiseRerank(embed_model=model, method=method, top_n=20).postprocess_nodes(
        tied, query_str=QUERY
    )
    assert ids(alone) == ids(tied)
    assert [hit.score for hit in alone] == [0.5] * 9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [slice(None), slice(1, 3)], ids=["all", "some"])
def test_nodes_without_scores(model: ContextualEmbedding, method: str, missing: slice) -> None:
    candidates = candidates_of(model)
    scored = ListwiseRerank(embed_model=model, method=method, weight=0).postprocess_nodes(
        candidates, query_bundle=bundle_of(model)
    )
    for hit in candidates[missing]:
        hit.score = None
    hits = ListwiseRerank(embed_model=model, method=method, weight=0).postprocess_nodes(
        candidates, query_bundle=bundle_of(model)
    )
    assert ids(hits) == ids(scored)  # the first stage was the cosine, and is computed again
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in scored], atol=1e-6)
    kept = {hit.node.node_id: hit.score for hit in candidates}
    assert all(hit.node.metadata["retrieval_score"] == kept[hit.node.node_id] for hit in hits)


@pytest.mark.parametrize("method", METHODS)
def test_how_many_come_back(model: ContextualEmbedding, method: str) -> None:
    candidates = candidates_of(model)

    def rerank(nodes: list[NodeWithScore], top_n: int) -> list[NodeWithScore]:
        return ListwiseRerank(embed_model=model, method=method, top_n=top_n).postprocess_nodes(
            nodes, query_str=QUERY
        )

    before = model.encoder.forward_count
    assert rerank([], 3) == []
    assert model.encoder.forward_count == before
    assert len(rerank(candidates, 10_000)) == len(candidates)
    assert results(rerank(candidates, 2)) == results(rerank(candidates, 10_000))[:2]
    assert results(rerank(candidates[::-1], 10_000)) == results(rerank(candidates, 10_000))
    (only,) = rerank(candidates[:1], 3)
    assert only.node.node_id == candidates[0].node.node_id
    assert only.score == pytest.approx(candidates[0].score, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
async def test_async_equals_sync(model: ContextualEmbedding, method: str) -> None:
    candidates = candidates_of(model)
    reranker = ListwiseRerank(embed_model=model, method=method, top_n=4)
    sync = reranker.postprocess_nodes(candidates, query_str=QUERY)
    assert results(await reranker.apostprocess_nodes(candidates, query_str=QUERY)) == results(sync)
    many = await asyncio.gather(
        *(reranker.apostprocess_nodes(candidates, query_bundle=bundle_of(model)) for _ in range(4))
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
@pytest.mark.parametrize("method", METHODS)
def test_missing_vectors_are_fetched_in_one_call(store: Any, model: ContextualEmbedding, method: str) -> None:
    index = index_in(store, model)
    bundle = QueryBundle(QUERY)
    found = index.as_retriever(similarity_top_k=6).retrieve(bundle)
    assert all(hit.node.embedding is None for hit in found)
    with pytest.raises(
        MissingVectorError, match=r"6 of 6 candidates come without a vector.*vector_store=\.\.\."
    ):
        ListwiseRerank(embed_model=model, method=method).postprocess_nodes(found, query_bundle=bundle)
    reranker = ListwiseRerank(embed_model=model, method=method, vector_store=store, top_n=4)
    store._asked.clear()
    hits = reranker.postprocess_nodes(found, query_bundle=bundle)
    assert [sorted(asked) for asked in store._asked] == [sorted(ids(found))]
    known = {hit.node.node_id: hit.node.embedding for hit in candidates_of(model)}
    for hit in found:
        hit.node.embedding = known[hit.node.node_id]
    wanted = ListwiseRerank(embed_model=model, method=method, top_n=4).postprocess_nodes(
        found, query_bundle=bundle
    )
    assert ids(hits) == ids(wanted)
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in wanted], atol=1e-5)
    store._asked.clear()
    found[2].node.embedding = None
    reranker.postprocess_nodes(found, query_bundle=bundle)
    assert store._asked == [[found[2].node.node_id]]


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_node_that_the_store_does_not_have(store: Any, model: ContextualEmbedding) -> None:
    index_in(store, model)
    stray = NodeWithScore(node=TextNode(id_="00000000-0000-4000-8000-000000000000", text="stray"), score=1.0)
    with pytest.raises(
        MissingVectorError, match=r"1 of 1 .*the vector store has none for them: index them again"
    ):
        ListwiseRerank(embed_model=model, vector_store=store).postprocess_nodes([stray], query_str=QUERY)


async def test_a_store_with_an_async_client_alone_is_asked_asynchronously(model: ContextualEmbedding) -> None:
    aclient = AsyncQdrantClient(location=":memory:")
    store = QdrantChunkStore("docs", aclient=aclient)
    nodes = parser_of(model)(read())
    await store.async_add(nodes)
    found = [NodeWithScore(node=n.model_copy(update={"embedding": None}), score=0.5) for n in nodes[:5]]
    reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=4)
    hits = await reranker.apostprocess_nodes(found, query_str=QUERY)
    known = [NodeWithScore(node=node, score=0.5) for node in nodes[:5]]
    wanted = ListwiseRerank(embed_model=model, top_n=4).postprocess_nodes(known, query_str=QUERY)
    assert ids(hits) == ids(wanted)
    with pytest.raises(InputError, match="Pass client=, or use the async method"):
        reranker.postprocess_nodes(found, query_str=QUERY)
    await aclient.close()


def test_parents_that_take_their_chunks_place_have_advice_of_their_own(model: ContextualEmbedding) -> None:
    inner = HierarchicalNodeParser.from_defaults(chunk_sizes=[160, 40], chunk_overlap=0)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)(read())
    docstore = SimpleDocumentStore()
    docstore.add_documents([node.model_copy(update={"embedding": None}) for node in nodes])
    store = QdrantChunkStore("docs", location=":memory:")
    context = StorageContext.from_defaults(docstore=docstore, vector_store=store)
    leaves = get_leaf_nodes(nodes)
    index = VectorStoreIndex(leaves, storage_context=context, embed_model=model)
    merged = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), context).retrieve(QUERY)
    reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=3)
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


def test_a_store_that_returns_vectors_is_not_asked_again(model: ContextualEmbedding) -> None:
    client = QdrantClient(location=":memory:")
    store = CountingChunkStore("docs", client=client, return_vectors=True)
    found = index_in(store, model).as_retriever(similarity_top_k=5).retrieve(QUERY)
    store._asked.clear()
    assert len(ListwiseRerank(embed_model=model).postprocess_nodes(found, query_str=QUERY)) == 5
    assert store._asked == []
    client.close()


def test_the_in_memory_store_of_llama_index(model: ContextualEmbedding) -> None:
    """It keeps vectors and no nodes, so get_nodes cannot be asked."""
    store = SimpleVectorStore()
    found = index_in(store, model).as_retriever(similarity_top_k=5).retrieve(QUERY)
    for hit in found:
        hit.node.embedding = None
    hits = ListwiseRerank(embed_model=model, vector_store=store).postprocess_nodes(found, query_str=QUERY)
    known = {hit.node.node_id: hit.node.embedding for hit in candidates_of(model)}
    for hit in found:
        hit.node.embedding = known[hit.node.node_id]
    wanted = ListwiseRerank(embed_model=model).postprocess_nodes(found, query_str=QUERY)
    assert results(hits) == results(wanted)
    stray = NodeWithScore(node=TextNode(text="stray"), score=1.0)
    with pytest.raises(MissingVectorError, match="index them again"):
        ListwiseRerank(embed_model=model, vector_store=store).postprocess_nodes([stray], query_str=QUERY)


def test_a_foreign_fingerprint_is_refused(tiny_folder: Path, model: ContextualEmbedding) -> None:
    other = ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32", strategy="late")
    with pytest.raises(FingerprintMismatchError) as caught:
        ListwiseRerank(embed_model=other).postprocess_nodes(candidates_of(model), query_str=QUERY)
    assert model.fingerprint() in str(caught.value)
    assert other.fingerprint() in str(caught.value)
    assert "Rerank with the embed_model that the collection was built with" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_stored_vector_that_is_not_finite_is_refused(model: ContextualEmbedding, value: float) -> None:
    candidates = candidates_of(model)
    candidates[1].node.embedding = [value, *candidates[1].node.embedding[1:]]
    with pytest.raises(NonFiniteError, match="a stored vector holds NaN or infinity"):
        ListwiseRerank(embed_model=model).postprocess_nodes(candidates, query_str=QUERY)


@pytest.mark.parametrize("method", METHODS)
def test_vectors_of_another_size_are_refused(model: ContextualEmbedding, method: str) -> None:
    candidates = [NodeWithScore(node=TextNode(text="a", embedding=[1.0] * 5), score=1.0)] * 2
    with pytest.raises(DimensionMismatchError, match="have 5 dimensions; encoder 'tiny_bert' makes 32"):
        ListwiseRerank(embed_model=model, method=method).postprocess_nodes(candidates, query_str=QUERY)
    mixed = [*candidates_of(model)[:1], *candidates]
    with pytest.raises(InputError, match=r"stored vectors have \[5, 32\] dimensions; expected one size"):
        ListwiseRerank(embed_model=model, method=method).postprocess_nodes(mixed, query_str=QUERY)


# --- in its place ---------------------------------------------------------------------------------


def engine_of(index: VectorStoreIndex, reranker: ListwiseRerank) -> RetrieverQueryEngine:
    return RetrieverQueryEngine(
        retriever=index.as_retriever(similarity_top_k=6),
        response_synthesizer=get_response_synthesizer(llm=MockLLM()),
        node_postprocessors=[reranker],
    )


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
@pytest.mark.parametrize(("method", "forwards"), [("listwise", 2), ("feedback", 1)])
def test_in_a_query_engine(store: Any, model: ContextualEmbedding, method: str, forwards: int) -> None:
    """The retriever embeds the query and leaves its vector to us; the list prompt is one more forward."""
    reranker = ListwiseRerank(embed_model=model, method=method, vector_store=store, top_n=2)
    engine = engine_of(index_in(store, model), reranker)
    before = model.encoder.forward_count
    response = engine.query(QUERY)
    assert model.encoder.forward_count - before == forwards
    assert len(response.source_nodes) == 2
    for hit in response.source_nodes:
        assert hit.node.text in str(response)
        assert isinstance(hit.node.metadata["retrieval_score"], float)
    assert "retrieval_score" not in str(response)


@pytest.mark.parametrize("method", METHODS)
async def test_in_an_async_query_engine(model: ContextualEmbedding, method: str) -> None:
    """LlamaIndex's async retriever keeps the query vector to itself: feedback then embeds the query again."""
    with QdrantChunkStore("docs", location=":memory:") as store:
        reranker = ListwiseRerank(embed_model=model, method=method, vector_store=store, top_n=2)
        engine = engine_of(index_in(store, model), reranker)
        wanted = engine.query(QUERY)
        before = model.encoder.forward_count
        response = await engine.aquery(QUERY)
        assert model.encoder.forward_count - before == 2
        assert results(response.source_nodes) == results(wanted.source_nodes)


def reranker_of(model: ContextualEmbedding, **options: Any) -> ListwiseRerank:
    return ListwiseRerank(
        embed_model=model, method="listwise", weight=0.4, prompt_candidates=3, top_n=5, **options
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
