"""The engine's shard with what it lacks: a look at the disk's room before it writes, and a ledger."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import qdrant_edge as edge

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_check import EdgeCheck, digest_graphs, make_indexes_anew
from rag_embed.qdrant.edge_faults import find_ids, read_points
from rag_embed.qdrant.edge_folder import CollectionFile, EdgeFolder
from rag_embed.qdrant.edge_ledger import PointLedger
from rag_embed.qdrant.edge_models import EdgeId
from rag_embed.qdrant.edge_optimizing import optimize_folder
from rag_embed.qdrant.integrity import IntegrityReport

OPENING_BYTES = 32_000_000
"""Beside the reserve: where reading a hole fills it (tmpfs), opening takes as much as a page of vectors."""

WRITING_BYTES = 48_000_000
"""Beside the reserve and the points themselves, so that after the last write there is room to open again."""

_FIRST_WITH_LEDGER = 2
_INDEX_BYTES_PER_POINT = 200

logger = logging.getLogger(__name__)


class WatchedShard:
    """The shard of one folder; made by `load_shard` and `create_shard`.

    Attributes:
        engine: The engine's own object, for whatever reads.
    """

    def __init__(self, folder: EdgeFolder, ledger: PointLedger, engine: edge.EdgeShard) -> None:
        self.engine = engine
        self._folder = folder
        self._ledger = ledger

    def close(self) -> None:
        """Bring everything to disk and close the files."""
        try:
            self.engine.flush()
            self.engine.close()
        finally:
            self._ledger.close()

    def discard(self) -> None:
        """Close the files and delete the collection."""
        self.engine.close()
        self._folder.remove()
        self._ledger.remove()

    def write_record(self, content: CollectionFile) -> None:
        """Write the collection's record, and its copy."""
        self._folder.check_room()
        self._folder.write(content.to_text())
        self._ledger.keep_record(content.to_text())

    def upsert(self, points: list[edge.Point]) -> None:
        """Insert or overwrite points."""
        self._folder.check_room(WRITING_BYTES + sum(_needed_bytes(point) for point in points))
        with self._settled([point.id for point in points]):
            self.engine.update(edge.UpdateOperation.upsert_points(points))

    def delete(self, condition: edge.Filter) -> None:
        """Delete the points that satisfy a condition, readable or not."""
        for ids in list(find_ids(self.engine, condition)):
            self._folder.check_room()
            with self._settled(ids):
                # The engine reads what it deletes, and once it failed at that it writes nothing more.
                unreadable = read_points(self.engine, ids)[1]
                if unreadable:
                    self.engine.update(edge.UpdateOperation.overwrite_payload(unreadable, {}))
                self.engine.update(edge.UpdateOperation.delete_points(ids))
                if unreadable:
                    make_indexes_anew(self.engine)  # they still hold what could not be read

    def index(self, operation: edge.UpdateOperation) -> None:
        """Make or delete a payload index."""
        self._folder.check_room(_INDEX_BYTES_PER_POINT * self.engine.info().points_count)
        self.engine.update(operation)

    def optimize(self) -> None:
        """Build the graph and drop deleted points, in a child process.

        Raises:
            StoreError: The child failed, or the disk has no room; the collection is as it was.
        """
        files = (path.stat() for path in self._folder.shard.rglob("*") if path.is_file())
        self._folder.check_room(sum(file.st_blocks * 512 for file in files))
        self.engine.flush()
        self.engine.close()
        try:
            fault = optimize_folder(self._folder.shard, os.getpid())
        finally:
            self.engine = edge.EdgeShard.load(str(self._folder.shard))
        if fault is not None:
            raise StoreError(f"{self._folder.path}: optimizing failed: {fault}")
        self._ledger.keep_files(digest_graphs(self._folder.shard))

    def check(self, content: CollectionFile) -> IntegrityReport:
        """Read everything and compare it with what was written; see `EdgeCheck`."""
        self._folder.check_room()
        if not self._ledger.exists:
            lost = "the ledger is missing, so that nothing says what was written"
            return IntegrityReport(self._count(), faults=(lost,))
        self._ledger.settle(self.engine)
        check = EdgeCheck(self.engine, self._folder.shard, content.vectors, self._ledger)
        return check.run(content.to_text())

    def catch_up(self, content: CollectionFile) -> None:
        """Settle what a killed process left open, and warn if there is not as much as there should be."""
        try:
            if content.version < _FIRST_WITH_LEDGER:
                for ids in find_ids(self.engine):
                    self._ledger.begin(ids)
                self._ledger.settle(self.engine)
                content.version = _FIRST_WITH_LEDGER
                self.write_record(content)
            elif not self._ledger.exists:
                self._warn("has lost its ledger, which says what it should hold")
            else:
                self._ledger.settle(self.engine)
                if self._count() != self._ledger.count():
                    self._warn(f"holds {self._count()} points; {self._ledger.count()} were written")
        except sqlite3.Error as error:
            self._warn(f"has a ledger that cannot be read ({error})")

    def _warn(self, fault: str) -> None:
        logger.warning("%s %s. `rag-embed info --check` says what is damaged", self._folder.path, fault)

    def _count(self) -> int:
        return self.engine.count(edge.CountRequest(exact=True))

    @contextmanager
    def _settled(self, ids: Sequence[EdgeId]) -> Iterator[None]:
        """Change points, and keep in the ledger what became of them."""
        self._ledger.begin(ids)
        yield
        self._ledger.settle(self.engine)


def load_shard(folder: EdgeFolder, ledger: PointLedger, content: CollectionFile) -> WatchedShard:
    """Open the files of a collection, if the disk has room for what the engine writes then."""
    folder.check_room(OPENING_BYTES)
    shard = WatchedShard(folder, ledger, edge.EdgeShard.load(str(folder.shard)))
    shard.catch_up(content)
    return shard


def create_shard(
    folder: EdgeFolder, ledger: PointLedger, content: CollectionFile, config: edge.EdgeConfig
) -> WatchedShard:
    """Make the files of a new collection; the record comes last."""
    folder.check_room(WRITING_BYTES)
    folder.claim()
    ledger.remove()
    shard = WatchedShard(folder, ledger, edge.EdgeShard.create(str(folder.shard), config))
    shard.engine.flush()
    shard.write_record(content)
    return shard


def _needed_bytes(point: edge.Point) -> int:
    """Estimate, generously, what a point takes: in the log, the storages, the indexes and the ledger."""
    vectors = point.vector if isinstance(point.vector, dict) else {"": point.vector}
    numbers = sum(len(vector) for vector in vectors.values() if isinstance(vector, list))
    return 4 * len(repr(point.payload)) + 16 * numbers + 1_000
