"""What a user of LlamaIndex's own Qdrant store types: honoured where it means the same, else refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from qdrant_client import QdrantClient, models

from rag_embed.errors import DimensionMismatchError, InputError
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, RetryPolicy, VectorStorage
from tests.qdrant_cases import ask, make_nodes, make_vectors, where
from tests.qdrant_standin import serve

m = models
PLACES = [
    {"tenant": "ann", "tags": ["red", "blue"], "size": 1, "at": {"lat": 48.2, "lon": 16.4}, "on": True},
    {"tenant": "bob", "tags": ["red"], "size": 2, "at": {"lat": 52.5, "lon": 13.4}, "on": False},
    {"tenant": "ann", "tags": [], "size": 3, "at": {"lat": 40.7, "lon": -74.0}, "on": True},
    {"tenant": "eve", "tags": None, "size": 2.5, "text": "the quick brown fox", "day": "2024-05-01"},
    {"tenant": "bob", "offers": [{"price": 5, "kind": "new"}, {"price": 50, "kind": "used"}]},
    {"tenant": "bob", "offers": [{"price": 5, "kind": "used"}], "text": "quick, but not brown"},
]


def field(key: str, **condition: Any) -> models.FieldCondition:
    return m.FieldCondition(key=key, **condition)


def has(key: str, value: Any) -> models.FieldCondition:
    return field(key, match=m.MatchValue(value=value))


def point(lat: float, lon: float) -> models.GeoPoint:
    return m.GeoPoint(lat=lat, lon=lon)


SQUARE = [point(45, 10), point(45, 20), point(55, 20), point(55, 10), point(45, 10)]
NESTED = m.Filter(must=[field("price", range=m.Range(lt=10)), has("kind", "used")])
CONDITIONS: dict[str, tuple[Any, set[int]]] = {
    "value": (has("tenant", "ann"), {0, 2}),
    "bool": (has("on", True), {0, 2}),
    "integer": (has("size", 2), {1}),
    "any": (field("tags", match=m.MatchAny(any=["blue", "green"])), {0}),
    "except": (field("tenant", match=m.MatchExcept(**{"except": ["ann", "bob"]})), {3}),
    "text": (field("text", match=m.MatchText(text="brown quick")), {3, 5}),
    "any word": (field("text", match=m.MatchTextAny(text_any="fox cat")), {3}),
    "phrase": (field("text", match=m.MatchPhrase(phrase="quick brown")), {3}),
    "prefix": (field("tenant", match=m.MatchPrefix(prefix="a")), {0, 2}),
    "substring": (field("tenant", match=m.MatchSubstring(substring="v")), {3}),
    "range": (field("size", range=m.Range(gt=1, lte=2.5)), {1, 3}),
    "dates": (field("day", range=m.DatetimeRange(gte="2024-01-01T00:00:00Z")), {3}),
    "box": (
        field("at", geo_bounding_box=m.GeoBoundingBox(top_left=SQUARE[3], bottom_right=SQUARE[1])),
        {0, 1},
    ),
    "circle": (field("at", geo_radius=m.GeoRadius(center=point(48, 16), radius=100_000)), {0}),
    "polygon": (field("at", geo_polygon=m.GeoPolygon(exterior=m.GeoLineString(points=SQUARE))), {0, 1}),
    "count": (field("tags", values_count=m.ValuesCount(gte=2)), {0}),
    "empty field": (field("size", is_empty=True), {4, 5}),
    "null field": (field("tags", is_null=True), {3}),
    "is empty": (m.IsEmptyCondition(is_empty=m.PayloadField(key="size")), {4, 5}),
    "is null": (m.IsNullCondition(is_null=m.PayloadField(key="tags")), {3}),
    "ids": (m.HasIdCondition(has_id=[f"00000000-0000-4000-8000-{i:012d}" for i in (1, 4)]), {1, 4}),
    "vector": (m.HasVectorCondition(has_vector="dense"), set(range(6))),
    "nested": (m.NestedCondition(nested=m.Nested(key="offers", filter=NESTED)), {5}),
    "nested filter": (m.Filter(should=[has("size", 1), has("size", 3)]), {0, 2}),
}
WHOLE = {
    "min_should": (
        m.Filter(
            min_should=m.MinShould(
                conditions=[
                    has("tenant", "bob"),
                    field("tags", is_empty=False),
                    field("size", range=m.Range(gte=2)),
                ],
                min_count=2,
            )
        ),
        {1},
    ),
    "must_not": (m.Filter(must_not=[has("tenant", "bob"), has("tenant", "eve")]), {0, 2}),
    "all": (
        m.Filter(
            must=has("on", True),
            should=[has("size", 3), has("size", 7)],
            must_not=m.IsNullCondition(is_null=m.PayloadField(key="tags")),
        ),
        {2},
    ),
}
FILTERS = {**{name: (m.Filter(must=[c]), ids) for name, (c, ids) in CONDITIONS.items()}, **WHOLE}


@pytest.fixture(scope="module", params=["memory", "folder", "wire"])
def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QdrantChunkStore]:
    nodes = [
        TextNode(id_=f"00000000-0000-4000-8000-{i:012d}", text=f"{i}", metadata=metadata, embedding=vector)
        for i, (metadata, vector) in enumerate(zip(PLACES, make_vectors(6), strict=True))
    ]
    with serve() as server:
        place: dict[str, Any] = {
            "memory": {"location": ":memory:"},
            "folder": {"path": tmp_path_factory.mktemp("places")},
            "wire": {"url": server.url},
        }[request.param]
        with QdrantChunkStore("docs", **place) as store:
            store.add(nodes)
            yield store


@pytest.mark.parametrize("name", FILTERS)
def test_qdrant_filters_are_honoured_with_every_kind_of_condition(
    places: QdrantChunkStore, name: str
) -> None:
    condition, expected = FILTERS[name]
    query = ask(make_vectors(1)[0], top_k=9)

    async def asked_async() -> list[Any]:
        try:
            return (await places.aquery(query, qdrant_filters=condition)).nodes
        finally:
            await places._connection.close_loop()

    for found in (
        places.query(query, qdrant_filters=condition).nodes,
        asyncio.run(asked_async()),
        places.query(query, qdrant_filters=condition.model_dump(exclude_none=True, by_alias=True)).nodes,
        places.query(
            ask(query.query_embedding, top_k=9, mode=VectorStoreQueryMode.MMR), qdrant_filters=condition
        ).nodes,
    ):
        assert {int(node.text) for node in found} == expected


def test_slices_of_the_embedded_engine_are_those_of_the_client(tmp_path: Path) -> None:
    nodes = make_nodes(40)
    found = []
    for place in ({"location": ":memory:"}, {"path": tmp_path}):
        with QdrantChunkStore("docs", **place) as store:
            store.add(nodes)
            slices = [
                store.query(
                    ask(nodes[0].embedding, top_k=40),
                    qdrant_filters=m.Filter(must=[m.SliceCondition(slice=m.Slice(total=3, index=i))]),
                ).ids
                for i in range(3)
            ]
            assert sorted(id_ for ids in slices for id_ in ids) == sorted(node.node_id for node in nodes)
            found.append([sorted(ids) for ids in slices])
    assert found[0] == found[1]


def test_tenants_stay_apart_through_a_retriever(tmp_path: Path) -> None:
    """LlamaIndex's own way: `vector_store_kwargs` of a retriever, beside its filters and ids."""
    with QdrantChunkStore("docs", path=tmp_path) as store:
        for owner in ("ann", "bob"):
            store.add(make_nodes(5, prefix=owner, owner=owner))
        index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=8))
        only_bob = {"qdrant_filters": m.Filter(must=[has("owner", "bob")])}

        def owners(**options: Any) -> list[str]:
            retriever = index.as_retriever(similarity_top_k=9, vector_store_kwargs=only_bob, **options)
            return [found.metadata["owner"] for found in retriever.retrieve("who?")]

        assert owners() == ["bob"] * 5
        assert owners(filters=where("index", 2)) == ["bob"]
        assert owners(filters=where("owner", "ann")) == []


