"""Writers at once: at any moment a whole version of a document is there, and in the end one whole version.

The schedules are forced: every operation of an engine is one step, and a seed says who takes the next.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from rag_embed.errors import StoreError
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.paging import scroll_all
from rag_embed.qdrant.points import point_id
from rag_embed.qdrant.port import run_blocking
from tests.qdrant_cases import ask, make_nodes
from tests.qdrant_standin import serve

ENGINES = ["memory", "folder", "wire"]
VERSIONS = {"old": range(5), "left": range(2, 8), "right": range(4, 12)}
"""Chunks of each version: some are shared, as those of equal text are."""


class Stepping:
    """An engine whose every operation first lets others go ahead."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.where = engine.where

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        operation = getattr(self._engine, name)

        async def later(*args: Any, **options: Any) -> Any:
            await Turn()
            return await operation(*args, **options)

        return later


class Turn:
    def __await__(self) -> Iterator[None]:
        yield


def interleave(flows: dict[str, Coroutine[Any, Any, Any]], seed: int, check: Callable[[str], None]) -> None:
    """Drive coroutines step by step in an order that the seed decides, looking at the store after each."""
    order = random.Random(seed)
    waiting = dict(flows)
    while waiting:
        name = order.choice(sorted(waiting))
        try:
            waiting[name].send(None)
        except StopIteration:
            del waiting[name]
        check(name)


def version(name: str, shared_ids: bool) -> list[Any]:
    nodes = make_nodes(12, prefix="chunk" if shared_ids else name)
    return [nodes[index] for index in VERSIONS[name]]


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantChunkStore]:
    if request.param == "memory":
        client = QdrantClient(location=":memory:")
        with QdrantChunkStore("docs", client=client) as opened:
            yield opened
        client.close()
    elif request.param == "folder":
        with QdrantChunkStore("docs", path=tmp_path) as opened:
            yield opened
    else:
        with serve() as server, QdrantChunkStore("docs", url=server.url) as opened:
            yield opened


def replace_at_once(store: QdrantChunkStore, seed: int) -> None:
    """Two writers replace one document; a third empties it in some schedules, a fourth adds elsewhere."""
    order = random.Random(f"kind {seed}")
    shares_ids, empties, deletes = order.random() < 0.5, order.random() < 0.25, order.random() < 0.25
    store.delete_nodes([f"{prefix}-{i}" for prefix in ("chunk", *VERSIONS) for i in range(12)])
    if order.random() < 0.5:
        store.add(version("old", shares_ids))  # without a version, as `add` and LlamaIndex write
    else:
        store.replace_document("doc", version("old", shares_ids))
    store.add(make_nodes(3, document="other", prefix="other"))
    engine = Stepping(store._connection.blocking())
    chunks = {name: version(name, shares_ids) for name in VERSIONS}
    wholes = {name: {point_id(node.node_id) for node in nodes} for name, nodes in chunks.items()}

    def collection() -> Any:
        return QdrantChunkStore("docs", client=QdrantClient(location=":memory:"))._collection

    flows = {name: collection().replace_document(engine, "doc", chunks[name]) for name in ("left", "right")}
    if empties:
        flows["empty"] = collection().replace_document(engine, "doc", [])
    if deletes:
        flows["delete"] = collection().delete_document(engine, "doc")

    def found() -> set[Any]:
        points = run_blocking(scroll_all(store._connection.blocking(), None, None, keys=["doc_id"]))
        return {point.id for point in points if point.payload["doc_id"] == "doc"}

    def check(name: str) -> None:
        if not empties and not deletes:
            there = found()
            assert any(whole <= there for whole in wholes.values()), (seed, name, "no whole version")

    interleave(flows, seed, check)
    left = found()
    whole = [wholes["left"], wholes["right"]]
    assert left in whole or (not left and (empties or deletes)), (seed, left)
    assert store.count() == len(left) + 3


@pytest.mark.parametrize("seed", range(12))
def test_replacing_a_document_twice_at_once_leaves_one_whole_version(
    store: QdrantChunkStore, seed: int
) -> None:
    replace_at_once(store, seed)


@pytest.mark.slow
def test_500_interleavings_of_writers_lose_no_point(store: QdrantChunkStore) -> None:
    for seed in range(500):
        replace_at_once(store, seed)


def test_many_tasks_that_replace_a_document_leave_one_of_theirs() -> None:
    """Real threads against the stand-in, each with a client of its own."""
    with serve() as server:
        stores = [QdrantChunkStore("docs", url=server.url) for _ in range(6)]
        stores[0].add(make_nodes(4))
        versions = [make_nodes(3 + i, prefix=f"v{i}") for i in range(6)]
        start = threading.Barrier(6)

        def write(number: int) -> None:
            start.wait()
            stores[number].replace_document("doc", versions[number])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = {node.node_id for node in stores[0].get_nodes()}
        assert left in [{node.node_id for node in nodes} for nodes in versions]
        for store in stores:
            store.close()


def test_a_writer_that_died_half_way_is_cleared_away_by_the_next(store: QdrantChunkStore) -> None:
    store.replace_document("doc", make_nodes(4))
    engine = Stepping(store._connection.blocking())
    dying = store._collection.replace_document(engine, "doc", make_nodes(3, prefix="dead"))
    while store.count() == 4:
        dying.send(None)
    dying.close()
    assert store.count() == 7
    store.replace_document("doc", make_nodes(2, prefix="new"))
    assert sorted(node.node_id for node in store.get_nodes()) == ["new-0", "new-1"]


def test_memory_opened_by_many_threads_at_once_is_one_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened a database of its own would lose what it writes."""
    from rag_embed.qdrant import connect

    class Slow(QdrantClient):
        def __init__(self, *args: Any, **options: Any) -> None:
            threading.Event().wait(0.05)
            super().__init__(*args, **options)

    monkeypatch.setattr(connect, "QdrantClient", Slow)
    with QdrantChunkStore("docs", location=":memory:") as store:
        start = threading.Barrier(8)

        def write(number: int) -> None:
            start.wait()
            store.add(make_nodes(5, prefix=f"thread{number}", document=f"{number}"))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 40


def test_stores_that_share_a_client_in_memory_write_one_after_another() -> None:
    client = QdrantClient(location=":memory:")
    stores = [QdrantChunkStore("docs", client=client) for _ in range(4)]
    engines = [store._connection.blocking() for store in stores]
    assert len({id(engine.writing) for engine in engines}) == 1
    threads = [
        threading.Thread(target=store.add, args=(make_nodes(50, prefix=f"store{number}"),))
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].count() == 200
    client.close()


def test_a_question_before_the_first_document_finds_nothing(store: QdrantChunkStore) -> None:
    result = store.query(ask(make_nodes(1)[0].embedding))
    assert (result.nodes, result.similarities, result.ids) == ([], [], [])
    assert store.get_nodes() == []
    assert store.count() == 0


def test_a_closed_store_says_so(store: QdrantChunkStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()
