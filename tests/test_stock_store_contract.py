"""What this package relies on in LlamaIndex's own QdrantVectorStore, run alone on Qdrant in memory.

A failure here is news, not a defect of ours: the stock store behaves in a new way, and what the test's
docstring concludes for our store should be looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http import models

COLLECTION = "docs"
RED, TWIN, BLUE, PLAIN = (str(UUID(int=i)) for i in range(1, 5))


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def store(client: QdrantClient) -> QdrantVectorStore:
    """A stock store with the four nodes of `make_nodes`."""
    store = make_store(client)
    store.add(make_nodes())
    return store


def make_store(client: QdrantClient, **options: object) -> QdrantVectorStore:
    """Make a stock store without the payload index, which warns in local mode."""
    return QdrantVectorStore(collection_name=COLLECTION, client=client, index_doc_id=False, **options)


def make_nodes() -> list[BaseNode]:
    """Make two red nodes that point almost the same way, a blue one, and one without a colour."""
    return [
        TextNode(id_=RED, text="red", metadata={"colour": "red"}, embedding=[3.0, 0.0, 4.0]),
        TextNode(id_=TWIN, text="red twin", metadata={"colour": "red"}, embedding=[3.0, 0.1, 4.0]),
        TextNode(id_=BLUE, text="blue", metadata={"colour": "blue"}, embedding=[0.0, 2.0, 0.0]),
        TextNode(id_=PLAIN, text="plain", embedding=[1.0, 0.0, 0.0]),
    ]


def colour_filter(
    operator: FilterOperator, value: object, condition: FilterCondition = FilterCondition.AND
) -> MetadataFilters:
    return MetadataFilters(
        filters=[MetadataFilter(key="colour", operator=operator, value=value)], condition=condition
    )


def ids_of(nodes: Sequence[BaseNode]) -> set[str]:
    return {node.node_id for node in nodes}


# --- vectors ------------------------------------------------------------------------------------------------


def test_query_returns_no_vectors(store: QdrantVectorStore) -> None:
    """query() leaves embedding None, so a reranker on this store must fetch the vectors in one more call."""
    result = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0], similarity_top_k=4))

    assert len(result.nodes) == 4
    assert [node.embedding for node in result.nodes] == [None] * 4


def test_get_nodes_returns_vectors_of_unit_length(store: QdrantVectorStore) -> None:
    """get_nodes() returns what Cosine stored: unit vectors, which our reranker may compare by dot product."""
    (red, blue) = sorted(store.get_nodes([RED, BLUE]), key=lambda node: node.node_id)

    assert red.embedding == pytest.approx([0.6, 0.0, 0.8])
    assert blue.embedding == pytest.approx([0.0, 1.0, 0.0])


def test_get_nodes_stops_at_9999_without_paging(client: QdrantClient) -> None:
    """get_nodes() reads one page of 9,999 and drops the rest without a sign, so ours pages to the end."""
    store = make_store(client)
    store.add(make_nodes()[:1])
    ids, vectors = list(range(10_000)), [[1.0, 0.0, 0.0]] * 10_000
    client.upsert(COLLECTION, models.Batch(ids=ids, vectors=vectors, payloads=[{"text": "bare"}] * 10_000))

    assert client.count(COLLECTION).count == 10_001
    assert len(store.get_nodes()) == 9_999


def test_collection_is_unnamed_although_a_vector_name_is_given(client: QdrantClient) -> None:
    """Without hybrid, dense_vector_name is ignored at creation, so ours makes its named collection itself."""
    make_store(client, dense_vector_name="chunk").add(make_nodes())

    assert isinstance(client.get_collection(COLLECTION).config.params.vectors, models.VectorParams)


def test_a_named_collection_that_exists_already_works(client: QdrantClient) -> None:
    """The stock store reads and writes a named vector made beforehand, so it can share our collections."""
    params = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client.create_collection(COLLECTION, vectors_config={"chunk": params})
    store = make_store(client, dense_vector_name="chunk")
    store.add(make_nodes())

    assert store.query(VectorStoreQuery(query_embedding=[0.0, 1.0, 0.0], similarity_top_k=1)).ids == [BLUE]
    assert store.get_nodes([BLUE])[0].embedding == pytest.approx([0.0, 1.0, 0.0])


def test_adding_a_node_again_drops_its_other_named_vectors(client: QdrantClient) -> None:
    """A second add() replaces the whole point, so vectors of another name need our own store."""
    params = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client.create_collection(COLLECTION, vectors_config={"chunk": params, "isolated": params})
    store = make_store(client, dense_vector_name="chunk")
    store.add(make_nodes())
    client.update_vectors(COLLECTION, [models.PointVectors(id=BLUE, vector={"isolated": [0.0, 0.0, 1.0]})])
    before = client.retrieve(COLLECTION, [BLUE], with_vectors=True)[0].vector
    store.add(make_nodes())
    after = client.retrieve(COLLECTION, [BLUE], with_vectors=True)[0].vector

    assert set(before) == {"chunk", "isolated"}
    assert set(after) == {"chunk"}


# --- modes and filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    [
        VectorStoreQueryMode.MMR,
        VectorStoreQueryMode.TEXT_SEARCH,
        VectorStoreQueryMode.SPARSE,
        VectorStoreQueryMode.SEMANTIC_HYBRID,
    ],
)
def test_a_mode_it_cannot_do_silently_becomes_dense_search(
    store: QdrantVectorStore, mode: VectorStoreQueryMode
) -> None:
    """An unsupported mode returns plain dense results without a sign: ours raises UnsupportedQueryError."""
    query = VectorStoreQuery(
        query_embedding=[3.0, 0.0, 4.0], query_str="blue", similarity_top_k=2, mode=mode, mmr_threshold=0.0
    )

    assert store.query(query).ids == [RED, TWIN]


def test_hybrid_mode_without_hybrid_raises(store: QdrantVectorStore) -> None:
    """HYBRID is the one mode it refuses, with a ValueError: ours refuses all of them the same way."""
    query = VectorStoreQuery(
        query_embedding=[3.0, 0.0, 4.0], query_str="blue", mode=VectorStoreQueryMode.HYBRID
    )

    with pytest.raises(ValueError, match="Hybrid search is not enabled"):
        store.query(query)


@pytest.mark.parametrize("operator", [FilterOperator.ANY, FilterOperator.ALL, FilterOperator.CONTAINS])
def test_filters_any_all_and_contains_raise(store: QdrantVectorStore, operator: FilterOperator) -> None:
    """Three of LlamaIndex's operators are missing though Qdrant can do them: ours offers them or raises."""
    with pytest.raises(NotImplementedError, match="is not supported by Qdrant vector store"):
        store.get_nodes(filters=colour_filter(operator, ["red"]))


