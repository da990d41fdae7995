"""Copies of collections between engines: equal to the bit, resumable, and refused where they would harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from qdrant_client import QdrantClient, models
from typer.testing import CliRunner

from rag_embed.errors import FingerprintMismatchError, InputError, StoreError
from rag_embed.llamaindex.context import stamp_node
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, VectorStorage
from rag_embed.qdrant.blueprint import KEPT_KEY, Blueprint
from rag_embed.qdrant.point_digest import TOLERANCES, CollectionDigest, digest_point, find_difference
from rag_embed.qdrant.port import StoredPoint, run_blocking
from rag_embed.stamp import ChunkStamp
from tests.qdrant_cases import ask, make_nodes, make_vectors
from tests.qdrant_standin import Failure, StandIn, serve

DIM = 48
Opener = Callable[..., QdrantChunkStore]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serve() as state:
        yield state


@pytest.fixture
def opened(tmp_path: Path, server: StandIn) -> Iterator[Opener]:
    """Open stores by the name of an engine: folder, server, or memory."""
    with ExitStack() as stack:

        def open_store(place: str, name: str = "docs", **options: Any) -> QdrantChunkStore:
            where: dict[str, Any] = {"location": ":memory:"}
            if place.startswith("folder"):
                where = {"path": tmp_path / place}
            elif place == "server":
                where = {"url": server.url}
            return stack.enter_context(QdrantChunkStore(name, **where, **options))

        yield open_store


def chunks(count: int, *, tokens: int = 3, seed: int = 0, dim: int = DIM) -> list[TextNode]:
    """Nodes with all that a chunk may have: payload of every kind, words, and token vectors."""
    generator = np.random.default_rng(seed)
    nodes = make_nodes(count, dim=dim, seed=seed, owner="é", page=1.5, tags=["a", "ü"], nested={"n": None})
    for index, node in enumerate(nodes):
        kept = generator.integers(-127, 128, size=(tokens, dim)).astype(np.int8)
        stamp_node(node, ChunkStamp("0" * 32, index, index + 1, fingerprint="F"), tokens=kept)
    return nodes


LEGS: dict[str, Any] = {"lexical": True, "tokens": True}
SETTINGS = {**LEGS, "tenant_key": "owner", "payload_indexes": {"page": "float"}}


def blueprint(store: QdrantChunkStore) -> Blueprint:
    found = run_blocking(Blueprint.read(store._engine()))
    assert found is not None
    return found


@pytest.mark.parametrize("between", ["memory", "server"])
def test_there_and_back_everything_is_equal(opened: Opener, between: str) -> None:
    nodes = chunks(300)
    source = opened("folder-a", **SETTINGS)
    source.add(nodes)
    source.update_metadata({"note": {"of": "mine"}})
    middle, back = opened(between), opened("folder-c")
    there = source.copy_to(middle)
    again = middle.copy_to(back)
    assert there.points == again.points == there.written == again.written == 300
    assert there.source_digest == again.target_digest, "folder and folder"
    # The stand-in keeps floats whatever it is asked for, and normalises those that int4 gives back.
    assert again.is_equal or (between == "server" and again.largest_rounding < 1e-6)
    assert _described(back) == _described(source)
    assert back.info() == source.info()
    for query in (
        ask(nodes[7].embedding),
        ask(nodes[7].embedding, top_k=1, query_str="7", mode=VectorStoreQueryMode.SPARSE),
    ):
        assert back.query(query).ids == source.query(query).ids
        assert back.query(query).similarities == source.query(query).similarities
    assert KEPT_KEY not in back.read_metadata()


def _described(store: QdrantChunkStore) -> object:
    """All of a collection but its points; what a server fills in of a graph is Qdrant's default."""
    info = blueprint(store).info
    graph = {"ef_construct": 100, "full_scan_threshold": 10_000, "max_indexing_threads": 0}
    hnsw = info.hnsw.model_dump(exclude_none=True) if info.hnsw else {}
    return replace(info, hnsw=None), graph | hnsw


def test_memory_and_folders_keep_every_bit(opened: Opener) -> None:
    source = opened("folder-a", **LEGS)
    source.add(chunks(300))
    for place in ("memory", "folder-b"):
        report = source.copy_to(opened(place))
        assert report.is_equal
        assert (report.rounded, report.largest_rounding) == (0, 0.0)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "binary", VectorStorage(prefix_dim=16)])
def test_every_storage_is_carried(opened: Opener, storage: Any) -> None:
    source = opened("folder-a", storage=storage, tokens="float16")
    source.add(chunks(60))
    middle, back = opened("memory"), opened("folder-b", storage=storage)
    there, again = source.copy_to(middle), middle.copy_to(back)
    assert there.is_equal
    assert again.is_equal
    assert back.info() == source.info()


