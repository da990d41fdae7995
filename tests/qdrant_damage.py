"""Damages a closed folder in seeded ways and says what a check makes of it; run in a child of its own.

A damaged file may kill the engine, so each run is announced before and told after it:
    python -m tests.qdrant_damage FOLDER FIRST_SEED LAST_SEED
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from llama_index.core.vector_stores.types import FilterOperator
from qdrant_client import models

from rag_embed.errors import StoreError
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, VectorStorage
from tests.qdrant_cases import ask, make_nodes, where

PAGE = 4096
DOCUMENTS = ["a", "b", "c"]
KINDS: dict[str, VectorStorage | None] = {
    "flat": None,
    "optimized": None,
    "prefix": VectorStorage(prefix_dim=4),
    "binary": VectorStorage(encoding="binary"),
}

GRAPH = CollectionSettings(
    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
    hnsw_config=models.HnswConfigDiff(full_scan_threshold=1),
)
"""So that `optimize` makes a graph of a few points."""


def build(folder: Path) -> None:
    """Make one closed folder of each kind."""
    for kind, storage in KINDS.items():
        indexes = {"kind": "keyword", "index": "integer"}
        options = {"storage": storage, "payload_indexes": indexes, "settings": GRAPH}
        with QdrantChunkStore("docs", path=folder / kind, **options) as store:
            for number, document in enumerate(DOCUMENTS):
                store.add(
                    make_nodes(
                        20, document=document, seed=number, prefix=document, fingerprint="A", kind=document
                    )
                )
            if kind == "optimized":
                store.delete_nodes(["a-19"])
                store.optimize()
        with QdrantChunkStore("docs", path=folder / kind) as store:
            store.count()  # opened once more, so that not everything is in the log alone


def copy(source: Path, target: Path) -> None:
    """Copy a folder whose files are mostly holes."""
    shutil.copytree(source, target, copy_function=copy_file)


def copy_file(source: str, target: str) -> None:
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        while block := read.read(1 << 20):
            if block.count(0) == len(block):
                write.seek(len(block), 1)
            else:
                write.write(block)
        write.truncate()


def data_of(path: Path) -> list[int]:
    """Where the pages of a file are that hold anything."""
    content = path.read_bytes()
    return [start for start in range(0, len(content), PAGE) if any(content[start : start + PAGE])]


def flip(path: Path, chance: random.Random) -> str:
    page = chance.choice(data_of(path) or [0])
    content = bytearray(path.read_bytes()[page : page + PAGE])
    ends = [index for index, byte in enumerate(content) if byte]
    at = chance.randrange((ends[-1] if ends else 0) + 1)
    content[at] ^= 1 << chance.randrange(8)
    overwrite(path, page, bytes(content))
    return f"flipped a bit of byte {page + at}"


def zero(path: Path, chance: random.Random) -> str:
    page = chance.choice(data_of(path) or [0])
    overwrite(path, page, bytes(min(PAGE, path.stat().st_size - page)))
    return f"zeroed the page at {page}"


def truncate(path: Path, chance: random.Random) -> str:
    end = max([0, *data_of(path)]) + PAGE
    size = chance.randrange(max(1, min(end, path.stat().st_size)))
    with path.open("r+b") as file:
        file.truncate(size)
    return f"truncated to {size}"


def delete(path: Path, chance: random.Random) -> str:
    path.unlink()
    return "deleted"


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


WAYS: list[Callable[[Path, random.Random], str]] = [flip, flip, truncate, delete, zero]


def damage(folder: Path, seed: int) -> str:
    chance = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    # Names of segments are random, so the order is made without them.
    files.sort(key=lambda path: (path.name, path.parent.name[:8], path.stat().st_size))
    path = chance.choice(files)
    return f"{path.relative_to(folder)}: {chance.choice(WAYS)(path, chance)}"


def observe(store: QdrantChunkStore) -> dict[str, object]:
    """Whatever a user can ask for."""
    vector = make_nodes(1, seed=5)[0].embedding
    filters = {
        "kind": where("kind", "b"),
        "index": where("index", 7),
        "range": where("index", 11, FilterOperator.GT),
        "empty": where("kind", None, FilterOperator.IS_EMPTY),
        "not": where("kind", "a", FilterOperator.NE),
        "document": where("doc_id", "c"),
        "ref": where("ref_doc_id", "c"),
    }
    nodes = store.get_nodes()
    return {
        "count": store.count(),
        "nodes": {node.node_id: node.to_dict() for node in nodes},
        "counts": {name: store.count(value) for name, value in filters.items()},
        "found": [
            (found.ids, [round(score, 5) for score in found.similarities])
            for value in [None, *filters.values()]
            for top_k in (3, 99)
            for found in [store.query(ask(vector, top_k, filters=value))]
        ],
        "vectors": store.get_vectors([node.node_id for node in nodes]),
    }


def verdict(folder: Path, truth: dict[str, object]) -> tuple[str, str]:
    """Say how a damage shows: refused, reported, harmless or silent."""
    try:
        with QdrantChunkStore("docs", path=folder) as store:
            report = store.check()
            if not report.is_sound:
                return "reported", f"{report.documents}: {'; '.join(report.faults)}"
            if observe(store) != truth:
                return "silent", "other answers"
            store.add(make_nodes(2, prefix="new", document="new", fingerprint="A", seed=9))
            store.delete("new")
            (old,) = store.get_nodes(["b-3"])
            store.delete_nodes(["b-3"])
            if store.count() != int(str(truth["count"])) - 1:
                return "silent", "a deletion without effect"
            store.add([old])
        with QdrantChunkStore("docs", path=folder) as store:
            return ("harmless", "") if observe(store) == truth else ("silent", "other answers after a write")
    except StoreError as error:
        return "refused", str(error)[:300]


def run(folder: Path, first: int, last: int) -> None:
    truths: dict[str, dict[str, object]] = {}
    for seed in range(first, last):
        kind = list(KINDS)[seed % len(KINDS)]
        copied = folder / "copy"
        shutil.rmtree(copied, ignore_errors=True)
        copy(folder / kind, copied)
        if kind not in truths:
            with QdrantChunkStore("docs", path=copied) as store:
                truths[kind] = observe(store)
            shutil.rmtree(copied)
            copy(folder / kind, copied)
        what = f"{kind}: {damage(copied, seed)}"
        tell(seed, "started", what)
        try:
            outcome, why = verdict(copied, truths[kind])
        except Exception as error:
            outcome, why = "raw", repr(error)
        tell(seed, outcome, f"{what}: {why}")


def tell(*values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
