"""Ingestion and queries: our store and LlamaIndex's own, the same points, queries taking turns."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from benchmarks.race import Race
from benchmarks.report import make_parser, write_report
from rag_embed import QdrantChunkStore

DIM = 384
TOP_K = 10
CATEGORIES = 20
COLLECTION = "benchmark"


def clustered_vectors(count: int, *, seed: int) -> Float[np.ndarray, "count 384"]:
    """Unit vectors around 200 centres; uniform ones would be harder to search than text ever is."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((200, DIM))
    noisy = centres[generator.integers(len(centres), size=count)] + 0.7 * generator.standard_normal(
        (count, DIM)
    )
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def make_nodes(vectors: Float[np.ndarray, "count dim"]) -> list[TextNode]:
    """Chunks as a splitter leaves them: 500 characters, a document for every twenty."""
    return [
        TextNode(
            id_=str(uuid.uuid5(uuid.NAMESPACE_OID, str(i))),
            text=f"chunk {i} ".ljust(500, "x"),
            metadata={"file_name": f"{i // 20}.txt", "category": i % CATEGORIES},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{i // 20}")},
            embedding=vector.tolist(),
        )
        for i, vector in enumerate(vectors)
    ]


@contextmanager
def open_stores(folder: Path) -> Iterator[dict[str, Callable[[], BasePydanticVectorStore]]]:
    """The contestants, each opened by a call; closed at the end."""
    clients: list[QdrantClient] = []
    own: list[QdrantChunkStore] = []

    def ours(**place: str) -> QdrantChunkStore:
        own.append(QdrantChunkStore(COLLECTION, payload_indexes={"category": "integer"}, **place))
        return own[-1]

    def stock(**place: str) -> QdrantVectorStore:
        clients.append(QdrantClient(**place))
        return QdrantVectorStore(COLLECTION, client=clients[-1])

    try:
        yield {
            "rag-embed, embedded folder": lambda: ours(path=str(folder / "ours")),
            "rag-embed, memory": lambda: ours(location=":memory:"),
            "LlamaIndex's own, local folder": lambda: stock(path=str(folder / "stock")),
            "LlamaIndex's own, memory": lambda: stock(location=":memory:"),
        }
    finally:
        for closable in (*own, *clients):
            closable.close()


def find_exactly(
    vectors: Float[np.ndarray, "count dim"], query: Float[np.ndarray, " dim"], category: int | None
) -> set[int]:
    """The nearest by brute force."""
    scores = vectors @ query
    if category is not None:
        scores[np.arange(len(vectors)) % CATEGORIES != category] = -2
    return set(np.argsort(-scores)[:TOP_K].tolist())


def query_all(
    stores: dict[str, BasePydanticVectorStore],
    vectors: Float[np.ndarray, "count dim"],
    queries: Float[np.ndarray, "queries dim"],
    *,
    is_filtered: bool,
) -> dict[str, dict[str, float]]:
    """Latency of each store, and the share of queries answered with exactly the nearest."""
    numbers = {str(uuid.uuid5(uuid.NAMESPACE_OID, str(i))): i for i in range(len(vectors))}
    categories = [number % CATEGORIES if is_filtered else None for number in range(len(queries))]
    requests = [_make_request(query, category) for query, category in zip(queries, categories, strict=True)]
    answers: dict[str, list[set[int]]] = {name: [] for name in stores}

    def ask(name: str) -> None:
        found = stores[name].query(requests[len(answers[name])])
        answers[name].append({numbers[node_id] for node_id in found.ids})

    race = Race.run({name: partial(ask, name) for name in stores}, rounds=len(requests))
    expected = [find_exactly(vectors, q, category) for q, category in zip(queries, categories, strict=True)]
    return {
        name: {
            "median_ms": round(1000 * race.median_s(name), 2),
            "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 2),
            "exact_share": round(sum(map(set.__eq__, answers[name], expected)) / len(queries), 3),
        }
        for name, seconds in race.seconds.items()
    }


def _make_request(query: Float[np.ndarray, " dim"], category: int | None) -> VectorStoreQuery:
    wanted = MetadataFilters(filters=[MetadataFilter(key="category", value=category or 0)])
    return VectorStoreQuery(
        query_embedding=query.tolist(),
        similarity_top_k=TOP_K,
        filters=None if category is None else wanted,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args(argv)
    if options.quick:
        options.points, options.queries = min(options.points, 200), 5
    warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
    vectors = clustered_vectors(options.points, seed=1)
    queries = clustered_vectors(options.queries, seed=2)
    folder = Path(tempfile.mkdtemp(prefix="rag-embed-benchmark-"))
    try:
        with open_stores(folder) as makers:
            stores: dict[str, BasePydanticVectorStore] = {}
            ingest_s: dict[str, float] = {}
            for name, make in makers.items():
                nodes = make_nodes(vectors)
                begin = time.perf_counter()
                stores[name] = make()
                stores[name].add(nodes)
                ingest_s[name] = round(time.perf_counter() - begin, 2)
            plain = query_all(stores, vectors, queries, is_filtered=False)
            filtered = query_all(stores, vectors, queries, is_filtered=True)
    finally:
        shutil.rmtree(folder)
    write_report(
        "store",
        options,
        model="none",
        data=f"{options.points} points, {DIM} dimensions, 200 clusters; the filter keeps 1 of {CATEGORIES}",
        n=options.queries,
        interval="none; median and 95th percentile of the queries' latencies",
        results={
            name: {"ingest_s": ingest_s[name], "query": plain[name], "filtered_query": filtered[name]}
            for name in stores
        },
    )


if __name__ == "__main__":
    main()