def test_search_params_reach_the_engine(tmp_path: Path) -> None:
    params = m.SearchParams(exact=True, hnsw_ef=77, quantization=m.QuantizationSearchParams(ignore=True))
    nodes = make_nodes(4)
    with serve() as server:
        with QdrantChunkStore("docs", url=server.url, storage="int8") as store:
            store.add(nodes)
            store.query(ask(nodes[0].embedding), search_params=params)
            store.query(ask(nodes[0].embedding), search_params={"hnsw_ef": 5})
        assert server.queries[0].params == params
        with QdrantChunkStore("prefixed", url=server.url, storage=VectorStorage(prefix_dim=4)) as store:
            store.add(nodes)
            store.query(ask(nodes[0].embedding), search_params={"hnsw_ef": 5})
        assert server.queries[2].prefetch.params.hnsw_ef == 5
        assert server.queries[2].prefetch.params.quantization.rescore is False
        assert (server.queries[1].params.hnsw_ef, server.queries[1].params.quantization.oversampling) == (
            5,
            3.0,
        )
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)
        assert store.query(ask(nodes[2].embedding, 1), search_params=params).ids == ["node-2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"qdrant_filter": 1}, "query knows no 'qdrant_filter'.* did you mean qdrant_filters?"),
        (
            {"shard_identifier": "eu"},
            "shard_identifier='eu' for local Qdrant.*are one shard and one copy.*tenant_key=",
        ),
        ({"hybrid_weight": 2}, "query knows no 'hybrid_weight'; expected qdrant_filters, .*mmr_threshold"),
        (
            {"qdrant_filters": "owner=bob"},
            "qdrant_filters is 'owner=bob'; expected a qdrant_client.models.Filter",
        ),
        ({"search_params": {"ef": 3}}, "search_params is .*expected a qdrant_client.models.SearchParams"),
    ],
)
def test_query_options_that_would_be_ignored_are_refused(options: dict[str, Any], expected: str) -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        query = ask(make_vectors(1)[0])
        with pytest.raises(InputError, match=expected):
            store.query(query, **options)
        with pytest.raises(InputError, match=expected):
            asyncio.run(store.aquery(query, **options))
        store.query(query, shard_identifier=None, qdrant_filters=None)


