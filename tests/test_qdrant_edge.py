"""The embedded folder: what survives, who may open it, what lies in it."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import portalocker
import pytest
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilters
from qdrant_client import QdrantClient, models

from rag_embed.errors import InputError, MissingExtraError, StoreError, StoreLockedError
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, edge_indexes
from tests.qdrant_cases import ask, make_nodes, nearest, where

ROOT = Path(__file__).parent.parent

WRITER = """
import sys
from rag_embed.qdrant import QdrantChunkStore
from tests.qdrant_cases import make_nodes
store = QdrantChunkStore("docs", path=sys.argv[1])
print("open", flush=True)
for batch in range(10_000):
    store.add(make_nodes(50, seed=batch, prefix=f"batch{batch}", document=f"doc{batch}", fingerprint="A"))
    print(batch, flush=True)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    writer = start_writer(tmp_path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    with pytest.raises(StoreLockedError, match=rf"open in another process \(id {writer.pid}\).*pass url="):
        QdrantChunkStore("docs", path=tmp_path)
    for _ in range(5):
        writer.stdout.readline()
    time.sleep(0.02)  # into the middle of a batch
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = 5 + len(writer.stdout.read().split())
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    with QdrantChunkStore("docs", path=tmp_path, fingerprint="A") as store:
        for batch in range(acknowledged):
            nodes = make_nodes(50, seed=batch, prefix=f"batch{batch}")
            vectors = store.get_vectors([node.node_id for node in nodes])
            np.testing.assert_allclose(list(vectors.values()), [n.embedding for n in nodes], atol=1e-6)
        assert acknowledged * 50 <= store.count() <= (acknowledged + 1) * 50
        store.add(make_nodes(50, seed=1, prefix="after", fingerprint="A"))


def test_it_opens_again(tmp_path: Path) -> None:
    nodes = make_nodes(30, fingerprint="A")
    with QdrantChunkStore("docs", path=tmp_path, payload_indexes={"index": "integer"}) as store:
        store.add(nodes)
        store.add([])
    with pytest.raises(StoreError, match="the store of 'docs' is closed"):
        store.count()
    with QdrantChunkStore("docs", path=str(tmp_path)) as store:
        assert store.info().fingerprint == "A"
        assert store.query(ask(nodes[2].embedding)).ids == nearest(nodes, nodes[2].embedding, 5)
        assert store.count(where("index", 3)) == 1
    with pytest.raises(StoreError, match="closed"):
        store.add(nodes)


def test_stores_of_one_process_share_the_folder(tmp_path: Path) -> None:
    first, second = (QdrantChunkStore("docs", path=tmp_path) for _ in range(2))
    other = QdrantChunkStore("other", path=tmp_path)
    first.add(make_nodes(3))
    assert (second.count(), other.count()) == (3, 0)
    copy = pickle.loads(pickle.dumps(second))
    again = QdrantChunkStore.from_dict(second.to_dict())
    assert (copy.count(), again.count()) == (3, 3)
    first.close()
    first.close()
    assert second.count() == 3
    for store in (second, copy, again, other):
        store.close()
    assert is_free(tmp_path)


def test_a_forgotten_store_frees_the_folder(tmp_path: Path) -> None:
    store = QdrantChunkStore("docs", path=tmp_path)
    store.add(make_nodes(3))
    assert not is_free(tmp_path)
    del store
    gc.collect()
    assert is_free(tmp_path)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.count() == 3


def is_free(path: Path) -> bool:
    """Whether another process could open the collection."""
    with (path / "docs" / ".lock").open("a") as handle:
        try:
            portalocker.lock(handle, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            return False
    return True


def test_a_forked_child_is_kept_out(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
        child = store._engine()
        child._process = os.getpid() + 1
        with pytest.raises(StoreLockedError, match="this is its child"):
            store.count()
        child._process = os.getpid()


def test_a_crash_during_creation_leaves_no_ruin(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
    (tmp_path / "docs" / "collection.json").unlink()  # written last
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.info() is None
        store.add(make_nodes(5, dim=3))
        assert store.count() == 5


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
    (tmp_path / "docs" / "collection.json").write_text("{")
    with pytest.raises(StoreError, match=r"collection.json is not a collection of this rag-embed"):
        QdrantChunkStore("docs", path=tmp_path)
    foreign = tmp_path / "foreign"
    client = QdrantClient(path=str(foreign))
    client.create_collection("docs", vectors_config=models.VectorParams(size=2, distance="Cosine"))
    client.close()
    with pytest.raises(StoreError, match="local mode, which unpickles its files"):
        QdrantChunkStore("docs", path=foreign)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "x" * 201, "nul\0"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a folder"):
        QdrantChunkStore(name, path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_the_folder_is_pickled(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(50, fingerprint="A"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"SQLite")), path
        if path.suffix == ".json":
            json.loads(content)


def test_filters_index_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_indexes, "INDEX_FROM_POINTS", 100)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(99, kind="a"))
        vector = make_nodes(1)[0].embedding
        indexed = store.client._indexed
        assert len(store.query(ask(vector, 200, filters=where("kind", "a"))).ids) == 99
        assert indexed() == {"doc_id", "ref_doc_id"}
        store.add(make_nodes(1, kind="a", prefix="one more"))
        assert len(store.query(ask(vector, 200, filters=where("kind", "a"))).ids) == 100
        assert store.query(ask(vector, 200, filters=where("index", 7))).ids == ["node-7"]
        assert indexed() == {"doc_id", "ref_doc_id", "kind", "index"}


def test_numbers_and_dates_under_one_key_never_hide_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_indexes, "INDEX_FROM_POINTS", 0)
    nodes = make_nodes(2)
    nodes[0].metadata["when"] = 2020
    nodes[1].metadata["when"] = "2020-05-01"
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)

        def found(*values: object, condition: str = "and") -> list[str]:
            parts = [where("when", value, FilterOperator.GTE) for value in values]
            filters = MetadataFilters(filters=parts, condition=condition)
            return sorted(store.query(ask(nodes[0].embedding, filters=filters)).ids)

        for _ in range(2):
            assert found(2000) == ["node-0"]
            assert found("2020-01-01") == ["node-1"]
            assert found(2000, "2020-01-01", condition="or") == ["node-0", "node-1"]


def test_queries_go_on_while_another_thread_writes(tmp_path: Path) -> None:
    nodes = make_nodes(2_000)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes[:500])
        writer = threading.Thread(target=lambda: [store.add(nodes[i : i + 500]) for i in (500, 1000, 1500)])
        writer.start()
        answers = 0
        while writer.is_alive():
            assert len(store.query(ask(nodes[0].embedding, 10)).ids) == 10
            answers += 1
        writer.join()
        assert answers > 5
        assert store.count() == 2_000


