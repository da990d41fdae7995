"""The embedded encoder, real documents and a folder on disk: index, reopen, ask, rerank, edit."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, QueryBundle
from llama_index.core.storage.docstore import SimpleDocumentStore

from rag_embed.errors import FingerprintMismatchError
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.llamaindex.corpus import Corpus
from rag_embed.qdrant import QdrantChunkStore

TOPICS = pydoc_data.topics.topics
NAMES = ["lists", "lambda", "pass", "booleans", "slicings"]
QUERY = "how is a list made by a comprehension?"


@pytest.fixture
def model() -> ContextualEmbedding:
    return ContextualEmbedding(device="cpu", dtype="float32")


def parser_of(model: ContextualEmbedding | None = None) -> LateChunkingNodeParser:
    return LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=120, chunk_overlap=20), embed_model=model
    )


def read(**edits: str) -> list[Document]:
    texts = {name: TOPICS[name][:2000] for name in NAMES} | edits
    return [Document(text=text, id_=name, metadata={"topic": name}) for name, text in texts.items()]


def edited() -> list[Document]:
    """One paragraph of one document is another one."""
    paragraphs = TOPICS["slicings"][:2000].split("\n\n")
    paragraphs[1] = "A slicing takes a part of a sequence, such as the first three items of a list."
    return read(slicings="\n\n".join(paragraphs))


def check_store(store: QdrantChunkStore, nodes: list[BaseNode]) -> None:
    """Assert that a store holds these chunks and nothing else."""
    wanted = {node.node_id: node for node in nodes}
    found = {node.node_id: node for node in store.get_nodes()}
    assert found.keys() == wanted.keys(), "orphans, or chunks that are missing"
    for node_id, node in found.items():
        assert (node.text, node.metadata) == (wanted[node_id].text, wanted[node_id].metadata)
        assert (node.start_char_idx, node.end_char_idx) == (
            wanted[node_id].start_char_idx,
            wanted[node_id].end_char_idx,
        )
        np.testing.assert_allclose(node.embedding, wanted[node_id].embedding, atol=1e-6)


def cost_of(model: ContextualEmbedding, run: Callable[[], object]) -> int:
    before = model.encoder.token_count
    run()
    return model.encoder.token_count - before


def test_index_reopen_ask_rerank(tmp_path: Path, model: ContextualEmbedding) -> None:
    with QdrantChunkStore("docs", path=tmp_path, fingerprint=model.fingerprint()) as store:
        VectorStoreIndex.from_documents(
            read(),
            transformations=[parser_of(model)],
            embed_model=model,
            storage_context=StorageContext.from_defaults(vector_store=store),
        )
        nodes = parser_of(model)(read())
        check_store(store, nodes)
    with QdrantChunkStore("docs", path=tmp_path, fingerprint=model.fingerprint()) as store:
        index = VectorStoreIndex.from_vector_store(
            store, embed_model=model, transformations=[parser_of(model)]
        )
        bundle = QueryBundle(QUERY)
        found = index.as_retriever(similarity_top_k=8).retrieve(bundle)
        assert found[0].node.ref_doc_id == "lists"
        text = TOPICS["lists"]
        assert found[0].node.text == text[found[0].node.start_char_idx : found[0].node.end_char_idx]
        reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=3)
        hits = reranker.postprocess_nodes(found, query_bundle=bundle)
        assert len(hits) == 3
        assert {hit.node.node_id for hit in hits} < {hit.node.node_id for hit in found}
        assert hits[0].node.ref_doc_id == "lists"
        late_comer = Document(text=TOPICS["del"], id_="del", metadata={"topic": "del"})
        index.insert(late_comer)
        check_store(store, [*nodes, *parser_of(model)([late_comer])])
    other = ContextualEmbedding(device="cpu", dtype="float32", strategy="isolated")
    with pytest.raises(FingerprintMismatchError):
        QdrantChunkStore("docs", path=tmp_path, fingerprint=other.fingerprint())


def by_index(model: ContextualEmbedding, store: QdrantChunkStore, docstore: SimpleDocumentStore) -> Callable:
    context = StorageContext.from_defaults(vector_store=store, docstore=docstore)
    index = VectorStoreIndex(
        [], storage_context=context, transformations=[parser_of(model)], embed_model=model
    )
    return index.refresh_ref_docs


def by_pipeline(
    model: ContextualEmbedding, store: QdrantChunkStore, docstore: SimpleDocumentStore
) -> Callable:
    pipeline = IngestionPipeline(
        transformations=[parser_of(), model],
        vector_store=store,
        docstore=docstore,
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
    return lambda documents: pipeline.run(documents=documents)


def by_corpus(model: ContextualEmbedding, store: QdrantChunkStore, _: SimpleDocumentStore) -> Callable:
    return Corpus(store, embed_model=model, node_parser=parser_of()).sync


@pytest.mark.parametrize("way", [by_index, by_pipeline, by_corpus])
def test_an_edit_embeds_its_document_alone(tmp_path: Path, model: ContextualEmbedding, way: Callable) -> None:
    """Each run opens the folder anew, and what was embedded in an earlier one is not embedded again."""
    book = str(tmp_path / "docstore.json")

    def sync(documents: list[Document]) -> int:
        docstore = (
            SimpleDocumentStore.from_persist_path(book) if Path(book).exists() else SimpleDocumentStore()
        )
        with QdrantChunkStore("docs", path=tmp_path / "store") as store:
            run = way(model, store, docstore)
            cost = cost_of(model, lambda: run(documents))
            check_store(store, wanted[documents[-1].text])
        docstore.persist(book)
        return cost

    wanted: dict[str, list[BaseNode]] = {}
    everything = cost_of(model, lambda: wanted.update({read()[-1].text: parser_of(model)(read())}))
    (changed,) = edited()[-1:]
    new: list[BaseNode] = []
    alone = cost_of(model, lambda: new.extend(parser_of(model)([changed])))
    kept = [node for node in wanted[read()[-1].text] if node.ref_doc_id != changed.id_]
    wanted[changed.text] = [*kept, *new]
    assert sync(read()) == everything
    assert sync(read()) == 0
    assert sync(edited()) == alone
    assert 0 < alone < everything / 2
    assert sync(edited()) == 0
