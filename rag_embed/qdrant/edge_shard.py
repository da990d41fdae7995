"""The engine's shard with what it lacks: a look at the disk's room before it writes, and a ledger."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import qdrant_edge as edge

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_check import EdgeCheck, digest_files, make_indexes_anew
from rag_embed.qdrant.edge_faults import find_ids, is_panic, read_points
from rag_embed.qdrant.edge_filters import EdgeId
from rag_embed.qdrant.edge_folder import CollectionFile, EdgeFolder
from rag_embed.qdrant.edge_ledger import PointLedger
from rag_embed.qdrant.edge_log import advance_log, delete_index, make_index
from rag_embed.qdrant.edge_optimizing import optimize_folder
from rag_embed.qdrant.integrity import IntegrityReport
from rag_embed.qdrant.records import count_numbers

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
        self._is_writing = False
        self._are_files_sound = True

    def close(self) -> None:
        """Bring everything to disk and close the files."""
        self.engine.flush()
        self.engine.close()
        if self._is_writing and self._are_files_sound:
            self._ledger.keep_files(digest_files(self._folder.shard))

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

    def upsert(self, points: list[edge.Point], condition: edge.Filter | None = None) -> None:
        """Insert points, or overwrite those that satisfy the condition."""
        self._folder.check_room(WRITING_BYTES + sum(_needed_bytes(point) for point in points))
        self._begin_writing()
        with self._settled([point.id for point in points]):
            self.engine.update(edge.UpdateOperation.upsert_points(points, condition=condition))

    def delete(self, condition: edge.Filter) -> None:
        """Delete the points that satisfy a condition, readable or not."""
        for ids in list(find_ids(self.engine, condition)):
            self._folder.check_room()
            self._begin_writing()
            with self._settled(ids):
                # The engine reads what it deletes, and once it failed at that it writes nothing more.
                unreadable = read_points(self.engine, ids)[1]
                if unreadable:
                    self.engine.update(edge.UpdateOperation.overwrite_payload(unreadable, {}))
                self.engine.update(edge.UpdateOperation.delete_points(ids))
                if unreadable:
                    make_indexes_anew(self.engine)  # they still hold what could not be read

    def index(self, key: str, schema: edge.PayloadSchemaType | edge.PayloadSchemaParams) -> None:
        """Index a payload key, in the place of the index that it has."""
        self._folder.check_room(_INDEX_BYTES_PER_POINT * self.engine.info().points_count)
        self._begin_writing()
        make_index(self.engine, key, schema)

    def unindex(self, key: str) -> None:
        """Delete the index of a payload key."""
        self._begin_writing()
        delete_index(self.engine, key)

    def optimize(self) -> None:
        """Build the graph and drop deleted points, in a child process.

        Raises:
            StoreError: The child failed, or the disk has no room; the collection is as it was.
        """
        files = (path.stat() for path in self._folder.shard.rglob("*") if path.is_file())
        self._folder.check_room(sum(file.st_blocks * 512 for file in files))
        self._begin_writing()
        self.engine.flush()
        self.engine.close()
        try:
            fault = optimize_folder(self._folder.shard, os.getpid())
        finally:
            self.engine = edge.EdgeShard.load(str(self._folder.shard))
        if fault is not None:
            raise StoreError(f"{self._folder.path}: optimizing failed: {fault}")
        self._are_files_sound = True  # they are new

    def check(self, content: CollectionFile) -> IntegrityReport:
        """Read everything and compare it with what was written; see `EdgeCheck`."""
        self._folder.check_room()
        if not self._ledger.exists:
            lost = "the ledger is missing, so that nothing says what was written"
            return IntegrityReport(self._count(), faults=(lost,))
        self._ledger.settle(self.engine)
        if self._is_writing and self._are_files_sound:
            self.engine.flush()
            self._ledger.keep_files(digest_files(self._folder.shard))
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

    def _begin_writing(self) -> None:
        """Before the first write, look whether what it will change is as it was left, and can be changed."""
        if self._is_writing:
            return
        wanted = self._ledger.files()
        self._are_files_sound = not wanted or wanted == digest_files(self._folder.shard)
        if self._are_files_sound:
            self._ledger.keep_files({})  # until they are closed
        self._is_writing = True
        advance_log(self.engine)

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
    try:
        engine = edge.EdgeShard.load(str(folder.shard))
    except BaseException as error:
        if "WAL" not in str(error) or not (is_panic(error) or type(error) is Exception):
            raise
        # All that was flushed is in the segments, and the ledger knows what else there should be.
        aside = folder.set_log_aside()
        logger.warning(
            "the log of %s cannot be read (%s) and was moved to %s; what was not yet flushed may be missing. "
            "`rag-embed info --check` says which documents to index again",
            *(folder.path, error, aside),
        )
        engine = edge.EdgeShard.load(str(folder.shard))
    shard = WatchedShard(folder, ledger, engine)
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
    numbers = sum(map(count_numbers, vectors.values()))
    return 4 * len(repr(point.payload)) + 16 * numbers + 1_000
