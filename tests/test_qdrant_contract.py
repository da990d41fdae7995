"""What the store promises, on every engine: memory, folder, REST against the stand-in, a real server."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilters, VectorStoreQueryMode
from qdrant_client import QdrantClient, models

from rag_embed.errors import (
    DimensionMismatchError,
    FingerprintMismatchError,
    InputError,
    MissingVectorError,
    NonFiniteError,
    StoreError,
    UnsupportedQueryError,
)
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, VectorStorage
from rag_embed.qdrant.queries import MODE_OPTIONS
from tests.qdrant_cases import ask, make_nodes, make_vectors, nearest, where
from tests.qdrant_standin import serve

Open = Callable[..., QdrantChunkStore]
SERVER = os.environ.get("QDRANT_URL")


def server_param(name: str) -> object:
    skip = pytest.mark.skipif(SERVER is None, reason="QDRANT_URL is not set")
    return pytest.param(name, marks=[pytest.mark.server, skip])


@pytest.fixture(params=["memory", "folder", "wire", server_param("server"), server_param("server-grpc")])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open stores of one collection; each sees what the others wrote."""
    stores: list[QdrantChunkStore] = []

    def remember(store: QdrantChunkStore) -> QdrantChunkStore:
        stores.append(store)
        return store

    if request.param == "memory":
        client = QdrantClient(location=":memory:")
        yield lambda name="docs", **options: remember(QdrantChunkStore(name, client=client, **options))
        client.close()
    elif request.param == "folder":
        yield lambda name="docs", **options: remember(QdrantChunkStore(name, path=tmp_path, **options))
        for store in stores:
            store.close()
    elif request.param == "wire":
        with serve() as server:
            yield lambda name="docs", **options: remember(QdrantChunkStore(name, url=server.url, **options))
            for store in stores:
                store.close()
    else:
        unique = f"rag-embed-test-{uuid.uuid4().hex[:8]}"
        yield lambda name="docs", **options: remember(
            QdrantChunkStore(
                f"{unique}-{name}",
                url=SERVER,
                api_key=os.environ.get("QDRANT_API_KEY"),
                prefer_grpc=request.param == "server-grpc",
                **options,
            )
        )
        for store in stores:
            store.clear()
            store.close()


def test_round_trip(open_store: Open) -> None:
    store = open_store()
    nodes = make_nodes(30)
    assert store.add(nodes) == [node.node_id for node in nodes]
    assert store.count() == 30
    found = store.query(ask(nodes[3].embedding, top_k=7))
    assert found.ids == nearest(nodes, nodes[3].embedding, 7)
    assert found.ids == [node.node_id for node in found.nodes]
    assert found.similarities[0] == pytest.approx(1.0, abs=1e-6)
    assert found.similarities == sorted(found.similarities, reverse=True)
    assert found.nodes[0].embedding is None
    best = found.nodes[0].model_copy(update={"embedding": nodes[3].embedding})
    assert best == nodes[3]


def test_stored_vectors_come_back_on_request(open_store: Open) -> None:
    nodes = make_nodes(12)
    open_store().add(nodes)
    store = open_store(return_vectors=True)
    for node in store.query(ask(nodes[0].embedding)).nodes:
        original = next(other for other in nodes if other.node_id == node.node_id)
        np.testing.assert_allclose(node.embedding, original.embedding, atol=1e-6)
    wanted = ["node-7", "node-2", "node-11"]
    vectors = store.get_vectors(wanted)
    assert list(vectors) == wanted
    np.testing.assert_allclose(vectors["node-2"], nodes[2].embedding, atol=1e-6)
    with pytest.raises(MissingVectorError, match=r"no vector for 1 of 2 nodes: 'nobody'"):
        store.get_vectors(["node-1", "nobody"])
    assert store.get_vectors([]) == {}


