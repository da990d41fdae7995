"""The embedded folder: what survives, who may open it, what lies in it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import portalocker
import pytest
import torch
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilters
from qdrant_client import QdrantClient, models

from rag_embed.errors import (
    InputError,
    MissingExtraError,
    StoreError,
    StoreLockedError,
    UnsupportedQueryError,
)
from rag_embed.llamaindex.context import stamp_node
from rag_embed.max_sim import TokenForm
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, edge_folder, edge_indexes
from rag_embed.qdrant.port import Payload, StoredPoint, run_blocking
from rag_embed.stamp import ChunkStamp
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
        assert store.check().is_sound
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


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, without the lock and what the engine keeps open."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_opening_a_folder_leaves_a_users_own_files_alone(tmp_path: Path) -> None:
    own = tmp_path / "docs" / "shard" / "segments" / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("three years of work")
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.info() is None
        assert store.count() == 0
        with pytest.raises(StoreError, match=r"shard holds 'segments', which rag-embed did not put there"):
            store.add(make_nodes(3))
        store.clear()
    assert own.read_text() == "three years of work"


def test_clearing_a_collection_leaves_a_users_own_files_alone(tmp_path: Path) -> None:
    own = tmp_path / "docs" / "shard" / "notes.txt"
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
        own.write_text("mine")
        store.clear()
        assert list(own.parent.iterdir()) == [own]
        with pytest.raises(StoreError, match=r"holds 'notes.txt'"):
            store.add(make_nodes(3))
        own.unlink()
        store.add(make_nodes(2))
        assert store.count() == 2


def test_an_index_that_lost_its_record_gets_it_back(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3, fingerprint="A"))
    (tmp_path / "docs" / "collection.json").unlink()
    with QdrantChunkStore("docs", path=tmp_path, fingerprint="A") as store:
        assert store.count() == 3
        assert store.check().is_sound


def test_an_index_whose_record_is_lost_for_good_is_explained_and_kept(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
    (tmp_path / "docs" / "collection.json").unlink()
    (tmp_path / "docs" / "ledger.db").unlink()
    before = files_in(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"holds an index, and its record .*collection.json is missing"):
            QdrantChunkStore("docs", path=tmp_path)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("step", ["write", "claim"])
def test_a_crash_during_creation_leaves_no_ruin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(folder: edge_folder.EdgeFolder, *_: object) -> None:
        if step == "claim":
            claim(folder)
        raise KeyboardInterrupt

    claim = edge_folder.EdgeFolder.claim
    with monkeypatch.context() as patch, QdrantChunkStore("docs", path=tmp_path) as store:
        patch.setattr(edge_folder.EdgeFolder, step, crash)
        with pytest.raises(KeyboardInterrupt):
            store.add(make_nodes(3))
    for _ in range(2):  # looking does not tidy up
        with QdrantChunkStore("docs", path=tmp_path) as store:
            assert store.info() is None
            assert (tmp_path / "docs" / "shard" / "edge_config.json").exists() == (step == "write")
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(5, dim=3))
        assert store.count() == 5
        assert not (tmp_path / "docs" / ".unfinished").exists()


def test_a_crash_during_clear_leaves_no_ruin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(3))
        patch.setattr(edge_folder.EdgeFolder, "_remove_shard", crash)
        with pytest.raises(KeyboardInterrupt):
            store.clear()
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.info() is None
        store.add(make_nodes(5, dim=3))
        assert store.count() == 5


def test_a_record_that_is_a_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "docs" / "collection.json").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"collection.json cannot be read \(Is a directory\); expected"):
        QdrantChunkStore("docs", path=tmp_path)


def test_a_folder_that_cannot_be_written_says_why_it_cannot_be_searched() -> None:
    with tempfile.TemporaryDirectory() as place:
        with QdrantChunkStore("docs", path=place) as store:
            store.add(make_nodes(3))
        with not_writable(Path(place)), pytest.raises(StoreError) as caught:
            QdrantChunkStore("docs", path=place)
        assert f"{Path(place).resolve() / 'docs'} cannot be written (Permission denied)" in str(caught.value)
        assert "copy it to where you may write" in str(caught.value)
        with not_writable(Path(place)), pytest.raises(StoreError, match="cannot be written"):
            QdrantChunkStore("other", path=place)


@contextlib.contextmanager
def not_writable(folder: Path) -> Iterator[None]:
    """Let a folder be read only; root, who may write everywhere, is somebody else meanwhile."""
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield
    for path, mode in modes.items():
        path.chmod(mode)


def test_a_full_disk_is_one_message_and_nothing_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = make_nodes(3)
    full = rf"the disk of {tmp_path / 'docs'} has [\d,]+ bytes free; expected at least 10,000,000,0[\d,]+ for"
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)
        with monkeypatch.context() as patch:
            patch.setattr(edge_folder, "RESERVED_BYTES", 10**16)
            writes: list[Callable[[], object]] = [
                lambda: store.add(make_nodes(2, prefix="more")),
                lambda: store.delete("doc"),
                lambda: store.replace_document("doc", nodes[:1]),
                store.optimize,
                store.check,
            ]
            for write in writes:
                with pytest.raises(StoreError, match=full):
                    write()
            assert store.query(ask(nodes[1].embedding, 3)).ids == nearest(nodes, nodes[1].embedding, 3)
    before = files_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(edge_folder, "RESERVED_BYTES", 10**16)
        with pytest.raises(StoreError, match=full):
            QdrantChunkStore("docs", path=tmp_path)
        with (
            QdrantChunkStore("new", path=tmp_path) as store,
            pytest.raises(StoreError, match="bytes free"),
        ):
            store.add(nodes)
    assert {name: content for name, content in files_in(tmp_path).items() if "docs" in name} == before
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.count() == 3


SMALL_DISK = """
mount -t tmpfs -o size=100m none {place} && {python} -W ignore - <<'END'
from rag_embed.errors import StoreError
from rag_embed.qdrant import QdrantChunkStore
from tests.qdrant_cases import make_nodes
acknowledged = 0
with QdrantChunkStore("docs", path="{place}") as store:
    try:
        for batch in range(100):
            acknowledged += len(store.add(make_nodes(500, dim=384, seed=batch, prefix=str(batch))))
    except StoreError as error:
        print(error)
