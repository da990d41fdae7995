"""Shards by key, consistency, aliases and snapshots: what is sent, checked against the client's own models.

There is no cluster here: the stand-in answers as one node whose shards have keys. What a real one does with
these requests is Qdrant's, and was not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from qdrant_client import QdrantClient, models

from rag_embed.errors import InputError, StoreError
from rag_embed.qdrant import ClusterOptions, CollectionSettings, QdrantChunkStore
from rag_embed.qdrant.filters import to_condition
from tests.qdrant_cases import ask, make_nodes, make_vectors, where
from tests.qdrant_standin import StandIn, serve

REGIONS = ("eu", "us", "asia")
BY_REGION = ClusterOptions(shard_key="region", shard_keys=REGIONS)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serve() as state:
        yield state


@pytest.fixture
def store(server: StandIn) -> Iterator[QdrantChunkStore]:
    with QdrantChunkStore("docs", url=server.url, lexical=True, cluster=BY_REGION) as store:
        yield store


def in_regions(count: int = 4) -> list[TextNode]:
    return [
        node
        for seed, region in enumerate(REGIONS)
        for node in make_nodes(count, document=f"doc-{region}", prefix=region, seed=seed, region=region)
    ]


def bodies(server: StandIn) -> list[tuple[str, str, bytes]]:
    """Record what is asked of the server from now on."""
    seen: list[tuple[str, str, bytes]] = []
    answer = server.answer

    def watch(method: str, path: str, body: bytes) -> Any:
        seen.append((method, path, body))
        return answer(method, path, body)

    server.answer = watch  # type: ignore[method-assign]
    return seen


def test_a_write_goes_to_the_shard_that_the_metadata_name(server: StandIn, store: QdrantChunkStore) -> None:
    nodes = in_regions()
    store.add(nodes)
    request = server.created["docs"]
    assert request.sharding_method == models.ShardingMethod.CUSTOM
    assert server.shard_keys["docs"] == list(REGIONS)
    points = server.database.scroll("docs", limit=99)[0]
    assert len(points) == 12
    assert all(server.shard_of["docs"][point.id] == point.payload["region"] for point in points)
    assert sorted(node.node_id for node in store.get_nodes()) == sorted(node.node_id for node in nodes)


def test_a_read_asks_the_shards_that_its_filter_demands(server: StandIn, store: QdrantChunkStore) -> None:
    store.add(in_regions())
    seen = bodies(server)
    vector = make_vectors(1)[0]
    assert len(store.query(ask(vector, 99, filters=where("region", "eu"))).ids) == 4
    assert len(store.query(ask(vector, 99)).ids) == 12
    hybrid = {"mode": VectorStoreQueryMode.HYBRID, "query_str": "text 1", "filters": where("region", "us")}
    found = store.query(ask(vector, 99, **hybrid))
    assert {node.metadata["region"] for node in found.nodes} == {"us"}
    assert store.count(where("region", "asia")) == 4
    assert len(store.get_nodes(filters=where("region", "eu"))) == 4
    kinds = {"query": models.QueryRequest, "count": models.CountRequest, "scroll": models.ScrollRequest}
    asked = [
        (kind, model.model_validate_json(body).shard_key)
        for _, path, body in seen
        for kind, model in kinds.items()
        if path.split("?")[0].endswith(f"points/{kind}")
    ]
    assert asked == [("query", ["eu"]), ("query", None), ("count", ["asia"]), ("scroll", ["eu"])]
    (batch,) = [body for _, path, body in seen if "query/batch" in path]
    searches = models.QueryRequestBatch.model_validate_json(batch).searches
    assert [search.shard_key for search in searches] == [["us"], ["us"]]


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        (where("region", "eu"), ["eu"]),
        (where("other", "eu"), None),
        (None, None),
    ],
)
def test_shards_of_a_filter(condition: Any, keys: list[str] | None) -> None:
    assert BY_REGION.keys_of(to_condition(condition)) == keys


def test_only_what_must_hold_names_a_shard() -> None:
    eu, us = (
        models.FieldCondition(key="region", match=models.MatchValue(value=value)) for value in ("eu", "us")
    )
    several = models.FieldCondition(key="region", match=models.MatchAny(any=["us", "asia"]))
    cases = (
        (models.Filter(must=[models.Filter(must=[eu])]), ["eu"]),
        (models.Filter(must=eu), ["eu"]),
        (models.Filter(must=[several]), ["us", "asia"]),
        (models.Filter(must=[several, us]), ["us"]),
        (models.Filter(must=[eu, us]), None),
        (models.Filter(should=[eu, us]), None),
        (models.Filter(must_not=[eu]), None),
        (models.Filter(must=[models.Filter(should=[eu]), several]), ["us", "asia"]),
    )
    for condition, keys in cases:
        assert BY_REGION.keys_of(condition) == keys, condition


def test_replacing_and_deleting_reach_every_shard(server: StandIn, store: QdrantChunkStore) -> None:
    store.add(in_regions())
    moved = make_nodes(2, document="doc-eu", prefix="moved", seed=9, region="us")
    store.replace_document("doc-eu", moved)
    assert store.count(where("region", "eu")) == 0
    assert store.count_by_document() == {"doc-asia": 4, "doc-eu": 2, "doc-us": 4}
    store.delete("doc-asia")
    store.delete_nodes(["us-0"])
    store.delete_nodes(filters=where("region", "us"), node_ids=["us-1"])
    assert store.count() == 4


def test_a_chunk_without_its_shard_is_refused_before_anything_is_written(
    server: StandIn, store: QdrantChunkStore
) -> None:
    good = in_regions(1)
    for value, reason in (
        (None, "has region=None in its metadata, which names its shard; expected text or a whole number"),
        (True, "has region=True"),
        (
            "mars",
            r"has region='mars'; expected one of the shard keys \['eu', 'us', 'asia'\]. Make",
        ),
    ):
        bad = make_nodes(1, prefix="bad", **({} if value is None else {"region": value}))
        with pytest.raises(InputError, match=reason):
            store.add([*good, *bad])
    assert store.info() is None


def test_a_call_may_name_its_shards(server: StandIn) -> None:
    """As LlamaIndex's own store does: custom sharding, keys, and a function that chooses among them."""
    chosen = {"bob": "eu", "eve": ["us", "asia"]}
    options: dict[str, Any] = {
        "sharding_method": models.ShardingMethod.CUSTOM,
        "shard_number": 2,
        "replication_factor": 2,
        "shard_keys": list(REGIONS),
        "shard_key_selector_fn": chosen.__getitem__,
    }
    nodes = make_nodes(3)
    with QdrantChunkStore("docs", url=server.url, **options) as store:
        store.add(nodes, shard_identifier="bob")
        assert set(server.shard_of["docs"].values()) == {"eu"}
        query = ask(nodes[0].embedding, 9)
        assert len(store.query(query, shard_identifier="bob").ids) == 3
        assert store.query(query, shard_identifier="eve").ids == []
        assert asyncio.run(in_loop(store, query)) == (3, 0)
        assert store.get_nodes(shard_identifier="eve") == []
        store.delete("doc", shard_identifier="eve")
        assert store.count() == 3
        store.delete("doc")
        assert store.count() == 0
        with pytest.raises(StoreError, match="Shard key not specified"):
            store.add(nodes)
    with (
        QdrantChunkStore("docs", url=server.url, shard_keys=["eu"]) as plain,
        pytest.raises(InputError, match=r"shard_identifier=1\.5 means 1\.5; expected a shard key"),
    ):
        plain.add(nodes, shard_identifier=1.5)