def test_get_nodes_pages_through_everything(open_store: Open) -> None:
    store = open_store()
    nodes = make_nodes(1_100)
    store.add(nodes)
    assert {node.node_id for node in store.get_nodes()} == {node.node_id for node in nodes}
    some = store.get_nodes(node_ids=["node-5", "node-1", "nobody"])
    assert [node.node_id for node in some] == ["node-5", "node-1"]
    np.testing.assert_allclose(some[0].embedding, nodes[5].embedding, atol=1e-6)
    assert store.get_nodes(node_ids=[]) == []
    late = where("index", 1_097, FilterOperator.GTE)
    assert [n.node_id for n in store.get_nodes(["node-1098", "node-3"], late)] == ["node-1098"]
    assert store.count(late) == 3


def test_ids_are_deterministic_and_come_back(open_store: Open) -> None:
    store = open_store()
    ids = [str(uuid.uuid4()), "file.md#3", "42", "d41d8cd98f00b204e9800998ecf8427e", "é" * 300]
    nodes = [TextNode(id_=id_, text=id_, embedding=v) for id_, v in zip(ids, make_vectors(5), strict=True)]
    store.add(nodes)
    store.add(nodes)
    open_store().add(nodes)
    assert store.count() == 5
    assert sorted(node.node_id for node in store.get_nodes()) == sorted(ids)
    assert sorted(store.query(ask(nodes[0].embedding)).ids) == sorted(ids)
    assert list(store.get_vectors(ids)) == ids


def test_unfit_nodes_leave_the_store_unchanged(open_store: Open) -> None:
    store = open_store()
    store.add(make_nodes(3, fingerprint="A"))
    before = store.get_nodes()
    good = make_nodes(40, fingerprint="A", prefix="new")

    def spoil(**change: object) -> list[TextNode]:
        return [*good, good[0].model_copy(update={"id_": "bad", **change})]

    vector = list(good[0].embedding)
    for value in (float("nan"), float("inf"), 1e300):
        with pytest.raises(NonFiniteError, match=r"node 'bad' holds .* at position 1"):
            store.add(spoil(embedding=[vector[0], value, *vector[2:]]))
    with pytest.raises(MissingVectorError, match=r"1 of 41 nodes have no embedding \(first: 'bad'\)"):
        store.add(spoil(embedding=None))
    with pytest.raises(DimensionMismatchError, match=r"lengths \[7, 8\]"):
        store.add(spoil(embedding=vector[:7]))
    with pytest.raises(DimensionMismatchError, match=r"stores 8-dimensional vectors, made by 'A'.* has 6"):
        store.add(make_nodes(2, dim=6, fingerprint="A"))
    with pytest.raises(FingerprintMismatchError, match=r"made by 'A'; what is added has fingerprint 'B'"):
        store.add(make_nodes(2, fingerprint="B"))
    with pytest.raises(FingerprintMismatchError, match=r"made by 'A'; what is added has no fingerprint"):
        store.add(make_nodes(2))
    with pytest.raises(FingerprintMismatchError, match="made in 2 ways"):
        store.add([*good, *make_nodes(1, fingerprint="B")])
    with pytest.raises(InputError, match="cannot be written as JSON"):
        store.add(spoil(metadata={**good[0].metadata, "thing": object()}))
    with pytest.raises(InputError, match="lone surrogates"):
        store.add([*good, TextNode(text="\ud800", embedding=vector, metadata=good[0].metadata)])
    assert store.get_nodes() == before


def test_the_first_write_decides(open_store: Open) -> None:
    store = open_store()
    assert store.info() is None
    store.add(make_nodes(3, fingerprint="model-A/late"))
    schema = open_store().info()
    assert schema is not None
    assert (schema.dim, schema.fingerprint, schema.vector_name) == (8, "model-A/late", "dense")
    assert open_store(fingerprint="model-A/late").count() == 3
    with pytest.raises(FingerprintMismatchError, match=r"opened for vectors that has fingerprint 'model-B'"):
        open_store(fingerprint="model-B")
    store.delete("doc")
    with pytest.raises(FingerprintMismatchError):  # emptied, it still remembers
        store.add(make_nodes(3, fingerprint="model-B"))
    store.clear()
    assert store.info() is None
    store.add(make_nodes(3, dim=5, fingerprint="model-B"))
    assert store.info().fingerprint == "model-B"


