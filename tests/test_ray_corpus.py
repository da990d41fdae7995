"""Documents brought into a store by workers: the collection of a local run, whatever died on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from qdrant_client import QdrantClient

from rag_embed import ContextualEmbedding, Corpus, QdrantChunkStore
from rag_embed.errors import FingerprintMismatchError, InputError, StoreError
from rag_embed.llamaindex import SyncReport
from rag_embed.llamaindex.document_writer import DocumentWriter, WriteReport
from rag_embed.qdrant.revisions import REVISION_KEY
from tests.qdrant_standin import Failure, StandIn, serve

BAD = Document(text="half \ud83d of it", id_="d3")


def make_documents(count: int = 24) -> list[Document]:
    documents = [
        Document(
            text=f"Bridge {n} stands over the river. It was built in {1700 + n}. " * (1 + 7 * (n % 5)),
            id_=f"d{n}",
            metadata={"title": f"Bridge {n}"},
        )
        for n in range(count)
    ]
    documents[3:4] = [BAD] if count > 3 else []
    return documents


@pytest.fixture(scope="module")
def model() -> ContextualEmbedding:
    return ContextualEmbedding(strategy="late", dtype="float32", device="cpu")


def points_of(client: QdrantClient, name: str = "docs") -> dict[Any, tuple[Any, Any]]:
    """Every point: its payload and all its vectors, as they are, but for a number that is drawn at random."""
    points, _ = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
    for point in points:
        point.payload[REVISION_KEY].pop("number")
    return {point.id: (point.payload, point.vector) for point in points}


@pytest.fixture(scope="module")
def local(model: ContextualEmbedding) -> dict[Any, tuple[Any, Any]]:
    """The collection of a run in this process."""
    with serve() as server, QdrantChunkStore("docs", url=server.url, lexical=True, tokens=True) as store:
        Corpus(store, embed_model=model).sync(make_documents(), on_failure=lambda *_: None)
        return points_of(server.database)


def test_update_leaves_other_documents_alone(model: ContextualEmbedding) -> None:
    first, second = make_documents(2)
    with QdrantChunkStore("docs", location=":memory:") as store:
        corpus = Corpus(store, embed_model=model)
        assert corpus.update([first]).added == ("d0",)
        report = corpus.update([second])
        assert (report.added, report.removed, report.kept) == (("d1",), (), ())
        assert store.count_by_document() == {"d0": 1, "d1": 1}
        assert corpus.sync([second]).removed == ("d0",)


def test_a_writer_at_the_end_of_a_pipeline_returns_reports(model: ContextualEmbedding) -> None:
    client = QdrantClient(location=":memory:")
    opened: list[int] = []

    def open_store() -> QdrantChunkStore:
        opened.append(1)
        return QdrantChunkStore("docs", client=client)

    writer = DocumentWriter(open_store=open_store, embed_model=model)
    documents = make_documents(5)
    (node,) = IngestionPipeline(transformations=[writer], disable_cache=True).run(documents=documents)
    report = WriteReport.from_node(node)
    assert report.sync.added == ("d0", "d1", "d2", "d4")
    assert report.sync.failed == ("d3",)
    assert "lone surrogate" in report.failures["d3"]
    assert report.sync.chunks == report.sync.embedded == len(points_of(client))
    (again,) = writer(documents)
    assert WriteReport.from_node(again).sync.unchanged == ("d0", "d1", "d2", "d4")
    assert WriteReport.from_node(again).sync.embedded == 0
    assert opened == [1]
    client.close()


def test_a_writer_refuses_chunks_and_other_weights(model: ContextualEmbedding) -> None:
    def open_store() -> QdrantChunkStore:
        return QdrantChunkStore("docs", location=":memory:")

    with pytest.raises(InputError, match="1 of 1 nodes are no documents, the first is a TextNode"):
        DocumentWriter(open_store=open_store, embed_model=model)([TextNode(text="a chunk")])
    writer = DocumentWriter(open_store=open_store, embed_model=model, fingerprint="other")
    with pytest.raises(FingerprintMismatchError, match="Install the same model on all of them"):
        writer(make_documents(1))


def test_reports_are_joined_in_the_order_of_the_documents() -> None:
    parts = [
        SyncReport(("c",), ("d",), (), (), (), (), 2, 2),
        SyncReport(("b", "a"), (), (), ("e",), (), ("f",), 5, 3),
    ]
    joined = SyncReport.join(parts, "abcdef")
    assert joined == SyncReport(("a", "b", "c"), ("d",), (), ("e",), (), ("f",), 7, 5)


# What follows starts a real cluster of this machine, with two workers.


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    pytest.importorskip("llama_index.ingestion.ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # niced workers starve on a machine that is shared
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serve() as server:
        yield server


def run(open_store: Callable[[], QdrantChunkStore], model: ContextualEmbedding) -> WriteReport:
    from rag_embed.llamaindex.ray_corpus import RayCorpus

    corpus = RayCorpus(open_store, embed_model=model, workers=2, batch_documents=2)
    return corpus.update(make_documents())


def workers_of_this_process() -> list[int]:
    """Process ids of Ray's workers that run our transformation; the cluster's daemon is their parent."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    ours = {pid for pid, parent, _ in rows if int(parent) == os.getpid()}
    return [int(pid) for pid, parent, args in rows if parent in ours and args.startswith("ray::MapWorker")]