@pytest.mark.parametrize("tokens", ["float16", "int8", "int4"])
@pytest.mark.parametrize("dim", [DIM, 384])
def test_what_a_storage_rounds_is_said(opened: Opener, tokens: Any, dim: int) -> None:
    """Memory keeps floats whatever is asked for; the copy into a folder rounds them for the first time."""
    generator = np.random.default_rng(1)
    source = opened("memory", tokens=tokens, storage="float16")
    nodes = make_nodes(60, dim=dim)
    for index, node in enumerate(nodes):
        kept = generator.normal(size=(4, dim)).astype(np.float16)
        stamp_node(node, ChunkStamp("0" * 32, index, index + 1, fingerprint="F"), tokens=kept)
    source.add(nodes)
    folder, back = opened("folder-a"), opened("folder-b")
    report = source.copy_to(folder)
    assert not report.is_equal
    assert report.rounded == 60
    rough = {
        "float16": models.Datatype.FLOAT16,
        "int8": models.Datatype.TURBO8,
        "int4": models.Datatype.TURBO4,
    }
    assert 1e-5 < report.largest_rounding < 0.8 * TOLERANCES[rough[tokens]]
    assert source.copy_to(folder).written == 0, "what was rounded counts as copied"
    assert folder.copy_to(back).is_equal, "and is rounded once"


def test_rounding_that_moves_a_vector_again_is_said_too(opened: Opener) -> None:
    """Of 8 numbers in float16 the length is off by so much that normalising moves them once more."""
    source, target = opened("folder-a", storage="float16"), opened("folder-b")
    source.add(make_nodes(500, dim=8))
    report = source.copy_to(target)
    assert 1 <= report.rounded <= 50
    assert not report.is_equal
    assert report.largest_rounding < 1e-3


def test_a_server_in_the_middle_of_failing_is_gone_on_with(opened: Opener, server: StandIn) -> None:
    source, target = opened("folder-a", **SETTINGS), opened("server", retry={"attempts": 1})
    source.add(chunks(300))
    puts = "PUT /collections/docs/points"
    server.fail_with(Failure(503, only=puts))
    with pytest.raises(StoreError, match="answered 503"):
        source.copy_to(target)
    assert source.copy_to(target).written == 300
    server.requests.clear()
    report = source.copy_to(target)
    assert (report.written, report.is_equal or report.largest_rounding < 1e-6) == (0, True)
    assert server.sent(puts) == []


KILLED = """
    import os, signal, sys
    from rag_embed.qdrant import QdrantChunkStore
    from rag_embed.qdrant.edge_engine import EdgeEngine

    writes, upsert = 0, EdgeEngine.upsert

    async def upsert_and_die(self, *arguments):
        global writes
        writes += 1
        if writes == int(sys.argv[1]) and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await upsert(self, *arguments)
        if writes == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    EdgeEngine.upsert = upsert_and_die
    with QdrantChunkStore("docs", path="folder-a") as source:
        source.copy_to(QdrantChunkStore("docs", path="folder-b"))
"""


def copy_and_be_killed(folder: Path, write: int, moment: str) -> None:
    """Copy folder-a into folder-b in a process that ends before or after one of its writes."""
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(write), moment],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.mark.parametrize(
    ("write", "moment"), [pytest.param(1, "before", marks=pytest.mark.slow), (2, "after")]
)
def test_a_copy_that_was_killed_is_made_again(
    opened: Opener, tmp_path: Path, write: int, moment: str
) -> None:
    source = opened("folder-a", **SETTINGS)
    source.add(chunks(300))
    source.close()
    copy_and_be_killed(tmp_path, write, moment)
    source, target = opened("folder-a"), opened("folder-b")
    there = target.count()
    assert there == (0 if moment == "before" else 256)
    report = source.copy_to(target)
    assert (report.points, report.written, report.is_equal) == (300, 300 - there, True)
    assert source.check().is_sound
    assert target.check().is_sound