def test_an_expected_fingerprint_binds_the_first_write(open_store: Open) -> None:
    store = open_store(fingerprint="A")
    with pytest.raises(FingerprintMismatchError, match="opened for fingerprint 'A'; what is added has 'B'"):
        store.add(make_nodes(1, fingerprint="B"))
    assert store.info() is None
    store.add(make_nodes(1, fingerprint="A"))


def test_without_fingerprint(open_store: Open) -> None:
    store = open_store()
    store.add(make_nodes(3))
    store.add(make_nodes(3, prefix="more"))
    with pytest.raises(FingerprintMismatchError, match="that carry no fingerprint; what is added has"):
        store.add(make_nodes(3, fingerprint="A"))
    assert store.count() == 6


def test_queries_that_cannot_be_answered(open_store: Open) -> None:
    store = open_store()
    vector = make_vectors(1)[0]
    store.add(make_nodes(5, fingerprint="A"))
    with pytest.raises(
        DimensionMismatchError, match=r"8-dimensional vectors, made by 'A'; the query .* has 3"
    ):
        store.query(ask([1.0, 2.0, 3.0]))
    with pytest.raises(NonFiniteError, match="the query vector holds nan"):
        store.query(ask([float("nan"), *vector[1:]]))
    with pytest.raises(InputError, match="no query_embedding"):
        store.query(ask(None))
    for mode in set(VectorStoreQueryMode) - set(MODE_OPTIONS):
        with pytest.raises(
            UnsupportedQueryError, match=f"query mode {mode.name} .*expected one of DEFAULT, HYBRID"
        ):
            store.query(ask(vector, mode=mode))


def test_restrictions_intersect(open_store: Open) -> None:
    store = open_store()
    nodes = [node for d in "abc" for node in make_nodes(4, document=d, prefix=d, seed=ord(d), letter=d)]
    store.add(nodes)
    vector = nodes[0].embedding

    def ids(**options: object) -> list[str]:
        return sorted(store.query(ask(vector, top_k=12, **options)).ids)

    assert ids(doc_ids=["a", "c"]) == [f"{d}-{i}" for d in "ac" for i in range(4)]
    assert ids(node_ids=["a-1", "b-2"]) == ["a-1", "b-2"]
    assert ids(node_ids=["a-1", "b-2"], doc_ids=["b"]) == ["b-2"]
    assert ids(node_ids=["a-1", "b-2"], filters=where("letter", "a")) == ["a-1"]
    assert ids(node_ids=["a-1"], filters=where("letter", "b")) == []
    assert ids(doc_ids=[]) == []
    assert len(ids(node_ids=[])) == 12  # VectorStoreIndex.as_retriever passes [] for "any"
    assert len(ids(filters=MetadataFilters(filters=[]))) == 12
    either = MetadataFilters(filters=[where("letter", "b"), where("letter", "c")], condition="or")
    assert ids(node_ids=["a-1", "b-2"], filters=either) == ["b-2"]


def test_mmr_prefers_variety(open_store: Open) -> None:
    store = open_store()
    base = np.eye(4)
    near = [base[0] + 0.1 * base[1] + e * base[3] for e in (0.0, 0.01, 0.02)]
    vectors = [*near, base[0] + 0.5 * base[2]]
    store.add([TextNode(id_=f"{i}", text="x", embedding=v.tolist()) for i, v in enumerate(vectors)])

    def ids(**options: object) -> list[str]:
        query = ask(base[0].tolist(), top_k=2, mode=VectorStoreQueryMode.MMR)
        return store.query(query, mmr_prefetch_k=4, **options).ids

    assert ids(mmr_threshold=1.0) == ["0", "1"]
    assert ids(mmr_threshold=0.3) == ["0", "3"]
    assert ids() == ["0", "3"]
    with pytest.raises(InputError, match="mmr_threshold is 2"):
        ids(mmr_threshold=2)


