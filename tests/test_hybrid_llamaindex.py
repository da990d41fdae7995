"""Words and token vectors through LlamaIndex's own ways of indexing, and its own store's hybrid scenario."""

from __future__ import annotations

import asyncio
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import QdrantClient

from rag_embed.errors import MissingVectorError
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.stage_scores import DENSE_SCORE, LEXICAL_SCORE, TOKEN_SCORE, TOKENS_FROM

TOPICS = pydoc_data.topics.topics
QUERY = "what does a list display make"
NAMES = ("lists", "assert", "lambda")


@pytest.fixture
def model(tiny_folder: Path) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32", strategy="late")


def parser_of(model: ContextualEmbedding) -> LateChunkingNodeParser:
    return LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0), embed_model=model
    )


def read() -> list[Document]:
    return [Document(text=TOPICS[name], id_=name, metadata={"title": name}) for name in NAMES]


def open_store() -> QdrantChunkStore:
    return QdrantChunkStore("docs", location=":memory:", lexical=True, tokens="float16")


def by_add(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    store.add(parser_of(model)(read()))


def by_index(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    VectorStoreIndex.from_documents(
        read(),
        transformations=[parser_of(model)],
        embed_model=model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )


def by_insert(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(
        [], storage_context=context, transformations=[parser_of(model)], embed_model=model
    )
    for document in read():
        index.insert(document)


def by_pipeline(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    IngestionPipeline(transformations=[parser_of(model)], vector_store=store).run(documents=read())


def by_two_steps(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0))
    IngestionPipeline(transformations=[parser, model], vector_store=store).run(documents=read())


def by_async_pipeline(store: QdrantChunkStore, model: ContextualEmbedding) -> None:
    pipeline = IngestionPipeline(transformations=[parser_of(model)], vector_store=store)
    asyncio.run(pipeline.arun(documents=read()))


def search(store: QdrantChunkStore, model: ContextualEmbedding) -> list[tuple[str, float]]:
    query = VectorStoreQuery(
        query_embedding=model.get_query_embedding(QUERY),
        query_str=QUERY,
        mode=VectorStoreQueryMode.HYBRID,
        similarity_top_k=8,
    )
    found = store.query(query, query_tokens=model.embed_query_tokens(QUERY))
    return list(zip(found.ids, found.similarities, strict=True))


@pytest.mark.parametrize(
    "ingest",
    [by_index, by_insert, by_pipeline, by_two_steps, by_async_pipeline],
    ids=lambda way: way.__name__,
)
def test_every_way_of_indexing_keeps_words_and_token_vectors(
    model: ContextualEmbedding, ingest: Callable[[QdrantChunkStore, ContextualEmbedding], None]
) -> None:
    with open_store() as wanted, open_store() as store:
        by_add(wanted, model)
        ingest(store, model)
        ids = [node.node_id for node in wanted.get_nodes()]
        assert sorted(node.node_id for node in store.get_nodes()) == sorted(ids)
        tokens = model.embed_query_tokens(QUERY)
        assert store.score_tokens(ids, tokens) == pytest.approx(wanted.score_tokens(ids, tokens), abs=1e-6)
        assert dict(search(store, model)) == pytest.approx(dict(search(wanted, model)), abs=1e-6)


def test_the_drop_in_retrieves_by_both_and_reranks_inside_the_store(model: ContextualEmbedding) -> None:
    with open_store() as store:
        by_index(store, model)
        index = VectorStoreIndex.from_vector_store(store, embed_model=model)
        retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=50)
        found = retriever.retrieve(QUERY)
        assert {DENSE_SCORE, LEXICAL_SCORE} <= found[0].node.metadata.keys()
        rerank = ListwiseRerank(embed_model=model, vector_store=store, method="late_interaction", top_n=10)
        before = model.encoder.token_count
        hits = rerank.postprocess_nodes(found, query_str=QUERY)
        spent = model.encoder.token_count - before
        assert spent == len(model.encoder.tokenize(QUERY)) + 2  # no chunk is read again
        assert len(hits) == min(10, len(found))
        assert {hit.node.metadata[TOKENS_FROM] for hit in hits} == {"stored"}
        scores = store.score_tokens([hit.node.node_id for hit in hits], model.embed_query_tokens(QUERY))
        for hit in hits:
            assert hit.node.metadata[TOKEN_SCORE] == pytest.approx(scores[hit.node.node_id], abs=1e-6)
            assert "score" not in hit.node.get_content(metadata_mode="llm")


def test_stored_and_read_again_token_vectors_say_the_same(model: ContextualEmbedding) -> None:
    with open_store() as store, QdrantChunkStore("docs", location=":memory:") as bare:
        by_add(store, model)
        by_add(bare, model)
        found = VectorStoreIndex.from_vector_store(bare, embed_model=model).as_retriever(similarity_top_k=9)
        nodes = found.retrieve(QUERY)
        there = ListwiseRerank(embed_model=model, vector_store=store).postprocess_nodes(
            nodes, query_str=QUERY
        )
        again = ListwiseRerank(embed_model=model, vector_store=bare).postprocess_nodes(nodes, query_str=QUERY)
        assert {hit.node.metadata[TOKENS_FROM] for hit in again} == {"read in its document"}
        assert {h.node.node_id: h.node.metadata[TOKEN_SCORE] for h in there} == pytest.approx(
            {h.node.node_id: h.node.metadata[TOKEN_SCORE] for h in again}, abs=2e-3
        )


def test_a_cache_in_memory_keeps_token_vectors_and_one_that_was_written_is_named(
    model: ContextualEmbedding, tmp_path: Path
) -> None:
    pipeline = IngestionPipeline(transformations=[parser_of(model)])
    pipeline.run(documents=read())
    with open_store() as store:
        store.add(pipeline.run(documents=read()))
        assert len(search(store, model)) == 8
    pipeline.persist(str(tmp_path))
    later = IngestionPipeline(transformations=[parser_of(model)])
    later.load(str(tmp_path))
    cached = later.run(documents=read())
    with open_store() as store:
        with pytest.raises(MissingVectorError, match=r"keeps JSON and loses them.*disable_cache=True"):
            store.add(cached)
        assert store.count() == 0
        by_add(store, model)
        store.add(cached)  # the same reading of the same chunks: theirs are kept
        assert len(search(store, model)) == 8


def test_the_hybrid_scenario_of_llama_indexes_own_store() -> None:
    """Its tests ask for one result of each leg and two of both, then without hybrid for one."""
    nodes = [
        TextNode(
            id_=f"{number}" * 8 + "-1111-1111-1111-111111111111",
            text=f"test{number}",
            embedding=[1.0, 0.0] if number == 1 else [0.0, 1.0],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="test-0")},
        )
        for number in (1, 2)
    ]
    client = QdrantClient(location=":memory:")
    store = QdrantChunkStore("docs", client=client, enable_hybrid=True, fastembed_sparse_model="Qdrant/bm25")
    store.add(nodes)
    query = VectorStoreQuery(
        query_embedding=[0.1, 0.1],
        query_str="test1",
        similarity_top_k=1,
        sparse_top_k=1,
        hybrid_top_k=2,
        mode=VectorStoreQueryMode.HYBRID,
    )
    assert len(store.query(query).ids) == 2
    assert store.query(query).nodes[0].text == "test1"
    query.mode = VectorStoreQueryMode.DEFAULT
    assert len(store.query(query).ids) == 1
    client.close()