def test_a_target_that_holds_something_else_is_left_as_it_is(opened: Opener) -> None:
    nodes = chunks(20)
    source = opened("folder-a", **LEGS)
    source.add(nodes)
    other_points = opened("folder-b", **LEGS)
    other_points.add([nodes[0], *make_like(nodes[1:3], "mine")])
    other_payload = opened("folder-c", **LEGS)
    changed = make_like(nodes[:1], "node")[0]
    changed.text = "another text"
    other_payload.add([changed])
    other_vector = opened("folder-d", **LEGS)
    turned = make_like(nodes[:1], "node")[0]
    turned.embedding = nodes[5].embedding
    other_vector.add([turned])
    fewer_legs = opened("folder-e")
    fewer_legs.add(nodes)
    for target, reason in (
        (other_points, "holds point .*, which .*folder-a.* does not; .*Name another collection, or delete"),
        (other_payload, r"differs in its payload \(_node_content\)"),
        (other_vector, r"differs in its vector 'dense', by [\d.]+ of its length"),
        (fewer_legs, "is there already and differs in the dense vectors: found .*expected .*'tokens'"),
    ):
        before = [node.to_dict() for node in target.get_nodes()]
        with pytest.raises(StoreError, match=f"(?s){reason}"):
            source.copy_to(target)
        assert [node.to_dict() for node in target.get_nodes()] == before


def make_like(nodes: list[TextNode], prefix: str) -> list[TextNode]:
    return [node.model_copy(update={"id_": f"{prefix}-{index}"}) for index, node in enumerate(nodes)]


def test_what_cannot_be_meant_is_refused(opened: Opener) -> None:
    source = opened("folder-a")
    with pytest.raises(StoreError, match="holds no such collection"):
        source.copy_to(opened("memory"))
    source.add(chunks(3))
    for same in (source, opened("folder-a")):
        with pytest.raises(InputError, match="is source and target"):
            source.copy_to(same)
    with pytest.raises(InputError, match="settings of the copy say datatype"):
        source.copy_to(opened("memory", settings=CollectionSettings(datatype="float16")))
    with pytest.raises(StoreError, match="opened for lexical="):
        source.copy_to(opened("memory", lexical=True))
    with pytest.raises(FingerprintMismatchError, match="opened for vectors that has fingerprint 'G'"):
        source.copy_to(opened("folder-b", fingerprint="G"))
    assert opened("folder-b").info() is None
    sparse = QdrantClient(":memory:")
    sparse.create_collection("docs", {}, sparse_vectors_config={"words": models.SparseVectorParams()})
    with pytest.raises(StoreError, match="has the dense vectors"):
        QdrantChunkStore("docs", client=sparse).copy_to(opened("folder-b"))