def test_replacing_a_document_leaves_no_orphan(open_store: Open) -> None:
    store = open_store()
    store.add(make_nodes(4, document="other", prefix="other"))
    store.add(make_nodes(6))
    new = make_nodes(3, seed=9)
    new[2].id_ = "fresh"
    assert store.replace_document("doc", new) == ["node-0", "node-1", "fresh"]
    assert sorted(n.node_id for n in store.get_nodes()) == sorted(
        ["node-0", "node-1", "fresh", *[f"other-{i}" for i in range(4)]]
    )
    np.testing.assert_allclose(store.get_vectors(["node-0"])["node-0"], new[0].embedding, atol=1e-6)
    with pytest.raises(InputError, match="do not belong to document 'doc'"):
        store.replace_document("doc", make_nodes(1, document="other"))
    with pytest.raises(NonFiniteError):
        store.replace_document("doc", [new[0].model_copy(update={"embedding": [np.nan] * 8})])
    assert store.count() == 7
    store.replace_document("doc", [])
    assert store.count() == 4


def test_deleting(open_store: Open) -> None:
    store = open_store()
    store.delete("doc")  # docstore upserts delete before the first add
    store.delete_nodes(["node-1"])
    for document in "ab":
        store.add(make_nodes(4, document=document, prefix=document, letter=document))
    store.add(make_nodes(2, document=None, prefix="loose"))
    for blank in ("", "  ", "None"):
        with pytest.raises(InputError, match="expected the id of one document"):
            store.delete(blank)
    for nothing in ({}, {"node_ids": []}, {"filters": MetadataFilters(filters=[])}):
        with pytest.raises(InputError, match="expected ids or filters"):
            store.delete_nodes(**nothing)
    assert store.count() == 10
    store.delete_nodes(["a-0", "b-0"], where("letter", "a"))
    store.delete_nodes([], where("letter", "a"))
    assert store.count() == 9
    store.delete_nodes(filters=where("letter", "a"))
    store.delete("b")
    store.delete("nobody")
    assert sorted(node.node_id for node in store.get_nodes()) == ["loose-0", "loose-1"]
    store.clear()
    store.clear()
    assert store.count() == 0
    assert store.get_nodes() == []


async def test_async_does_the_same(open_store: Open) -> None:
    nodes = make_nodes(20, fingerprint="A")
    async with open_store(return_vectors=True) as store:
        assert await store.ainfo() is None
        batches = [nodes[i : i + 5] for i in range(0, 20, 5)]
        await asyncio.gather(*(store.async_add(batch) for batch in batches))  # all of them find no collection
        assert await store.acount() == 20
        assert (await store.ainfo()).fingerprint == "A"
        found = await asyncio.gather(*(store.aquery(ask(node.embedding)) for node in nodes))
        assert [result.ids[0] for result in found] == [node.node_id for node in nodes]
        assert found[0].nodes[0].embedding is not None
        assert list(await store.aget_vectors(["node-3"])) == ["node-3"]
        assert len(await store.aget_nodes(filters=where("index", 9, FilterOperator.GT))) == 10
        await store.areplace_document("doc", nodes[:4])
        await store.adelete_nodes(["node-0"])
        assert await store.acount() == 3
        with pytest.raises(InputError):
            await store.adelete_nodes()
        with pytest.raises(DimensionMismatchError):
            await store.async_add(make_nodes(1, dim=3, fingerprint="A"))
        await store.adelete("doc")
        assert await store.acount() == 0
        await store.aclear()
        assert await store.ainfo() is None


def test_async_works_in_one_loop_after_another(open_store: Open) -> None:
    store = open_store()

    async def add_and_count(seed: int) -> int:
        await store.async_add(make_nodes(3, prefix=f"loop{seed}"))
        count = await store.acount()
        if store.url is not None:
            await store._connection.close_loop()
        return count

    assert [asyncio.run(add_and_count(seed)) for seed in range(3)] == [3, 6, 9]


def test_tenants_and_indexes(open_store: Open) -> None:
    store = open_store(tenant_key="owner", payload_indexes={"index": "integer", "a b": "keyword"})
    for owner in ("ann", "bob"):
        store.add(make_nodes(5, prefix=owner, owner=owner, **{"a b": owner}))
    vector = make_vectors(1)[0]
    assert {
        n.metadata["owner"] for n in store.query(ask(vector, 9, filters=where("owner", "bob"))).nodes
    } == {"bob"}
    assert len(store.query(ask(vector, 9, filters=where("a b", "ann"))).ids) == 5
    assert len(store.query(ask(vector, 9, filters=where("index", 3, FilterOperator.GTE))).ids) == 4


