"""The ledger of an embedded folder: which points it should hold, and a digest of each.

The engine does not notice a flipped bit in a vector or a payload. The ledger does: an SQLite file beside the
engine's files with one row per point. A write names its points as unsettled first, then writes, then reads
them back and settles them with the digests of what it read; after a kill in between, opening settles them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import qdrant_edge as edge

from rag_embed.qdrant.edge_faults import read_points
from rag_embed.qdrant.edge_filters import EdgeId, to_edge_id
from rag_embed.qdrant.filters import DOCUMENT_KEY
from rag_embed.qdrant.port import PAGE

LEDGER_NAME = "ledger.db"
_DIGEST_BYTES = 16
_TABLES = """
CREATE TABLE IF NOT EXISTS points (id TEXT PRIMARY KEY, document TEXT, digest BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unsettled (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, digest BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), content TEXT);
"""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What is known of a point.

    Attributes:
        document: The document it belongs to; None if it names none, or cannot be read.
        digest: Of its id, vectors and payload; empty if it cannot be read.
    """

    document: str | None
    digest: bytes


class PointLedger:
    """The points that one folder should hold.

    Args:
        folder: Of the collection. The file is made when something is first kept in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_NAME
        self._opened: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.path.is_file()

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(LEDGER_NAME + suffix).unlink(missing_ok=True)

    def begin(self, ids: Iterable[EdgeId]) -> None:
        """Say that these points are about to change."""
        with self._database as database:
            database.executemany("INSERT OR IGNORE INTO unsettled VALUES (?)", [(str(id_),) for id_ in ids])

    def settle(self, shard: edge.EdgeShard) -> None:
        """Read the points that changed, and remember what they are now."""
        changed = [row[0] for row in self._database.execute("SELECT id FROM unsettled")]
        for start in range(0, len(changed), PAGE):
            names = changed[start : start + PAGE]
            found = digest_points(shard, [_to_id(name) for name in names])
            with self._database as database:
                database.executemany(
                    "INSERT OR REPLACE INTO points VALUES (?, ?, ?)",
                    [(name, entry.document, entry.digest) for name, entry in found.items()],
                )
                gone = [(name,) for name in names if name not in found]
                database.executemany("DELETE FROM points WHERE id = ?", gone)
                database.executemany("DELETE FROM unsettled WHERE id = ?", [(name,) for name in names])

    def entries(self) -> dict[str, LedgerEntry]:
        """Read all entries, by point id."""
        rows = self._database.execute("SELECT id, document, digest FROM points")
        return {id_: LedgerEntry(document, bytes(digest or b"")) for id_, document, digest in rows}

    def count(self) -> int:
        """Count the points that there should be."""
        return int(self._database.execute("SELECT count(*) FROM points").fetchone()[0])

    def keep_record(self, content: str) -> None:
        """Keep a copy of the collection's own record."""
        with self._database as database:
            database.execute("INSERT OR REPLACE INTO record VALUES (1, ?)", (content,))

    def record(self) -> str | None:
        """Return the copy of the collection's record."""
        if not self.exists:
            return None
        row = self._database.execute("SELECT content FROM record").fetchone()
        return None if row is None else str(row[0])

    def keep_files(self, digests: Mapping[str, bytes]) -> None:
        """Remember the digests of files, instead of those that were remembered."""
        with self._database as database:
            database.execute("DELETE FROM files")
            database.executemany("INSERT INTO files VALUES (?, ?)", list(digests.items()))

    def files(self) -> dict[str, bytes]:
        """Return the digests of files as they were when the folder was closed; empty if it was killed."""
        return {path: bytes(digest) for path, digest in self._database.execute("SELECT * FROM files")}

    def faults(self) -> list[str]:
        """Say what is wrong with the file itself."""
        found = [str(row[0]) for row in self._database.execute("PRAGMA integrity_check(3)")]
        return [] if found == ["ok"] else found

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            # The folder's lock keeps other processes out, and the engine's lock other threads.
            self._opened = sqlite3.connect(self.path, check_same_thread=False)
            self._opened.execute("PRAGMA locking_mode = EXCLUSIVE")  # so that the log needs no shared memory
            self._opened.execute("PRAGMA journal_mode = WAL")
            self._opened.execute("PRAGMA synchronous = NORMAL")  # as the engine: safe from kills, not power
            self._opened.executescript(_TABLES)
        return self._opened


def digest_points(shard: edge.EdgeShard, ids: list[EdgeId]) -> dict[str, LedgerEntry]:
    """Read points and make their entries; those that do not exist have none."""
    records, unreadable = read_points(shard, ids)
    found = {str(record.id): make_entry(record) for record in records}
    return found | {str(id_): LedgerEntry(None, b"") for id_ in unreadable}


def make_entry(record: edge.Record) -> LedgerEntry:
    """Digest a point as the engine gives it back."""
    payload = record.payload or {}
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(json.dumps([str(record.id), payload], sort_keys=True).encode())
    vectors = record.vector if isinstance(record.vector, dict) else {"": record.vector}
    for name in sorted(vectors):
        digest.update(f"{name}:".encode())
        for part in _numbers(vectors[name]):
            digest.update(np.ascontiguousarray(part).tobytes())
    document = payload.get(DOCUMENT_KEY)
    return LedgerEntry(document if isinstance(document, str) else None, digest.digest())


def _numbers(vector: object) -> list[np.ndarray]:
    if isinstance(vector, edge.SparseVector):
        return [np.asarray(vector.indices, dtype="<u4"), np.asarray(vector.values, dtype="<f4")]
    return [] if vector is None else [np.asarray(vector, dtype="<f4")]


def _to_id(name: str) -> EdgeId:
    return to_edge_id(int(name)) if name.isdigit() else uuid.UUID(name)
