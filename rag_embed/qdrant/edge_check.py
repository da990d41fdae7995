"""Whether an embedded folder is what was written to it: everything is read and compared with the ledger.

The engine's files say little about their own health, so the check asks for what they are there for: every
point, and a search that must find all of them with the scores that their vectors have. Payload indexes are
made anew from the payloads, because only that proves them right.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import qdrant_edge as edge
from qdrant_client import models

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_faults import find_ids, read_points
from rag_embed.qdrant.edge_ledger import LedgerEntry, PointLedger, make_entry
from rag_embed.qdrant.edge_log import advance_log, make_index
from rag_embed.qdrant.filters import DOCUMENT_INDEXES, DOCUMENT_KEY
from rag_embed.qdrant.integrity import IntegrityReport

_SEARCHED = (
    "segments/*/vector_index-*/**/*",
    "segments/*/vector_storage-*/quantized*",
    "segments/*/*/quantized*/**/*",
)
_TOLERANCE = 0.01
"""Of a score: vectors may be kept as float16 or uint8."""


class EdgeCheck:
    """One check of one folder.

    Args:
        shard: The engine.
        folder: Its files.
        vectors: What the record says of them.
        ledger: What should be there.
    """

    def __init__(
        self,
        shard: edge.EdgeShard,
        folder: Path,
        vectors: Mapping[str, models.VectorParams],
        ledger: PointLedger,
    ) -> None:
        self._shard = shard
        self._folder = folder
        self._params = {name: params for name, params in vectors.items() if params.multivector_config is None}
        self._ledger = ledger
        self._entries: dict[str, LedgerEntry] = {}
        self._vectors: dict[str, dict[str, npt.NDArray[np.float32]]] = {name: {} for name in self._params}
        self._counts: dict[str, Counter[str]] = {key: Counter() for key in DOCUMENT_INDEXES}
        self._documents: set[str] = set()
        self._faults: list[str] = []

    def run(self, record: str) -> IntegrityReport:
        """Check everything.

        Args:
            record: What `collection.json` holds.
        """
        self._faults += [f"the ledger is damaged: {fault}" for fault in self._ledger.faults()]
        kept = self._ledger.record()
        if kept != record:
            self._faults.append("collection.json is not what was written" if kept else "the ledger is empty")
        self._read_all()
        self._compare()
        self._search()
        self._check_files()
        self._check_document_indexes()
        if not self._faults:
            self._write()
        return IntegrityReport(len(self._entries), tuple(sorted(self._documents)), tuple(self._faults))

    def _read_all(self) -> None:
        for page in find_ids(self._shard):
            records, unreadable = read_points(self._shard, page)
            self._entries.update({str(id_): LedgerEntry(None, b"") for id_ in unreadable})
            for record in records:
                self._entries[str(record.id)] = make_entry(record)
                for key, counts in self._counts.items():
                    value = (record.payload or {}).get(key)
                    if isinstance(value, str):
                        counts[value] += 1
                found = record.vector if isinstance(record.vector, dict) else {"": record.vector}
                for name, vectors in self._vectors.items():
                    if found.get(name) is not None:
                        vectors[str(record.id)] = np.asarray(found[name], dtype=np.float32)
        counted = self._shard.count(edge.CountRequest(exact=True))
        if counted != len(self._entries):
            self._faults.append(f"{counted} points are counted and {len(self._entries)} are listed")

    def _compare(self) -> None:
        wanted = self._ledger.entries()
        kinds = {
            "are missing": [id_ for id_ in wanted if id_ not in self._entries],
            "were never written": [id_ for id_ in self._entries if id_ not in wanted],
            "cannot be read": [id_ for id_, entry in self._entries.items() if not entry.digest],
            "are not what was written": [
                id_ for id_, entry in self._entries.items() if id_ in wanted and entry != wanted[id_]
            ],
        }
        for kind, ids in kinds.items():
            if ids:
                self._faults.append(f"{len(ids)} point(s) {kind}, such as {ids[0]!r}")
            for id_ in ids:
                named = {entry.document for entry in (wanted.get(id_), self._entries.get(id_)) if entry}
                self._documents |= {document for document in named if document is not None}

    def _search(self) -> None:
        """Search for one point's own vector, doubled, and expect all points with their scores."""
        for name, vectors in self._vectors.items():
            if not vectors:
                continue
            ids, matrix = list(vectors), np.stack(list(vectors.values()))
            query = 2 * matrix[0]
            found = self._shard.query(
                edge.QueryRequest(
                    limit=len(ids) + 1,
                    query=edge.Query.Nearest(query.tolist(), using=name or None),
                    params=edge.SearchParams(
                        exact=True, quantization=edge.QuantizationSearchParams(ignore=True)
                    ),
                )
            )
            scores = {str(point.id): point.score for point in found}
            expected = dict(zip(ids, _scores(query, matrix, self._params[name].distance), strict=True))
            wrong = [
                id_
                for id_, score in expected.items()
                if id_ not in scores or abs(scores[id_] - score) > _TOLERANCE * (1 + abs(score))
            ]
            if wrong or len(scores) != len(expected):
                self._faults.append(
                    f"a search by {name!r} finds {len(scores)} of {len(expected)} points, and {len(wrong)} "
                    "not with the score that their vectors have"
                )
                self._documents |= {str(self._entries[id_].document) for id_ in wrong}

    def _check_files(self) -> None:
        wanted, found = self._ledger.files(), digest_files(self._folder)
        wrong = [path for path in wanted if found.get(path) != wanted[path]]
        if wrong:
            self._faults.append(
                f"{len(wrong)} file(s) of what searches walk are damaged, such as {wrong[0]!r}"
            )

    def _check_document_indexes(self) -> None:
        indexes = self._shard.info().payload_schema
        for key, expected in self._counts.items():
            if key not in indexes:
                self._faults.append(f"the index of {key!r} is missing")
                continue
            request = edge.FacetRequest(key, limit=len(expected) + len(self._entries) + 1, exact=True)
            counts = {str(hit.value): hit.count for hit in self._shard.facet(request).hits}
            wrong = {value for value in {*counts, *expected} if counts.get(value) != expected.get(value)}
            if wrong:
                self._faults.append(f"the index of {key!r} is wrong for {len(wrong)} value(s)")
                self._documents |= wrong if key == DOCUMENT_KEY else set()

    def _write(self) -> None:
        try:
            advance_log(self._shard)
            make_indexes_anew(self._shard)
        except StoreError as error:
            self._faults.append(str(error))


def make_indexes_anew(shard: edge.EdgeShard) -> None:
    """Delete every payload index and make it again from the payloads."""
    for key, index in shard.info().payload_schema.items():
        make_index(shard, key, index.params or index.data_type)


def digest_files(shard: Path) -> dict[str, bytes]:
    """Digest the files of graphs and quantized vectors: only searches read them, and nothing shows them."""
    files = {path for pattern in _SEARCHED for path in shard.glob(pattern) if path.is_file()}
    return {str(path.relative_to(shard)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _scores(
    query: npt.NDArray[np.float32], matrix: npt.NDArray[np.float32], distance: models.Distance
) -> list[float]:
    """Compare a query with vectors as the engine does."""
    with np.errstate(all="ignore"):  # damaged vectors hold anything
        if distance == models.Distance.EUCLID:
            scores = np.linalg.norm(matrix - query, axis=1)
        elif distance == models.Distance.MANHATTAN:
            scores = np.abs(matrix - query).sum(axis=1)
        else:
            scores = matrix @ query
            if distance == models.Distance.COSINE:
                scores = scores / np.linalg.norm(query)
        return [float(score) for score in scores]