async def in_loop(store: QdrantChunkStore, query: Any) -> tuple[int, int]:
    try:
        found = [len((await store.aquery(query, shard_identifier=name)).ids) for name in ("bob", "eve")]
        return found[0], found[1]
    finally:
        await store._connection.close_loop()


def test_one_more_shard(server: StandIn, store: QdrantChunkStore) -> None:
    store.add(in_regions())
    store.create_shard_key("mars")
    more = BY_REGION.model_copy(update={"shard_keys": (*REGIONS, "mars")})
    with QdrantChunkStore("docs", url=server.url, cluster=more) as other:
        other.add(make_nodes(2, prefix="mars", region="mars"))
        assert other.count(where("region", "mars")) == 2


def test_consistency_is_passed_on(server: StandIn) -> None:
    options = ClusterOptions(read_consistency="majority", write_ordering="strong")
    settings = CollectionSettings(
        shard_number=6, replication_factor=2, write_consistency_factor=2, sharding_method="auto"
    )
    nodes = make_nodes(3)
    seen = bodies(server)
    with QdrantChunkStore("docs", url=server.url, lexical=True, cluster=options, settings=settings) as store:
        store.add(nodes)
        store.query(ask(nodes[0].embedding))
        store.query(ask(nodes[0].embedding, query_str="text", mode=VectorStoreQueryMode.HYBRID))
        store.get_nodes()
        store.get_vectors(["node-1"])
        store.delete("doc")
    request = server.created["docs"]
    assert (request.shard_number, request.replication_factor, request.write_consistency_factor) == (6, 2, 2)
    assert request.sharding_method == models.ShardingMethod.AUTO
    for method, path, _ in seen:
        if path.startswith("/collections/docs/points") and "count" not in path:
            writes = method == "PUT" or "delete" in path
            assert ("ordering=strong" if writes else "consistency=majority") in path, path