def kill_one(server: StandIn, pids: list[int]) -> None:
    """End a worker with signal 9 as soon as a part of the documents is written."""
    while len(server.sent("PUT /collections/docs/points")) < 4:
        time.sleep(0.01)
    pids.extend(workers_of_this_process())
    os.kill(pids[0], signal.SIGKILL)


DRIVER = """
    import sys
    from functools import partial

    import ray

    from rag_embed import ContextualEmbedding, QdrantChunkStore
    from rag_embed.llamaindex.ray_corpus import RayCorpus
    from tests.test_ray_corpus import make_documents

    if __name__ == "__main__":
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        corpus = RayCorpus(
            partial(QdrantChunkStore, "docs", url=sys.argv[1], lexical=True, tokens=True),
            embed_model=ContextualEmbedding(strategy="late", dtype="float32", device="cpu"),
            workers=1,
            batch_documents=2,
        )
        corpus.update(make_documents())
"""
"""A program with a cluster of its own, so that its end is the end of all that it started."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_driver_that_is_killed_leaves_what_a_second_run_completes(
    request: pytest.FixtureRequest,
    server: StandIn,
    model: ContextualEmbedding,
    local: dict[Any, Any],
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    root = str(Path(__file__).parent.parent)
    environment = {"PYTHONPATH": os.pathsep.join([root, *sys.path]), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_worker_niceness": "0"}
    driver = subprocess.Popen([sys.executable, str(script), server.url], env={**os.environ, **environment})
    try:
        while len(server.sent("PUT /collections/docs/points")) < 4:
            assert driver.poll() is None, f"the driver ended by itself, with {driver.returncode}"
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    # Ray's processes see that the driver is gone and end; until then a worker may store one more batch.
    kept = wait_until_nothing_is_written(server)
    assert 0 < len(kept) < len(local), "killed in the middle"
    assert kept.items() <= local.items(), "only whole points, as a local run makes them"
    request.getfixturevalue("ray")
    server.requests.clear()
    open_store = partial(QdrantChunkStore, "docs", url=server.url, lexical=True, tokens=True)
    report = run(open_store, model)
    assert report.sync.failed == ("d3",)
    assert report.sync.chunks == len(local)
    assert points_of(server.database) == local
    done = set(report.sync.unchanged)
    assert done == whole_documents(kept, local)
    assert report.sync.embedded == sum(1 for point in local.values() if document_of(point) not in done)


def document_of(point: tuple[Any, Any]) -> str:
    found: str = point[0]["ref_doc_id"]
    return found


def whole_documents(kept: dict[Any, Any], local: dict[Any, Any]) -> set[str]:
    """Documents all of whose chunks were kept."""
    missing = {document_of(point) for id_, point in local.items() if id_ not in kept}
    return {document_of(point) for point in kept.values()} - missing


def wait_until_nothing_is_written(server: StandIn, *, quiet_s: float = 10.0) -> dict[Any, tuple[Any, Any]]:
    count, since = -1, time.monotonic()
    while time.monotonic() - since < quiet_s:
        now = len(server.sent("PUT /collections/docs/points"))
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(0.1)
    return points_of(server.database)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of files and processes that it leaves open
class TestOnRay:
    def test_the_collection_is_that_of_a_local_run(
        self, ray: Any, server: StandIn, model: ContextualEmbedding, local: dict[Any, Any]
    ) -> None:
        open_store = partial(QdrantChunkStore, "docs", url=server.url, lexical=True, tokens=True)
        report = run(open_store, model)
        assert report.sync.added == tuple(f"d{n}" for n in range(24) if n != 3)
        assert report.sync.failed == ("d3",)
        assert "lone surrogate" in report.failures["d3"]
        assert report.sync.chunks == len(local)
        assert points_of(server.database) == local
        again = run(open_store, model)
        assert again.sync.embedded == 0
        assert again.sync.unchanged == report.sync.added
        other = ContextualEmbedding(strategy="isolated", dtype="float32", device="cpu")
        with pytest.raises(FingerprintMismatchError):
            run(open_store, other)

    def test_a_worker_that_is_killed_changes_nothing(
        self, ray: Any, server: StandIn, model: ContextualEmbedding, local: dict[Any, Any]
    ) -> None:
        pids: list[int] = []
        killer = threading.Thread(target=kill_one, args=(server, pids))
        killer.start()
        open_store = partial(QdrantChunkStore, "docs", url=server.url, lexical=True, tokens=True)
        report = run(open_store, model)
        killer.join()
        assert len(pids) == 2
        assert report.sync.failed == ("d3",)
        assert points_of(server.database) == local

    def test_a_folder_has_one_writer(
        self, ray: Any, tmp_path: Path, model: ContextualEmbedding, local: dict[Any, Any]
    ) -> None:
        open_store = partial(QdrantChunkStore, "docs", path=tmp_path / "ray", lexical=True, tokens=True)
        report = run(open_store, model)
        assert report.sync.failed == ("d3",)
        with (
            open_store() as store,
            QdrantChunkStore("docs", path=tmp_path / "local", lexical=True, tokens=True) as other,
        ):
            Corpus(other, embed_model=model).sync(make_documents(), on_failure=lambda *_: None)
            found, wanted = ({n.node_id: n for n in s.get_nodes()} for s in (store, other))
            assert found == wanted
            assert {k: n.embedding for k, n in found.items()} == {k: n.embedding for k, n in wanted.items()}
            assert len(found) == len(local)

    def test_what_cannot_work_is_refused(self, ray: Any, model: ContextualEmbedding) -> None:
        from rag_embed.llamaindex.ray_corpus import RayCorpus

        with pytest.raises(InputError, match="workers cannot reach it"):
            run(partial(QdrantChunkStore, "docs", location=":memory:"), model)
        with pytest.raises(InputError, match="more than once"):
            RayCorpus(partial(QdrantChunkStore, "docs", url="http://x"), embed_model=model, workers=1).update(
                [BAD, BAD]
            )
        with pytest.raises(StoreError, match="does not answer"):
            run(partial(QdrantChunkStore, "docs", url="http://127.0.0.1:9"), model)

    def test_a_server_that_refuses_ends_the_run_and_a_second_one_completes_it(
        self, ray: Any, server: StandIn, model: ContextualEmbedding, local: dict[Any, Any]
    ) -> None:
        server.fail_with(*[Failure(403, only="PUT /collections/docs/points")] * 100)
        open_store = partial(QdrantChunkStore, "docs", url=server.url, lexical=True, tokens=True)
        with pytest.raises(
            StoreError, match=r"ended before its end: StoreUnavailableError: .*refused .*\(403\)"
        ):
            run(open_store, model)
        server.failures.clear()
        assert run(open_store, model).sync.failed == ("d3",)
        assert points_of(server.database) == local