def test_other_methods_ignore_nothing_either() -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        nodes = make_nodes(3)
        store.add(nodes, shard_identifier=None)
        for call in (
            lambda: store.add(nodes, shard_identifier="eu"),
            lambda: store.delete("doc", shard_identifier="eu"),
            lambda: store.delete_nodes(["node-1"], shard_identifier="eu"),
            lambda: store.get_nodes(shard_identifier="eu"),
        ):
            with pytest.raises(InputError, match="shard_identifier='eu'"):
                call()
        with pytest.raises(InputError, match="add knows no 'batchsize'; expected no further arguments"):
            store.add(nodes, batchsize=3)
        assert store.count() == 3


def test_get_nodes_takes_a_limit(places: QdrantChunkStore) -> None:
    assert [node.text for node in places.get_nodes(limit=2)] == ["0", "1"]
    assert len(places.get_nodes(limit=100)) == 6
    ids = [f"00000000-0000-4000-8000-{i:012d}" for i in (5, 2, 4)]
    assert len(places.get_nodes(ids, limit=2)) == 2
    with pytest.raises(InputError, match="limit is 0; expected at least 1"):
        places.get_nodes(limit=0)


def test_names_of_the_stock_store_are_taken() -> None:
    quantization = m.ScalarQuantization(scalar=m.ScalarQuantizationConfig(type=m.ScalarType.INT8))
    config = m.VectorParams(size=8, distance=m.Distance.DOT, on_disk=True, datatype=m.Datatype.FLOAT16)
    with serve() as server:
        options: dict[str, Any] = {
            "client_kwargs": {"pool_size": 2},
            "max_retries": 2,
            "dense_vector_name": "text-dense",
            "dense_config": config,
            "quantization_config": quantization,
            "shard_number": 2,
            "replication_factor": 1,
            "payload_indexes": [{"field_name": "page", "field_schema": m.PayloadSchemaType.INTEGER}],
            "enable_hybrid": False,
            "index_doc_id": True,
            "parallel": 1,
            "shard_keys": None,
        }
        with QdrantChunkStore("docs", url=server.url, **options) as store:
            store.add(make_nodes(3, page=1))
            assert not store.cluster.is_sharded
            assert store.client_options == {"pool_size": 2}
            assert store.retry == RetryPolicy(attempts=2)
            schema = store.info()
            assert (schema.vector_name, schema.distance) == ("text-dense", m.Distance.DOT)
            assert store.settings.quantization_config == quantization
            assert store.settings.shard_number == 2
            assert server.indexes["docs"]["page"] == "integer"
    with (
        QdrantChunkStore("docs", location=":memory:", dense_config=config) as store,
        pytest.raises(DimensionMismatchError, match="dim=8; the first vectors have 5"),
    ):
        store.add(make_nodes(1, dim=5))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_retries": "many"}, "max_retries is 'many'; expected a whole number"),
        ({"batch_size": 64}, "takes no batch_size=: requests are cut by their size"),
        ({"parallel": 4}, "takes no parallel=: requests are cut"),
        ({"sparse_doc_fn": print}, "takes no sparse_doc_fn=: lexical= keeps the words of each chunk"),
        ({"fastembed_sparse_model": "splade"}, "takes no fastembed_sparse_model=: lexical= keeps"),
        ({"bm25_config": {"min_token_len": 3}}, "bm25_config has min_token_len; expected what"),
        ({"index_doc_id": False}, "takes no index_doc_id=: the document id is always indexed"),
        (
            {"shard_keys": ["eu"]},
            "cluster.shard_keys for a collection in :memory:: .* are one shard and one copy.*tenant_key=",
        ),
        ({"vector_nam": "x"}, "knows no vector_nam=; did you mean vector_name=?"),
        ({"api_keey": "sesame"}, "knows no api_keey=; did you mean api_key=?"),
        ({"nonsense": 1}, "knows no nonsense=; expected some of api_key, .*vector_name"),
        ({"payload_indexes": ["page"]}, "expected a dict such as .*or a list of"),
        (
            {"dense_vector_name": "a", "vector_name": "b"},
            "found vector_name= and dense_vector_name=, which mean",
        ),
        (
            {"shard_number": 2, "settings": CollectionSettings(shard_number=3)},
            "found shard_number= and settings with shard_number; expected one of them",
        ),
    ],
)
def test_names_that_would_have_no_effect_are_refused_with_ours(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as refusal:
        QdrantChunkStore("docs", location=":memory:", **options)
    assert "sesame" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_adding_a_chunk_again_keeps_the_vectors_of_others() -> None:
    """A hybrid collection of LlamaIndex's own store: sparse and further dense vectors stay."""
    client = QdrantClient(location=":memory:")
    client.create_collection(
        "docs",
        vectors_config={
            "text-dense": m.VectorParams(size=8, distance=m.Distance.COSINE),
            "title": m.VectorParams(size=2, distance=m.Distance.COSINE),
        },
        sparse_vectors_config={"text-sparse-new": m.SparseVectorParams()},
    )
    sparse = m.SparseVector(indices=[3, 70], values=[0.5, 0.25])
    nodes = make_nodes(3)
    for node in nodes:
        node.id_ = node.node_id.replace("node-", "00000000-0000-4000-8000-00000000000")
    with QdrantChunkStore("docs", client=client, vector_name="text-dense") as store:
        store.add(nodes[:2])
        vectors = {"text-sparse-new": sparse, "title": [0.6, 0.8]}
        client.update_vectors("docs", [m.PointVectors(id=nodes[0].node_id, vector=vectors)])
        store.add(nodes)
        store.replace_document("doc", nodes)
    found = client.retrieve("docs", [node.node_id for node in nodes], with_vectors=True)
    kept = {record.id: record.vector for record in found}
    assert kept[nodes[0].node_id]["text-sparse-new"] == sparse
    assert kept[nodes[0].node_id]["title"] == pytest.approx([0.6, 0.8])
    assert "text-sparse-new" not in kept[nodes[1].node_id]
    assert len(kept) == 3
    client.close()


@pytest.mark.parametrize(
    "options",
    [
        {"enable_hybrid": True},
        {"enable_native_bm25": True},
        {"enable_hybrid": True, "fastembed_sparse_model": "Qdrant/bm25"},
        {"bm25_config": {"language": "german", "k": 1.5, "avg_len": 80}},
    ],
)
def test_what_others_say_for_hybrid_search_keeps_words_here(options: dict[str, Any]) -> None:
    with QdrantChunkStore("docs", location=":memory:", **options) as store:
        assert store.lexical is not None
        german = "bm25_config" in options
        assert (store.lexical.language, store.lexical.k) == (("german", 1.5) if german else ("english", 1.2))
        store.add(make_nodes(3))
        assert store.info().legs.lexical == store.lexical
