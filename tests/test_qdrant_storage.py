"""Quantized vectors and prefixes: what is sent, what lies on disk, and how near the search is to exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from llama_index.core.schema import TextNode
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as protocol

from rag_embed.late_chunking import embed_isolated
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, VectorStorage
from rag_embed.qdrant.legs import NO_LEGS
from rag_embed.qdrant.points import nodes_to_points, split_requests
from rag_embed.qdrant.port import Search, VectorPrefix, run_blocking
from tests.qdrant_cases import ask, make_nodes, make_vectors, nearest, where
from tests.qdrant_standin import StandIn, serve

if TYPE_CHECKING:
    from rag_embed.encoder import Encoder

Matrix = npt.NDArray[np.float64]
TOP = 10
AT_ONCE = CollectionSettings(  # build on `optimize`, however few vectors there are, and no graph: only codes
    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
    hnsw_config=models.HnswConfigDiff(m=0),
)


def open_optimized(
    path: Path, vectors: Matrix, storage: VectorStorage | None, **options: object
) -> QdrantChunkStore:
    """A folder whose vectors are quantized for good."""
    store = QdrantChunkStore("docs", path=path, storage=storage, **{"settings": AT_ONCE, **options})
    store.add([TextNode(id_=f"{i}", text="x", embedding=row) for i, row in enumerate(vectors.tolist())])
    store.optimize()
    return store


def recall(found: Iterator[list[str]], vectors: Matrix, queries: Matrix) -> float:
    """Share of the ten nearest, by brute force, that were found."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :TOP].astype(str).tolist()
    return float(np.mean([len({*a} & {*b}) / TOP for a, b in zip(found, exact, strict=True)]))


def searched(store: QdrantChunkStore, queries: Matrix) -> Iterator[list[str]]:
    return (store.query(ask(query, TOP)).ids for query in queries.tolist())


def searched_by_codes_alone(store: QdrantChunkStore, queries: Matrix) -> Iterator[list[str]]:
    name = store.info().vector_name
    for query in queries.tolist():
        points = run_blocking(store.client.search(Search(query, name, TOP)))
        yield [str(json.loads(point.payload["_node_content"])["id_"]) for point in points]


def size_of(path: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in path.rglob(pattern))


@pytest.fixture(scope="module")
def clustered() -> tuple[Matrix, Matrix]:
    """Clusters whose first components carry most, as Matryoshka training makes them."""
    weights = 1.0 / np.sqrt(1.0 + np.arange(128) / 8)
    vectors = np.array(make_vectors(1_640, dim=128, spread=0.7)) * weights
    return vectors[:-40], vectors[-40:]


@pytest.fixture(scope="module")
def manual(minilm: Encoder) -> tuple[Matrix, Matrix]:
    """MiniLM vectors of sentences of Python's manual, and of its titles."""
    texts = [part for text in topics.values() for part in text.split("\n\n") if 60 < len(part) < 240][::4][
        :500
    ]
    vectors = embed_isolated(minilm, texts).double().numpy()
    return vectors, embed_isolated(minilm, [f"Python: {title}" for title in topics][:60]).double().numpy()


def rotated(vectors: Matrix, queries: Matrix) -> tuple[Matrix, Matrix]:
    """The same cosines, with the most telling directions first: what Matryoshka training is for."""
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    return vectors @ axes[:, ::-1], queries @ axes[:, ::-1]


