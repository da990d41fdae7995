"""With LlamaIndex: its own store on the same collection, its index, its pipeline."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import ImageNode, IndexNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from rag_embed.errors import DimensionMismatchError, FingerprintMismatchError, InputError, StoreError
from rag_embed.qdrant import QdrantChunkStore
from tests.qdrant_cases import ask, make_nodes, make_vectors, where


class WordEmbedding(MockEmbedding):
    """Deterministic vectors that depend on the text."""

    def _get_vector_of(self, text: str) -> list[float]:
        seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(text))
        return make_vectors(1, dim=self.embed_dim, seed=seed)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_vector_of(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_vector_of(query)


@pytest.fixture
def client():
    client = QdrantClient(location=":memory:")
    yield client
    client.close()


def stock_store(client: QdrantClient, **options: object) -> QdrantVectorStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return QdrantVectorStore("docs", client=client, **options)


def uuid_nodes(count: int) -> list[TextNode]:
    nodes = make_nodes(count, tags=["a", "b"], author="ann")
    for index, node in enumerate(nodes):
        node.id_ = f"00000000-0000-4000-8000-{index:012d}"
    return nodes


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_what_the_stock_store_wrote_is_read(client: QdrantClient) -> None:
    nodes = uuid_nodes(10)
    stock_store(client).add(nodes)
    ours = QdrantChunkStore("docs", client=client, return_vectors=True)
    schema = ours.info()
    assert (schema.vector_name, schema.dim, schema.fingerprint) == ("", 8, None)
    found = ours.query(ask(nodes[4].embedding))
    assert found.ids[0] == nodes[4].node_id
    np.testing.assert_allclose(found.nodes[0].embedding, nodes[4].embedding, atol=1e-6)
    assert found.nodes[0].model_copy(update={"embedding": nodes[4].embedding}) == nodes[4]
    assert list(ours.get_vectors([nodes[1].node_id])) == [nodes[1].node_id]
    ours.add(make_nodes(2, prefix="ours"))
    ours.replace_document("doc", nodes[:3])
    assert ours.count() == 3
    with pytest.raises(DimensionMismatchError):
        ours.add(make_nodes(1, dim=3))


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_what_we_wrote_is_read_by_the_stock_store(client: QdrantClient) -> None:
    nodes = uuid_nodes(10)
    QdrantChunkStore("docs", client=client, vector_name="text-dense").add(nodes)
    stock = stock_store(client)
    found = stock.query(ask(nodes[4].embedding, filters=where("author", "ann")))
    assert found.ids[0] == nodes[4].node_id
    assert found.nodes[0].model_copy(update={"embedding": nodes[4].embedding}) == nodes[4]
    got = stock.get_nodes(node_ids=[nodes[2].node_id])
    np.testing.assert_allclose(got[0].embedding, nodes[2].embedding, atol=1e-6)
    more = uuid_nodes(11)[10:]
    stock.add(more)
    assert QdrantChunkStore("docs", client=client).count() == 11
    stock.delete("doc")
    assert QdrantChunkStore("docs", client=client).count() == 0


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_the_payloads_are_equal(client: QdrantClient) -> None:
    node = uuid_nodes(1)[0]
    stock_store(client).add([node])
    stored = client.retrieve("docs", [node.node_id])[0].payload
    QdrantChunkStore("ours", client=client).add([node])
    assert client.retrieve("ours", [node.node_id])[0].payload == stored


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_our_stamps_in_the_stock_store_tell_the_fingerprint(client: QdrantClient) -> None:
    nodes = make_nodes(3, fingerprint="A")
    for node, other in zip(nodes, uuid_nodes(3), strict=True):
        node.id_ = other.id_
    stock_store(client).add(nodes)
    ours = QdrantChunkStore("docs", client=client, fingerprint="A")
    with pytest.raises(FingerprintMismatchError, match="made by 'A'"):
        ours.add(make_nodes(1, fingerprint="B"))
    ours.add(make_nodes(1, fingerprint="A", prefix="more"))
    assert ours.count() == 4


def test_collections_of_others(client: QdrantClient) -> None:
    params = models.VectorParams(size=8, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config={"their": params})
    vectors = make_vectors(3)
    points = [
        models.PointStruct(id=i, vector={"their": v}, payload={"body": f"text {i}", "page": i})
        for i, v in enumerate(vectors)
    ]
    client.upsert("docs", points)
    ours = QdrantChunkStore("docs", client=client, text_key="body")
    found = ours.query(ask(vectors[1], 1))
    assert (found.ids, found.nodes[0].text, found.nodes[0].metadata) == (["1"], "text 1", {"page": 1})
    assert list(ours.get_vectors(["2"])) == ["2"]
    ours.delete_nodes(["0"])
    assert ours.count() == 2
    two = {"their": params, "other": params}
    client.create_collection("two", vectors_config=two)
    with pytest.raises(StoreError, match=r"dense vectors \['other', 'their'\].*called 'dense'.*vector_name="):
        QdrantChunkStore("two", client=client).info()
    assert QdrantChunkStore("two", client=client, vector_name="other").info().vector_name == "other"


def test_an_empty_collection_takes_the_first_fingerprint(client: QdrantClient) -> None:
    params = models.VectorParams(size=8, distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=params, metadata={"owner": "ann"})
    ours = QdrantChunkStore("docs", client=client)
    ours.add(make_nodes(2, fingerprint="A"))
    assert ours.info().fingerprint == "A"
    metadata = client.get_collection("docs").config.metadata
    assert metadata == {"owner": "ann", "rag_embed": {"version": 1, "dim": 8, "fingerprint": "A"}}
    with pytest.raises(FingerprintMismatchError):
        ours.add(make_nodes(2, fingerprint="B"))


def test_kinds_of_nodes_survive(tmp_path: Path) -> None:
    vectors = make_vectors(3)
    nodes = [
        TextNode(id_="t", text="t", embedding=vectors[0]),
        IndexNode(id_="i", text="i", index_id="x", embedding=vectors[1]),
        ImageNode(id_="p", text="p", image="aGk=", embedding=vectors[2]),
    ]
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)
        for node in store.get_nodes(["t", "i", "p"]):
            original = next(other for other in nodes if other.node_id == node.node_id)
            assert type(node) is type(original)
            assert node.model_copy(update={"embedding": original.embedding}) == original


def test_index_and_retriever(tmp_path: Path) -> None:
    documents = [Document(text=f"Document number {i}. " * 5, id_=f"d{i}") for i in range(4)]
    embed = WordEmbedding(embed_dim=8)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embed)
        hits = index.as_retriever(similarity_top_k=2).retrieve(documents[2].text.strip())
        assert hits[0].node.ref_doc_id == "d2"
        assert hits[0].score == pytest.approx(1.0, abs=1e-6)
        mmr = index.as_retriever(
            vector_store_query_mode=VectorStoreQueryMode.MMR, vector_store_kwargs={"mmr_threshold": 0.5}
        )
        assert len(asyncio.run(mmr.aretrieve("anything"))) == 2
        index.delete_ref_doc("d2")
        index.insert(Document(text="another", id_="d9"))
        assert {node.ref_doc_id for node in store.get_nodes()} == {"d0", "d1", "d3", "d9"}
    with QdrantChunkStore("docs", path=tmp_path) as store:
        again = VectorStoreIndex.from_vector_store(store, embed_model=embed)
        assert again.as_retriever(similarity_top_k=1).retrieve("another")[0].text == "another"


@pytest.mark.parametrize("is_async", [False, True])
def test_pipeline_upserts(tmp_path: Path, is_async: bool) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=30, chunk_overlap=0), WordEmbedding(embed_dim=8)],
            vector_store=store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
            disable_cache=True,
        )

        def run(*texts: str) -> list[str]:
            documents = [Document(text=text, id_=f"d{i}") for i, text in enumerate(texts)]
            if is_async:
                asyncio.run(pipeline.arun(documents=documents))
            else:
                pipeline.run(documents=documents)
            return sorted(node.get_content() for node in store.get_nodes())

        long = " ".join(f"Sentence number {i} of the first text." for i in range(20))
        first = run(long, "Second.")
        assert len(first) > 5
        assert run(long, "Second.") == first
        assert run("Short now.", "Second.") == ["Second.", "Short now."]


async def test_clients_of_the_user() -> None:
    client = QdrantClient(location=":memory:")
    aclient = AsyncQdrantClient(location=":memory:")
    with pytest.raises(InputError, match="the two would hold different data"):
        QdrantChunkStore("docs", client=client, aclient=aclient)
    alone = QdrantChunkStore("docs", aclient=aclient)
    await alone.async_add(make_nodes(3))
    assert await alone.acount() == 3
    assert alone.client is aclient
    with pytest.raises(InputError, match="a sync method was called; expected client= too"):
        alone.count()
    store = QdrantChunkStore("docs", client=client)
    await store.async_add(make_nodes(4))
    assert store.count() == 4
    await store.aclose()
    await alone.aclose()
    assert client.count("docs").count == 4  # theirs stays open
    with pytest.raises(TypeError, match="cannot be pickled"):
        QdrantChunkStore("docs", client=client).__getstate__()
    client.close()
    await aclient.close()


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({}, "found no place"),
        ({"path": "a", "url": "b"}, "found path and url"),
        ({"path": ":memory:"}, 'pass location=":memory:"'),
        ({"url": ":memory:"}, 'pass location=":memory:"'),
    ],
)
def test_exactly_one_place(places: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        QdrantChunkStore("docs", **places)


def test_memory_by_location() -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        store.add(make_nodes(2))
        assert store.count() == 2
        assert isinstance(store.client, QdrantClient)
        with pytest.raises(TypeError, match="cannot be pickled"):
            store.__getstate__()