def test_collections_of_others_are_copied_too(opened: Opener) -> None:
    """Integers for ids, an unnamed vector, points without payload, and vectors that some points lack."""
    client = QdrantClient(":memory:")
    client.create_collection("one", models.VectorParams(size=4, distance=models.Distance.DOT))
    client.upsert("one", [models.PointStruct(id=n, vector=[n, 1, 2, 3], payload={}) for n in range(1, 9)])
    client.create_collection(
        "two",
        {name: models.VectorParams(size=4, distance=models.Distance.COSINE) for name in ("dense", "other")},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    words = models.SparseVector(indices=[9, 2], values=[0.5, 0.25])
    client.upsert(
        "two",
        [
            models.PointStruct(id=1, vector={"dense": [1, 0, 0, 0]}, payload={"x": 1}),
            models.PointStruct(id=2, vector={"other": [1, 2, 0, 0], "words": words}, payload={"x": 2}),
        ],
    )
    for name, count in (("one", 8), ("two", 2)):
        source = QdrantChunkStore(name, client=client)
        middle, back = opened("folder-a", name), opened("memory", name)
        assert source.copy_to(middle).is_equal
        assert middle.copy_to(back).is_equal
        ours, theirs = (
            c.scroll(name, with_vectors=True, limit=99)[0] for c in (client, back._engine().client)
        )
        assert len(theirs) == count
        assert {record.id: (record.payload, record.vector) for record in theirs} == {
            record.id: (record.payload, record.vector) for record in ours
        }


def test_a_digest_sees_everything_and_no_order() -> None:
    words = models.SparseVector(indices=[1, 2], values=[0.5, 0.25])
    tokens = np.ones((2, 3), np.float32)
    point = StoredPoint(1, {"a": 1, "b": [2]}, [0.5, 0.25], others={"words": words, "tokens": tokens})
    digest = digest_point(point, "dense")
    swapped = models.SparseVector(indices=[2, 1], values=[0.25, 0.5])
    same = replace(point, payload={"b": [2], "a": 1}, others={"tokens": tokens.tolist(), "words": swapped})
    assert digest_point(same, "dense") == digest
    nudged = tokens.copy()
    nudged[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    others = [
        replace(point, id=2),
        replace(point, payload={"a": 1, "b": [3]}),
        replace(point, vector=[0.5, float(np.nextafter(np.float32(0.25), np.float32(1)))]),
        replace(point, vector=None),
        replace(point, others={"words": words, "tokens": nudged}),
        replace(point, others={"words": words, "tokens": tokens.reshape(3, 2)}),
        replace(point, others={"words": words, "token": tokens}),
        replace(point, others={"words": models.SparseVector(indices=[1, 3], values=[0.5, 0.25])}),
    ]
    digests = [digest_point(other, "dense") for other in others]
    assert len({digest, *digests}) == 1 + len(others)
    forwards, backwards = CollectionDigest(), CollectionDigest()
    for each in digests:
        forwards.add(each)
    for each in reversed(digests):
        backwards.add(each)
    assert str(forwards) == str(backwards)
    forwards.add(digest)
    assert str(forwards) != str(backwards)


@pytest.mark.parametrize(
    ("distance", "factor", "expected"),
    [("Cosine", 2.0, ""), ("Dot", 2.0, "in its vector 'dense', by 1 of"), ("Cosine", -1.0, "by 2 of")],
)
def test_only_directions_count_under_cosine(distance: Any, factor: float, expected: str) -> None:
    vector = make_vectors(1)[0]
    one = StoredPoint(1, {}, vector)
    other = StoredPoint(1, {}, [factor * value for value in vector])
    params = {"dense": models.VectorParams(size=len(vector), distance=distance)}
    difference = find_difference(one, other, "dense", params)[1]
    assert expected in difference
    assert bool(difference) == bool(expected)


def test_local_mode_moves_bits_by_itself() -> None:
    """The reason for `local_bits`; when this fails, it is no longer needed."""
    vectors = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    client = QdrantClient(":memory:")
    client.create_collection("docs", models.VectorParams(size=384, distance=models.Distance.COSINE))
    client.upsert("docs", [models.PointStruct(id=i, vector=row.tolist()) for i, row in enumerate(vectors)])
    found = client.scroll("docs", with_vectors=True, limit=200)[0]
    assert (np.asarray([record.vector for record in found], np.float32) != vectors).any(axis=1).sum() > 20


def test_the_command(opened: Opener, tmp_path: Path, server: StandIn) -> None:
    from rag_embed.cli.app import app

    source = opened("folder-a", "documents", **SETTINGS)
    source.add(chunks(40))
    source.close()

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["copy", *map(str, words)])

    there = ("--store", tmp_path / "folder-a")
    done = run(*there, "--to-url", server.url, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["points"] == printed["written"] == 40
    back = run("--url", server.url, "--to-store", tmp_path / "folder-b", "--to-collection", "again")
    assert back.exit_code == 0, back.stderr
    assert printed["source_digest"] in back.stdout
    again = json.loads(run(*there, "--to-url", server.url, "--json").stdout)
    assert again["written"] == 0
    nothing = run("--store", tmp_path / "nowhere", "--to-store", tmp_path / "folder-d")
    assert nothing.exit_code == 3
    assert not (tmp_path / "folder-d").exists()
    nowhere = run(*there)
    assert nowhere.exit_code == 2
    assert "--to-store or --to-url" in nowhere.stderr
    same = run(*there, "--to-store", tmp_path / "folder-a")
    assert same.exit_code == 1
    assert "source and target" in same.stderr


def test_one_api_key_is_enough_for_one_server(opened: Opener, tmp_path: Path, server: StandIn) -> None:
    from rag_embed.cli.app import app

    source = opened("folder-a", "documents")
    source.add(chunks(3))
    source.close()
    server.api_key = "secret"
    words = ["copy", "--store", str(tmp_path / "folder-a"), "--to-url", server.url]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert CliRunner().invoke(app, words, env={"QDRANT_API_KEY": "secret"}).exit_code == 0
    assert CliRunner().invoke(app, [*words, "--to-api-key", "wrong"]).exit_code == 1


@pytest.mark.slow
def test_twenty_thousand_chunks_come_back_and_survive_a_kill(opened: Opener, tmp_path: Path) -> None:
    """Folder, memory, folder; the second folder's copying is killed in the middle, and run again."""
    source = opened("folder-a", **SETTINGS)
    for start in range(20):
        nodes = chunks(1_000, tokens=1, seed=start, dim=384)
        source.add(make_like(nodes, f"part{start}"))
    source.close()
    copy_and_be_killed(tmp_path, 80, "after")
    source, middle, back = opened("folder-a"), opened("memory"), opened("folder-b")
    half = back.count()
    assert 0 < half < 20_000
    there, again = source.copy_to(middle), middle.copy_to(back)
    assert there.points == again.points == 20_000
    assert again.written == 20_000 - half
    assert there.is_equal
    assert again.is_equal
    assert there.source_digest == again.target_digest