def test_settings_are_taken(open_store: Open) -> None:
    settings = CollectionSettings(
        distance=models.Distance.EUCLID,
        datatype=models.Datatype.FLOAT16,
        on_disk=True,
        on_disk_payload=True,
        hnsw_config=models.HnswConfigDiff(m=8),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
        ),
        shard_number=1,
        replication_factor=1,
        write_consistency_factor=1,
    )
    store = open_store(settings=settings, vector_name="chunk")
    nodes = make_nodes(10)
    store.add(nodes)
    schema = open_store().info()
    assert (schema.distance, schema.vector_name) == (models.Distance.EUCLID, "chunk")
    found = store.query(ask(nodes[4].embedding, 3))
    assert found.ids == nearest(nodes, nodes[4].embedding, 3)
    assert found.similarities[0] == pytest.approx(0.0, abs=1e-2)
    assert found.similarities == sorted(found.similarities, reverse=True)  # a distance, negated


STORAGES = [
    VectorStorage(encoding="float16"),
    VectorStorage(encoding="int8", oversampling=20),
    VectorStorage(encoding="binary", oversampling=20),
    VectorStorage(prefix_dim=5, oversampling=20),
    VectorStorage(encoding="int8", prefix_dim=5, oversampling=20),
    VectorStorage(encoding="binary", prefix_dim=5, oversampling=20),
]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_every_storage_gives_the_answers_of_whole_vectors(open_store: Open, storage: VectorStorage) -> None:
    """With as many candidates as there are chunks, only the whole vectors decide."""
    options = {"return_vectors": True, "tenant_key": "owner"}
    nodes = [n for o in ("ann", "bob") for n in make_nodes(40, prefix=o, document=o, seed=ord(o[0]), owner=o)]
    plain = open_store("plain", **options)
    plain.add(nodes)
    open_store(storage=storage, **options).add(nodes)
    store = open_store(**options)  # takes what is there
    schema = store.info()
    assert schema.encoding == storage.encoding
    assert (schema.prefix.dim if schema.prefix else None) == storage.prefix_dim
    store = open_store(storage=storage, **options)
    mmr = {"mode": VectorStoreQueryMode.MMR, "mmr_threshold": 0.4}
    for number in (3, 50):
        vector = nodes[number].embedding
        for asked in (
            {},
            {"filters": where("owner", "bob")},
            {"filters": where("index", 30, FilterOperator.GTE)},
            {"doc_ids": ["ann"]},
            {"node_ids": ["ann-3", "bob-7"]},
            mmr,
            {**mmr, "filters": where("owner", "ann")},
        ):
            found, expected = (s.query(ask(vector, 4, **asked)) for s in (store, plain))
            assert found.ids == expected.ids, asked
            np.testing.assert_allclose(found.similarities, expected.similarities, atol=2e-3)
            for node, other in zip(found.nodes, expected.nodes, strict=True):
                assert len(node.embedding) == 8
                np.testing.assert_allclose(node.embedding, other.embedding, atol=1e-3)
    store.replace_document("ann", nodes[:2])
    assert store.query(ask(nodes[1].embedding, 3, doc_ids=["ann"])).ids == ["ann-1", "ann-0"]
    np.testing.assert_allclose(store.get_vectors(["ann-0"])["ann-0"], nodes[0].embedding, atol=1e-3)
    assert len(store.get_nodes()) == 42


def test_a_search_looks_at_no_more_candidates_than_it_says(open_store: Open) -> None:
    """The prefix decides who is a candidate, the whole vector who wins among them."""
    rows = {"wins": [3.0, 0.0, 1.0], "loses": [5.0, 0.1, 9.0], "unseen": [5.0, 3.0, 0.1]}
    nodes = [TextNode(id_=name, text=name, embedding=row) for name, row in rows.items()]
    query = [5.0, 0.0, 1.0]
    storage = VectorStorage(prefix_dim=2, oversampling=2)
    store = open_store(storage=storage)
    store.add(nodes)
    assert store.query(ask(query, 1)).ids == ["wins"]  # of the two nearest by (5, 0)
    assert store.query(ask(query, 3)).ids == ["wins", "unseen", "loses"]
    narrow = open_store(storage=storage.model_copy(update={"oversampling": 1.0}))
    assert narrow.query(ask([5.0, 0.1, 1.0], 1)).ids == ["loses"]  # the nearest by (5, 0.1), and none else