@pytest.mark.parametrize("place", ["folder", "memory", "client"])
def test_one_shard_refuses_what_only_a_cluster_does(place: str, tmp_path: Path) -> None:
    where_: dict[str, Any] = {
        "folder": {"path": tmp_path / "index"},
        "memory": {"location": ":memory:"},
        "client": {"client": QdrantClient(":memory:")},
    }[place]
    named = "folder '.*index'" if place == "folder" else ":memory:"
    for options, name in (
        ({"cluster": {"shard_key": "region"}}, "cluster.shard_key"),
        ({"cluster": {"read_consistency": 2}}, "cluster.read_consistency"),
        ({"cluster": {"write_ordering": "strong"}}, "cluster.write_ordering"),
        ({"settings": {"replication_factor": 2}}, "settings.replication_factor"),
        ({"settings": {"shard_number": 3}}, "settings.shard_number"),
        ({"settings": {"sharding_method": "custom"}}, "settings.sharding_method"),
        ({"shard_keys": ["eu"]}, "cluster.shard_keys"),
        ({"shard_key_selector_fn": str}, "cluster.shard_key_selector_fn"),
    ):
        with pytest.raises(InputError, match=f"^{name} for a collection in {named}: .*one shard.*url="):
            QdrantChunkStore("docs", **where_, **options)
    assert not (tmp_path / "index").exists()
    with QdrantChunkStore("docs", **where_, settings={"shard_number": 1, "replication_factor": 1}) as store:
        store.add(make_nodes(1))
        with pytest.raises(InputError, match=r"shard_identifier='eu' for .*one shard"):
            store.query(ask(make_vectors(1)[0]), shard_identifier="eu")
        for call in (
            store.create_snapshot,
            store.list_snapshots,
            lambda: store.restore_snapshot("x"),
            lambda: store.point_alias("live"),
            lambda: store.create_shard_key("eu"),
        ):
            with pytest.raises(InputError, match=r"\(\) was called for a collection in .*expected a server"):
                call()


def test_shards_that_are_named_and_left_to_the_server_contradict(server: StandIn) -> None:
    with pytest.raises(InputError, match="sharding_method is auto, and the store is given shard keys"):
        QdrantChunkStore("docs", url=server.url, shard_keys=["eu"], settings={"sharding_method": "auto"})
    with pytest.raises(InputError, match="found shard_keys= and cluster with shard_keys"):
        QdrantChunkStore("docs", url=server.url, shard_keys=["eu"], cluster={"shard_keys": ["us"]})


def test_an_alias_is_switched_under_a_running_reader(server: StandIn) -> None:
    old, new = (QdrantChunkStore(name, url=server.url) for name in ("docs-1", "docs-2"))
    with old, new, QdrantChunkStore("live", url=server.url) as reader:
        old.add(make_nodes(2, prefix="old"))
        new.add(make_nodes(3, prefix="new"))
        old.point_alias("live")
        assert [node.node_id for node in reader.get_nodes()] == [node.node_id for node in old.get_nodes()]
        server.requests.clear()
        new.point_alias("live")
        assert len(server.sent("POST /collections/aliases")) == 1, "one step"
        assert reader.count() == 3
        assert {node.node_id[:3] for node in reader.get_nodes()} == {"new"}
        with pytest.raises(StoreError):
            QdrantChunkStore("nothing", url=server.url).point_alias("live")
        assert reader.count() == 3


def test_snapshots_are_made_listed_and_restored(server: StandIn) -> None:
    with QdrantChunkStore("docs", url=server.url) as store:
        store.add(make_nodes(4))
        name = store.create_snapshot()
        assert store.list_snapshots() == [name]
        assert asyncio.run(_names(store)) == [name]
        store.delete("doc")
        seen = bodies(server)
        store.restore_snapshot(f"file:///qdrant/snapshots/docs/{name}")
        assert store.count() == 4
        (recovering,) = [body for _, path, body in seen if path.split("?")[0].endswith("/snapshots/recover")]
        assert models.SnapshotRecover.model_validate_json(recovering).priority == "snapshot"


async def _names(store: QdrantChunkStore) -> list[str]:
    try:
        return await store.alist_snapshots()
    finally:
        await store._connection.close_loop()


def test_a_copy_into_a_cluster_goes_to_its_shards(server: StandIn, tmp_path: Path) -> None:
    with (
        QdrantChunkStore("docs", path=tmp_path) as source,
        QdrantChunkStore("docs", url=server.url, cluster=BY_REGION, settings={"shard_number": 2}) as target,
    ):
        source.add(in_regions())
        assert source.copy_to(target).is_equal
        assert source.copy_to(target).written == 0
        assert sorted(server.shard_of["docs"].values()) == sorted(REGIONS * 4)
        assert server.created["docs"].shard_number == 2