@pytest.mark.parametrize("corpus", ["clustered", "manual"])
def test_a_quarter_of_the_bytes_finds_what_all_find(
    tmp_path: Path, corpus: str, request: pytest.FixtureRequest
) -> None:
    """Int8, and a prefix of a quarter: within half a point of exact search; and codes are really small."""
    vectors, queries = request.getfixturevalue(corpus)
    count, dim = vectors.shape
    with open_optimized(tmp_path / "int8", vectors, VectorStorage(encoding="int8")) as store:
        assert recall(searched(store, queries), vectors, queries) >= 0.995
        assert recall(searched_by_codes_alone(store, queries), vectors, queries) < 0.999
    codes = size_of(tmp_path / "int8", "quantized.data")
    assert 0.25 * 4 * count * dim <= codes <= 0.27 * 4 * count * dim  # a number beside each vector
    assert size_of(tmp_path / "int8", "matrix.dat") == pytest.approx(2 * count * dim, rel=0.01)
    vectors, queries = rotated(vectors, queries)
    with open_optimized(tmp_path / "prefix", vectors, VectorStorage(prefix_dim=dim // 4)) as store:
        assert recall(searched(store, queries), vectors, queries) >= 0.995
    alone = recall(searched_alone(vectors[:, : dim // 4], queries[:, : dim // 4]), vectors, queries)
    assert alone < 0.95  # the second stage is needed


def searched_alone(vectors: Matrix, queries: Matrix) -> Iterator[list[str]]:
    scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    return iter(np.argsort(-scores, axis=1)[:, :TOP].astype(str).tolist())


def test_binary_codes_find_candidates(tmp_path: Path, manual: tuple[Matrix, Matrix]) -> None:
    """A thirty-second of the bytes finds candidates; the defaults and an adopted collection rescore them."""
    vectors, queries = manual
    storage = VectorStorage(encoding="binary")
    with open_optimized(tmp_path, vectors, storage) as store:
        codes = recall(searched_by_codes_alone(store, queries), vectors, queries)
        rescored = recall(searched(store, queries), vectors, queries)
        assert codes < 0.85 < 0.98 <= rescored
        with QdrantChunkStore("docs", path=tmp_path) as adopted:
            assert recall(searched(adopted, queries), vectors, queries) == rescored
        wide = storage.model_copy(update={"oversampling": 40.0})
        with QdrantChunkStore("docs", path=tmp_path, storage=wide) as wider:
            # Not 1.0: among equally near chunks rounding decides, and processors round differently.
            assert recall(searched(wider, queries), vectors, queries) >= 0.995


def test_own_settings_are_rescored_too(tmp_path: Path, manual: tuple[Matrix, Matrix]) -> None:
    """What the embedded engine does by itself with quantized vectors is to believe them."""
    vectors, queries = manual
    kind = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    settings = AT_ONCE.model_copy(update={"quantization_config": kind})
    with open_optimized(tmp_path, vectors, None, settings=settings) as store:
        alone = recall(searched_by_codes_alone(store, queries), vectors, queries)
        assert alone + 0.1 < recall(searched(store, queries), vectors, queries)


def test_graphs_tenants_and_new_chunks_with_a_prefix(tmp_path: Path) -> None:
    """Quantized and not yet quantized chunks together, with a graph per tenant."""
    storage = VectorStorage(encoding="int8", prefix_dim=16, oversampling=30)
    settings = AT_ONCE.model_copy(update={"hnsw_config": None})
    nodes = make_nodes(300, dim=32)
    for number, node in enumerate(nodes):
        node.metadata["owner"] = "ab"[number % 2]
    with QdrantChunkStore(
        "docs", path=tmp_path, storage=storage, tenant_key="owner", settings=settings
    ) as store:
        store.add(nodes[:200])
        store.optimize()
        store.add(nodes[200:])
        for number in (4, 250):
            vector, owner = nodes[number].embedding, "ab"[number % 2]
            mine = [node for node in nodes if node.metadata["owner"] == owner]
            assert store.query(ask(vector, 5)).ids == nearest(nodes, vector, 5)
            assert store.query(ask(vector, 5, filters=where("owner", owner))).ids == nearest(mine, vector, 5)
        assert len(store.get_vectors(["node-3"])["node-3"]) == 32


def test_a_prefix_of_zeros_harms_nobody(tmp_path: Path) -> None:
    vectors = np.vstack([[0, 0, 1.0, 2.0], np.eye(4)])
    with open_optimized(tmp_path, vectors, VectorStorage(prefix_dim=2)) as store:
        assert store.query(ask([0.0, 0.0, 1.0, 2.0], 5)).ids[0] == "0"
        assert store.query(ask([1.0, 0.1, 0.0, 0.0], 1)).ids == ["1"]


def test_another_writer_s_prefix_is_not_taken_for_a_vector() -> None:
    client = QdrantClient(location=":memory:")
    with QdrantChunkStore(
        "docs", client=client, vector_name="chunk", storage=VectorStorage(prefix_dim=4)
    ) as store:
        store.add(make_nodes(5))
    with QdrantChunkStore("docs", client=client) as store:
        assert (store.info().vector_name, store.info().prefix.name) == ("chunk", "chunk-prefix")
    client.close()


def test_storage_survives_serialisation(tmp_path: Path) -> None:
    storage = VectorStorage(encoding="int8", prefix_dim=4, oversampling=7)
    with QdrantChunkStore("docs", path=tmp_path, storage=storage) as store:
        store.add(make_nodes(3))
        with QdrantChunkStore.from_dict(json.loads(json.dumps(store.to_dict()))) as again:
            assert (again.storage, again.info().oversampling) == (storage, 7.0)


def test_requests_stay_small_with_a_prefix() -> None:
    batch = nodes_to_points(make_nodes(400, dim=512))
    for points in split_requests(batch.points, prefix_dim=500):
        sizes = [json.dumps([p.vector, p.vector[:500], p.payload]) for p in points]
        assert sum(map(len, sizes)) < 5_000_000
    requests = [list(split_requests(batch.points, prefix_dim=dim)) for dim in (500, 0)]
    assert len(requests[0]) > len(requests[1]) > 1


# --- the wire

SENT: list[tuple[VectorStorage, dict[str, object]]] = [
    (VectorStorage(), {"datatype": None, "on_disk": None, "codes": None}),
    (VectorStorage(encoding="float16"), {"datatype": "float16", "on_disk": None, "codes": None}),
    (VectorStorage(encoding="int8"), {"datatype": "float16", "on_disk": True, "codes": "scalar"}),
    (VectorStorage(encoding="binary"), {"datatype": "float16", "on_disk": True, "codes": "binary"}),
]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serve() as state:
        yield state


@pytest.mark.parametrize(("storage", "expected"), SENT, ids=lambda value: str(value)[:7])
@pytest.mark.parametrize("prefix_dim", [None, 4])
def test_collection_as_sent(
    server: StandIn, storage: VectorStorage, expected: dict[str, object], prefix_dim: int | None
) -> None:
    storage = storage.model_copy(update={"prefix_dim": prefix_dim})
    with QdrantChunkStore("docs", url=server.url, storage=storage) as store:
        store.add(make_nodes(2))
    vectors = server.database.get_collection("docs").config.params.vectors
    assert set(vectors) == ({"dense"} if prefix_dim is None else {"dense", "dense-prefix"})
    small = vectors["dense" if prefix_dim is None else "dense-prefix"]
    assert small.size == (prefix_dim or 8)
    assert small.distance == models.Distance.COSINE
    assert (small.datatype, small.on_disk) == (expected["datatype"], expected["on_disk"])
    codes = small.quantization_config
    if expected["codes"] is None:
        assert codes is None
    else:
        assert getattr(codes, str(expected["codes"])).always_ram is True
    if isinstance(codes, models.BinaryQuantization):
        assert codes.binary.query_encoding == models.BinaryQuantizationQueryEncoding.SCALAR8BITS
    if prefix_dim is not None:
        whole = vectors["dense"]
        assert (whole.size, whole.on_disk, whole.quantization_config) == (8, True, None)
        assert (whole.datatype, whole.hnsw_config.m) == (expected["datatype"], 0)


def test_searches_as_sent(server: StandIn) -> None:
    nodes = make_nodes(30)
    vector = nodes[0].embedding

    def last(storage: VectorStorage | None, **asked: object) -> models.QueryRequest:
        with QdrantChunkStore("docs", url=server.url, storage=storage) as store:
            store.add(nodes)
            store.query(ask(vector, 4, **asked))
            store.clear()
        return server.queries[-1]

    plain = last(None)
    assert (plain.params, plain.prefetch) == (None, None)
    for encoding, factor in (("int8", 3.0), ("binary", 10.0)):
        request = last(VectorStorage(encoding=encoding))
        assert (request.params.quantization.rescore, request.params.quantization.oversampling) == (
            True,
            factor,
        )
        assert (request.using, request.prefetch, request.limit) == ("dense", None, 4)
    request = last(VectorStorage(prefix_dim=3, oversampling=2.6), filters=where("index", 1))
    stage = request.prefetch
    assert (stage.query, stage.using, stage.limit) == (vector[:3], "dense-prefix", math.ceil(2.6 * 4))
    assert stage.filter == request.filter is not None
    assert stage.params.quantization.rescore is False
    assert request.query.nearest == vector
    assert (request.using, request.limit, request.params) == ("dense", 4, None)
    request = last(VectorStorage(prefix_dim=3), mode="mmr")
    assert request.query.mmr.candidates_limit == 16
    assert request.prefetch.limit == 160


def test_quantization_of_the_whole_collection_is_found(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others set it once for all vectors of a collection."""
    describe: Callable[[str, bytes], dict[str, dict[str, object]]] = server.get_collection

    def describe_with_codes(name: str, body: bytes) -> dict[str, dict[str, object]]:
        info = describe(name, body)
        info["config"]["quantization_config"] = {"scalar": {"type": "int8"}}
        return info

    monkeypatch.setattr(server, "get_collection", describe_with_codes)
    with QdrantChunkStore("docs", url=server.url) as store:
        store.add(make_nodes(3))
        assert (store.info().encoding, store.info().oversampling) == ("int8", 3.0)


def test_the_same_over_grpc() -> None:
    """What a server would read off the wire, when qdrant-client has turned it into protocol buffers."""
    seen: dict[str, bytes] = {}

    class Recorder(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            method = details.method.rpartition("/")[2]

            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                seen[method] = request
                replies = {"Create": protocol.CollectionOperationResponse(result=True)}
                return replies.get(method, protocol.QueryResponse()).SerializeToString()

            return grpc.unary_unary_rpc_method_handler(answer)

    grpc_server = grpc.server(ThreadPoolExecutor(1), handlers=[Recorder()])
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    storage = VectorStorage(encoding="binary", prefix_dim=4)
    request = CollectionSettings().to_request(
        "dense", 8, None, storage=storage, has_tenants=True, legs=NO_LEGS, token_dim=0
    )
    vector = make_vectors(1)[0]
    options = {"prefer_grpc": True, "client_options": {"grpc_port": port}}
    try:
        with QdrantChunkStore("docs", url="http://127.0.0.1:1", **options) as store:
            engine = store._connection.blocking()
            run_blocking(engine.create(request))
            run_blocking(engine.search(Search(vector, "dense", 5, oversampling=3.0)))
            flat = protocol.QueryPoints.FromString(seen["Query"])
            run_blocking(
                engine.search(
                    Search(vector, "dense", 5, prefix=VectorPrefix("dense-prefix", 4), oversampling=3.0)
                )
            )
            staged = protocol.QueryPoints.FromString(seen["Query"])
    finally:
        grpc_server.stop(None).wait()
    made = protocol.CreateCollection.FromString(seen["Create"]).vectors_config.params_map.map
    codes = made["dense-prefix"].quantization_config.binary
    assert codes.always_ram
    assert codes.query_encoding.setting == protocol.BinaryQuantizationQueryEncoding.Setting.Scalar8Bits
    assert (made["dense"].size, made["dense"].on_disk, made["dense"].hnsw_config.m) == (8, True, 0)
    assert not made["dense"].HasField("quantization_config")
    assert made["dense"].datatype == protocol.Datatype.Float16
    assert (flat.params.quantization.rescore, flat.params.quantization.oversampling) == (True, 3.0)
    (stage,) = staged.prefetch
    assert (stage.using, stage.limit, stage.params.quantization.rescore) == ("dense-prefix", 15, False)
    np.testing.assert_allclose(stage.query.nearest.dense.data, vector[:4], atol=1e-6)
    np.testing.assert_allclose(staged.query.nearest.dense.data, vector, atol=1e-6)