def test_storage_is_fixed_by_the_first_write(open_store: Open) -> None:
    nodes = make_nodes(9)
    open_store(storage="int8").add(nodes)
    assert open_store(storage="int8").query(ask(nodes[2].embedding, 1)).ids == ["node-2"]
    for other, name in (
        ("binary", "binary"),
        (VectorStorage(encoding="int8", prefix_dim=4), "int8, prefix of 4"),
    ):
        expected = rf"keeps its vectors as int8; the store was opened for {name}\. Open it without storage="
        with pytest.raises(StoreError, match=expected):
            open_store(storage=other).add(nodes)
    assert open_store().count() == 9
    open_store().clear()
    store = open_store(storage="binary")
    store.add(nodes)
    assert (store.info().encoding, store.info().oversampling) == ("binary", 10.0)


def test_storages_that_make_no_sense(open_store: Open) -> None:
    with pytest.raises(InputError, match=r"prefix_dim is 8 for vectors called 'dense' of 8 components"):
        open_store(storage=VectorStorage(prefix_dim=8)).add(make_nodes(1))
    with pytest.raises(InputError, match=r"of 8 components; expected fewer, and a name"):
        open_store(storage=VectorStorage(prefix_dim=4), vector_name="").add(make_nodes(1))
    with pytest.raises(InputError, match=r"storage=int8 and settings with datatype"):
        open_store(storage="int8", settings=CollectionSettings(datatype="float32"))
    with pytest.raises(ValueError, match=r"oversampling is 3.0 for float16 vectors without a prefix"):
        VectorStorage(encoding="float16", oversampling=3.0)
    with pytest.raises(ValueError, match="'float32', 'float16', 'int8' or 'binary'"):
        open_store(storage="int4")
    assert open_store().info() is None


@pytest.mark.parametrize("storage", ["float16", "int8", "binary", VectorStorage(prefix_dim=96)], ids=str)
def test_integers_of_a_model_are_stored_exactly(open_store: Open, storage: str | VectorStorage) -> None:
    """Signed int8 outputs (pplx-embed) are told from the stored unit vectors, and compare by their cosine."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(4, 384))
    numbers = np.clip(np.round(40 * (centres[np.arange(30) % 4] + rng.normal(size=(30, 384)))), -128, 127)
    numbers[0, :2] = -128, 127
    nodes = [TextNode(id_=f"{i}", text="x", embedding=row.tolist()) for i, row in enumerate(numbers)]
    store = open_store(storage=storage)
    store.add(nodes)
    norms = np.linalg.norm(numbers, axis=1)
    stored = np.array(list(store.get_vectors([node.node_id for node in nodes]).values()))
    np.testing.assert_array_equal(np.round(stored * norms[:, None]), numbers)
    query = numbers[7] + rng.normal(size=384)
    cosines = numbers @ query / norms / np.linalg.norm(query)
    found = store.query(ask(query.tolist(), 3))
    assert found.ids == [str(row) for row in np.argsort(-cosines)[:3]]
    np.testing.assert_allclose(found.similarities, np.sort(cosines)[::-1][:3], atol=1e-3)


def test_bits_of_a_model_keep_their_direction(open_store: Open) -> None:
    rng = np.random.default_rng(6)
    bits = np.sign(rng.normal(size=(4, 256))[np.arange(40) % 4] + rng.normal(size=(40, 256)))
    store = open_store(storage="binary")
    store.add([TextNode(id_=f"{i}", text="x", embedding=row.tolist()) for i, row in enumerate(bits)])
    stored = np.array(list(store.get_vectors([f"{i}" for i in range(40)]).values()))
    np.testing.assert_array_equal(stored, bits * stored[0, 0] * bits[0, 0])
    cosines = bits @ bits[9] / 256
    np.testing.assert_allclose(
        store.query(ask(bits[9].tolist(), 10)).similarities, np.sort(cosines)[::-1][:10], atol=1e-3
    )