def test_optimizing_keeps_the_answers(tmp_path: Path) -> None:
    nodes = make_nodes(300)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)
        store.delete_nodes(["node-7"])
        store.optimize()
        kept = [node for node in nodes if node.node_id != "node-7"]
        assert store.count() == 299
        assert store.query(ask(nodes[5].embedding)).ids == nearest(kept, nodes[5].embedding, 5)


def test_quantization_is_passed_on(tmp_path: Path) -> None:
    kinds: dict[str, models.QuantizationConfig] = {
        "int8": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
        ),
        "product": models.ProductQuantization(product=models.ProductQuantizationConfig(compression="x4")),
        "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
    }
    for number, (name, kind) in enumerate(kinds.items()):
        settings = CollectionSettings(quantization_config=kind, datatype="uint8" if number == 0 else None)
        with QdrantChunkStore(f"docs{number}", path=tmp_path, settings=settings) as store:
            store.add(make_nodes(5))
            config = (tmp_path / f"docs{number}" / "shard" / "edge_config.json").read_text()
            assert json.loads(config)["vectors"]["dense"]["quantization_config"] is not None
            assert store.info().encoding == name
    turbo = CollectionSettings(
        quantization_config=models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(encoding="two_bits")
        )
    )
    with (
        QdrantChunkStore("turbo", path=tmp_path, settings=turbo) as store,
        pytest.raises(StoreError, match="Use a server"),
    ):
        store.add(make_nodes(1))


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rag_embed.qdrant")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    fresh = importlib.import_module("rag_embed.qdrant")
    with fresh.QdrantChunkStore("docs", location=":memory:") as store:
        assert store.count() == 0
    with pytest.raises(MissingExtraError, match=r"pip install 'rag-embed\[local\]', or pass url= or client="):
        fresh.QdrantChunkStore("docs", path=tmp_path)