@pytest.mark.parametrize(("operator", "value"), [(FilterOperator.NE, "red"), (FilterOperator.NIN, ["red"])])
def test_filters_ne_and_nin_miss_points_without_the_key(
    store: QdrantVectorStore, operator: FilterOperator, value: object
) -> None:
    """`colour != red` does not find a node without a colour, so ours must build the filter as a must_not."""
    assert ids_of(store.get_nodes(filters=colour_filter(operator, value))) == {BLUE}


def test_ids_with_an_or_filter_become_a_union(store: QdrantVectorStore) -> None:
    """Deleting the blue id with an OR filter takes every red node along: ours intersects ids and filters."""
    store.delete_nodes([BLUE], colour_filter(FilterOperator.EQ, "red", FilterCondition.OR))

    assert ids_of(store.get_nodes()) == {PLAIN}


def test_get_nodes_by_id_with_an_or_filter_can_miss_the_id(store: QdrantVectorStore) -> None:
    """get_nodes() cuts that union at the number of ids and returns another node than the one asked for."""
    nodes = store.get_nodes([BLUE], colour_filter(FilterOperator.EQ, "red", FilterCondition.OR))

    assert ids_of(nodes) == {RED}


def test_ids_with_an_and_filter_are_an_intersection(store: QdrantVectorStore) -> None:
    """With AND the same call is an intersection, which is what ours does for both conditions."""
    store.delete_nodes([RED, BLUE], colour_filter(FilterOperator.EQ, "red"))

    assert ids_of(store.get_nodes()) == {TWIN, BLUE, PLAIN}


# --- deletes, ids, async ------------------------------------------------------------------------------------


def test_delete_nodes_without_arguments_deletes_everything(store: QdrantVectorStore) -> None:
    """delete_nodes() empties the collection, so ours refuses a delete that names nothing."""
    store.delete_nodes()

    assert store.get_nodes() == []


def test_delete_nodes_with_empty_filters_deletes_everything(store: QdrantVectorStore) -> None:
    """An empty MetadataFilters empties the collection too, so ours refuses that as well."""
    store.delete_nodes(filters=MetadataFilters(filters=[]))

    assert store.get_nodes() == []


def test_delete_nodes_with_an_empty_list_deletes_nothing(store: QdrantVectorStore) -> None:
    """An empty list of ids matches no point, so callers may already rely on it being harmless."""
    store.delete_nodes([])

    assert ids_of(store.get_nodes()) == {RED, TWIN, BLUE, PLAIN}


def test_ids_that_are_no_uuid_are_rejected(client: QdrantClient) -> None:
    """Qdrant takes UUIDs and integers only, so our parser's ids are uuid5 and ours names the remedy."""
    with pytest.raises(ValueError, match="doc-1-0"):
        make_store(client).add([TextNode(id_="doc-1-0", text="x", embedding=[1.0, 0.0, 0.0])])


async def test_async_methods_need_a_second_client(store: QdrantVectorStore) -> None:
    """Without aclient= every async method raises, so ours runs its sync client in a thread instead."""
    query = VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0], similarity_top_k=1)

    with pytest.raises(ValueError, match="Async client is not initialized"):
        await store.aquery(query)
    with pytest.raises(ValueError, match="Async client is not initialized"):
        await store.async_add(make_nodes())


async def test_a_second_client_in_memory_shares_nothing(client: QdrantClient) -> None:
    """In local mode aclient= is another database, so what add() wrote is not there for aquery()."""
    aclient = AsyncQdrantClient(":memory:")
    store = make_store(client, aclient=aclient)
    store.add(make_nodes())

    with pytest.raises(ValueError, match=f"Collection {COLLECTION} not found"):
        await store.aquery(VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0], similarity_top_k=1))
    await aclient.close()


# --- payload ------------------------------------------------------------------------------------------------


def test_payload_is_the_flat_metadata_and_the_node_as_json(client: QdrantClient) -> None:
    """A point holds flat metadata, the node as JSON and its document's id under three names: so does ours."""
    node = TextNode(
        id_=RED,
        text="red",
        metadata={"colour": "red"},
        embedding=[1.0, 0.0, 0.0],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="paint")},
    )
    make_store(client).add([node])
    payload = client.retrieve(COLLECTION, [RED])[0].payload

    assert payload == node_to_metadata_dict(node, remove_text=False, flat_metadata=False)
    assert set(payload) == {"colour", "_node_content", "_node_type", "doc_id", "document_id", "ref_doc_id"}
    assert {payload[key] for key in ("doc_id", "document_id", "ref_doc_id")} == {"paint"}
    assert json.loads(payload["_node_content"])["embedding"] is None
    assert metadata_dict_to_node(payload).get_content() == "red"