with QdrantChunkStore("docs", path="{place}") as store:
    print(acknowledged, store.count(), store.check().is_sound)
END
"""


def test_the_room_asked_for_grows_with_words_and_token_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_chunk(words: int, tokens: int) -> TextNode:
        (node,) = make_nodes(1)
        node.text = " ".join(f"word{number:04}" for number in range(words))
        kept = TokenForm("float16", 1).keep(torch.ones(tokens, 8)).numpy()
        stamp_node(node, ChunkStamp("0" * 32, 0, 9, fingerprint="f"), tokens=kept)
        return node

    with QdrantChunkStore("docs", path=tmp_path, lexical=True, tokens=True) as store:
        store.add([make_chunk(10, 1)])
        monkeypatch.setattr(edge_folder, "RESERVED_BYTES", 10**16)

        def room_for(words: int, tokens: int) -> int:
            with pytest.raises(StoreError, match="bytes free") as refusal:
                store.add([make_chunk(words, tokens)])
            return int(re.search(r"at least ([\d,]+)", str(refusal.value))[1].replace(",", ""))

        assert room_for(10, 501) - room_for(10, 1) == 16 * 500 * 8
        text_bytes = 4 * 500 * len(" word0000")
        assert room_for(510, 1) - room_for(10, 1) == text_bytes + 16 * 2 * 500


def test_a_disk_that_fills_up_kills_nobody(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.call([unshare, "-rm", "true"], stderr=subprocess.DEVNULL):
        pytest.skip("this system lets nobody mount a small disk")
    script = SMALL_DISK.format(place=tmp_path, python=sys.executable)
    command = [unshare, "-rm", "sh", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if "mount:" in done.stderr:
        pytest.skip("this system lets nobody mount a small disk")
    message, numbers = done.stdout.splitlines()
    assert re.match(r"the disk of .*docs has [\d,]+ bytes free; expected at least [\d,]+ for", message)
    acknowledged, count, is_sound = numbers.split()
    assert 500 <= int(acknowledged) <= int(count) <= int(acknowledged) + 500
    assert (is_sound, done.returncode) == ("True", 0)


def test_a_point_that_cannot_be_read_is_named_and_can_be_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = make_nodes(5, document="good")
    deep: object = "x"
    for _ in range(130):
        deep = [deep]
    with QdrantChunkStore("docs", path=tmp_path) as store:

        def spoil(document: str) -> str:
            id_ = str(uuid.uuid5(uuid.NAMESPACE_DNS, document))
            payload: Payload = {"doc_id": document, "deep": deep}
            run_blocking(store.client.upsert([StoredPoint(id_, payload, [1.0] * 8)], "dense", None))
            return id_

        store.add(nodes)
        bad = spoil("bad")
        named = (
            rf"1 point\(s\) cannot be read back: '{bad}' \(of document 'bad'\).*delete_nodes\(\['{bad}'\]\)"
        )
        for ask_all in (store.get_nodes, lambda: store.get_nodes(filters=where("index", 3))):
            with pytest.raises(StoreError, match=named):  # the second one is a panic of the engine
                ask_all()
        report = store.check()
        assert "1 point(s) cannot be read" in " ".join(report.faults)
        assert len(store.get_nodes(filters=where("doc_id", "good"))) == 5
        assert len(store.get_nodes([node.node_id for node in nodes])) == 5
        assert len(store.get_vectors([node.node_id for node in nodes])) == 5
        store.delete_nodes([bad])
        assert len(store.get_nodes()) == 5
        spoil("worse")
        store.delete("worse")
        assert len(store.get_nodes()) == 5
        assert store.check().is_sound
        spoil("worst")
    assert not caplog.records
    # By now the engine cannot read its log any more.
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert "the log of" in caplog.text
        with pytest.raises(StoreError, match="of document 'worst'"):
            store.get_nodes()
        store.delete("worst")
        assert store.check().is_sound
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert len(store.get_nodes(filters=where("index", 3))) == 1
        assert store.count() == 5
    assert len(caplog.records) == 1


def test_what_the_engine_asserts_is_an_error_of_ours(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(1))
    (next((tmp_path / "docs").rglob("chunk_0.mmap"))).write_bytes(b"")
    with pytest.raises(StoreError), QdrantChunkStore("docs", path=tmp_path) as store:
        store.query(ask([1.0] * 8))


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
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path
        if path.suffix == ".json":
            json.loads(content)


def test_filters_index_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_indexes, "INDEX_FROM_POINTS", 100)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(99, kind="a"))
        vector = make_nodes(1)[0].embedding

        def indexed() -> set[str]:
            return set(run_blocking(store.client.describe()).indexed)

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


OPTIMIZER = """
import sys
from rag_embed.qdrant import QdrantChunkStore, edge_optimizing
edge_optimizing._OPTIMIZE = edge_optimizing._OPTIMIZE.replace(
    "import qdrant_edge", "import time; open(sys.argv[1] + '/started', 'w').close(); time.sleep(99)"
)
QdrantChunkStore("docs", path=sys.argv[1]).optimize()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only interruptions end the child")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sign: sign.name)
def test_an_interrupted_optimize_leaves_no_child(tmp_path: Path, sign: signal.Signals) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(300))
    command = [sys.executable, "-W", "ignore", "-c", OPTIMIZER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as parent:
        started = tmp_path / "docs" / "shard" / "started"
        wait_until(started.exists)
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.send_signal(sign)
        parent.wait(20)
    wait_until(lambda: not Path(f"/proc/{child}").exists())
    started.unlink()
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.count() == 300
        assert store.check().is_sound


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_text_filter_answers_alike_however_many_chunks_there_are(tmp_path: Path) -> None:
    nodes = make_nodes(edge_indexes.INDEX_FROM_POINTS)
    for node in nodes[:3]:
        node.metadata["notes"] = ["a bad thing", "a good thing"]
    nodes[3].metadata["notes"] = ["so bad that it is good"]
    with QdrantChunkStore("docs", path=tmp_path) as store:
        for part in (nodes[:-1], nodes[-1:]):
            store.add(part)
            for operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
                filters = where("notes", "bad good", operator)
                assert store.query(ask(nodes[0].embedding, 9, filters=filters)).ids == ["node-3"]


def test_integers_that_are_no_doubles_are_told_apart_or_refused(tmp_path: Path) -> None:
    nodes = make_nodes(4)
    values = [2**53 - 1, 2**53, 2**53 + 1, 5]
    for node, value in zip(nodes, values, strict=True):
        node.metadata["n"] = value
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(nodes)

        def found(value: object, operator: FilterOperator = FilterOperator.EQ) -> list[int]:
            got = store.query(ask(nodes[0].embedding, 9, filters=where("n", value, operator)))
            return sorted(node.metadata["n"] for node in got.nodes)

        for value in values:
            assert found(value) == [value]
        assert found(2**53 - 1, FilterOperator.GT) == [2**53, 2**53 + 1]
        assert found(2**53 - 1, FilterOperator.LTE) == [5, 2**53 - 1]
        for value in (2**53, float(2**53), -(2**60)):
            with pytest.raises(UnsupportedQueryError, match=r"compares 'n' as doubles.*2\*\*53"):
                found(value, FilterOperator.GT)


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
