"""Measure the store's engines on 20,000 chunks of 384 dimensions: `python -m tests.qdrant_measure [engine]`.

Writes one JSON object. No test asserts these times: they are the machine's as much as ours.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQueryMode,
)

from rag_embed.qdrant import QdrantChunkStore
from tests.qdrant_cases import ask, make_vectors

COUNT, DIM, QUERIES = 20_000, 384, 200


def make_corpus(count: int) -> list[TextNode]:
    return [
        TextNode(
            id_=f"chunk-{i}",
            text="Some forty words of a chunk as real documents have them. " * 15,
            metadata={"file": f"f{i % 300}.md", "page": i % 50, "weight": i / 7},
            embedding=vector,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"d{i % 300}")},
        )
        for i, vector in enumerate(make_vectors(count, dim=DIM, spread=0.6))
    ]


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(engine: str) -> dict[str, Any]:
    nodes = make_corpus(COUNT)
    rng = np.random.default_rng(1)
    wanted = [np.asarray(nodes[i].embedding) for i in range(0, COUNT, COUNT // QUERIES)]
    queries = [(vector + 0.02 * rng.normal(size=DIM)).tolist() for vector in wanted]
    filters = {
        "file == f7.md": [MetadataFilter(key="file", value="f7.md")],
        "file != f7.md": [MetadataFilter(key="file", value="f7.md", operator=FilterOperator.NE)],
        "page < 25": [MetadataFilter(key="page", value=25, operator=FilterOperator.LT)],
        "page in [1, 2, 3]": [MetadataFilter(key="page", value=[1, 2, 3], operator=FilterOperator.IN)],
        "weight >= 2000": [MetadataFilter(key="weight", value=2000.0, operator=FilterOperator.GTE)],
    }
    cases: dict[str, dict[str, Any]] = {
        "no filter": {},
        "one document": {"doc_ids": ["d5"]},
        "mmr": {"mode": VectorStoreQueryMode.MMR},
        **{name: {"filters": MetadataFilters(filters=parts)} for name, parts in filters.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        place = {"path": folder} if engine == "folder" else {"location": ":memory:"}
        with QdrantChunkStore("docs", **place) as store:
            report: dict[str, Any] = {"engine": engine, "chunks": COUNT, "dim": DIM}
            cpu_s = time.process_time()
            report["write_s"] = timed(lambda: store.add(nodes))
            report["write_cpu_s"] = time.process_time() - cpu_s
            for name, options in cases.items():
                times = [timed(lambda q=q, o=options: store.query(ask(q, 10, **o))) for q in queries]
                report[name] = {
                    "first_ms": 1e3 * times[0],
                    "best_ms": 1e3 * min(times),
                    "median_ms": 1e3 * statistics.median(times),
                    "p95_ms": 1e3 * sorted(times)[int(0.95 * len(times))],
                }
            report["get_vectors_50_ms"] = 1e3 * timed(
                lambda: store.get_vectors([n.node_id for n in nodes[:50]])
            )
            report["write_again_s"] = timed(lambda: store.add(nodes))
            report["count"] = store.count()
            document = [node for node in nodes if node.ref_doc_id == "d5"]
            report["replace_document_ms"] = 1e3 * timed(lambda: store.replace_document("d5", document))
        if engine == "folder":
            report["reopen_ms"] = 1e3 * timed(lambda: QdrantChunkStore("docs", **place).close())
    report["machine"] = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    return report


if __name__ == "__main__":
    rounded = json.loads(
        json.dumps(measure(*(sys.argv[1:] or ["folder"]))), parse_float=lambda x: round(float(x), 2)
    )
    sys.stdout.write(json.dumps(rounded, indent=2) + "\n")
