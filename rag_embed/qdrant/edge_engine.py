"""The embedded engine: Qdrant's own Rust engine in this process, on a folder (qdrant-edge-py).

Search is exact: without `optimize` the engine builds no graph, and comparing with every vector takes 2 ms at
20,000 x 384. A graph pays from some 100,000 chunks on, is built only when `optimize` is called, and then in a
child process, because the engine keeps Python's lock for all of the seconds it takes.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from qdrant_client import models

from rag_embed.errors import MissingExtraError, StoreError, StoreLockedError
from rag_embed.qdrant.edge_folder import CollectionFile, EdgeFolder, merge_metadata
from rag_embed.qdrant.integrity import IntegrityReport
from rag_embed.qdrant.port import (
    Candidates,
    CollectionInfo,
    PointId,
    Search,
    StoredPoint,
    VectorPrefix,
)
from rag_embed.qdrant.records import select_vectors, to_candidates, to_point_id, to_stored_point

try:
    import qdrant_edge as edge

    from rag_embed.qdrant import edge_filters, edge_indexes, edge_models
    from rag_embed.qdrant.edge_faults import engine_errors, name_unreadable
    from rag_embed.qdrant.edge_ledger import PointLedger
    from rag_embed.qdrant.edge_shard import WatchedShard, create_shard, load_shard
except ImportError as error:
    raise MissingExtraError(
        f"path= needs the embedded Qdrant engine, which is not installed ({error}); "
        "pip install 'rag-embed[local]', or pass url= or client="
    ) from error

_INSTEAD = ". Restore the folder from a copy, or move it away and index again"

FLUSH_EVERY_S = 5.0
"""The period of a Qdrant server."""

_opened: weakref.WeakValueDictionary[Path, EdgeEngine] = weakref.WeakValueDictionary()
_opening = threading.Lock()


class EdgeEngine:
    """One collection in a folder. Open it with `open_engine`, which shares it within the process."""

    def __init__(self, folder: Path) -> None:
        self.where = f"embedded Qdrant in {folder}"
        self.users = 0
        self._path = folder
        self._process = os.getpid()
        self._lock = threading.RLock()
        self.writing = threading.RLock()
        """Held over the steps of one write; single operations of others come in between."""
        self._flushed_at = time.monotonic()
        self._shard: WatchedShard | None = None
        self._folder = EdgeFolder(folder)
        self._ledger = PointLedger(folder)
        self._release = weakref.finalize(self, _free, self._folder, self._ledger)
        try:
            with engine_errors(self.where, lambda found: found + _INSTEAD):
                self._file = self._folder.read(self._ledger.record)
                if self._file is not None:
                    self._shard = load_shard(self._folder, self._ledger, self._file)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Give up one use of the engine; the last one flushes and frees the folder."""
        with _opening, self._lock:
            self.users -= 1
            if self.users > 0 or not self._release.alive:
                return
            try:
                if self._shard is not None and os.getpid() == self._process:
                    with engine_errors(self.where):
                        self._shard.close()
            finally:
                self._shard = None
                _opened.pop(self._path, None)
                self._release()

    async def describe(self) -> CollectionInfo | None:
        """Describe the collection; None if it does not exist."""
        with self._held():
            if self._file is None or self._shard is None:
                return None
            settings = self._folder.read_settings()
            return CollectionInfo(
                self._file.vectors,
                self._file.metadata,
                edge_models.read_edge_indexes(self._shard.engine.info()),
                sparse={name: settings.sparse_of(name) for name in self._file.sparse},
                hnsw=settings.hnsw_config,
                on_disk_payload=settings.on_disk_payload,
            )

    async def create(self, request: models.CreateCollection) -> None:
        """Create the collection."""
        with self._held():
            if self._file is not None:
                raise StoreError(f"{self.where} already exists; expected an empty folder")
            vectors = request.vectors if isinstance(request.vectors, dict) else {"": request.vectors}
            content = CollectionFile(
                vectors={name: params for name, params in vectors.items() if params is not None},
                sparse=sorted(request.sparse_vectors or {}),
                metadata=dict(request.metadata or {}),
            )
            config = edge_models.to_edge_config(request)
            self._shard = create_shard(self._folder, self._ledger, content, config)
            self._file = content

    async def set_metadata(self, metadata: Mapping[str, object]) -> None:
        """Merge values into the collection's metadata."""
        with self._held() as shard:
            if self._file is None:
                raise StoreError(f"{self.where} holds no collection")
            content = self._file.model_copy(
                update={"metadata": merge_metadata(self._file.metadata, metadata)}
            )
            shard.write_record(content)
            self._file = content

    async def create_index(self, key: str, schema: models.PayloadFieldSchema) -> None:
        """Index a payload key."""
        with self._held() as shard:
            shard.index(key, edge_models.to_edge_schema(schema))

    async def drop(self) -> None:
        """Delete the collection, if it exists."""
        with self._held():
            shard, self._shard, self._file = self._shard, None, None
            if shard is not None:
                shard.discard()

    async def upsert(
        self,
        points: Sequence[StoredPoint],
        vector_name: str,
        prefix: VectorPrefix | None,
        condition: models.Filter | None = None,
    ) -> None:
        """Insert or overwrite points; the write-ahead log has them when this returns."""
        batch = [edge_models.to_edge_point(point, vector_name, prefix) for point in points]
        with self._held() as shard:
            shard.upsert(batch, edge_filters.to_edge_filter(condition) if condition else None)

    async def delete(self, condition: models.Filter) -> None:
        """Delete the points that satisfy a condition, readable or not."""
        with self._held() as shard:
            shard.delete(edge_filters.to_edge_filter(condition))

    async def flush(self) -> None:
        """Bring all that was written to disk, unless that was done within the last seconds.

        A flush takes tenths of a second, too long for every small write. A killed process loses nothing by
        that: the log is the system's by then. Only a power failure may, as on a server.
        """
        with self._held() as shard:
            if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
                shard.engine.flush()
                self._flushed_at = time.monotonic()

    async def retrieve(
        self,
        ids: Sequence[PointId],
        vector_name: str,
        others: Sequence[str] = (),
        *,
        with_payload: bool = False,
    ) -> list[StoredPoint]:
        """Fetch the vectors of those of the points that exist."""
        with self._held() as shard:
            records = shard.engine.retrieve(
                [edge_filters.to_edge_id(id_) for id_ in ids],
                with_payload=with_payload,
                with_vector=select_vectors(vector_name, others),
            )
            return [to_stored_point(record, vector_name, others=others) for record in records]

    async def scroll(
        self,
        condition: models.Filter | None,
        vector_name: str | None,
        limit: int,
        offset: PointId | None,
        keys: Sequence[str] | None = None,
        *,
        others: Sequence[str] = (),
    ) -> tuple[list[StoredPoint], PointId | None]:
        """Fetch one page of points ordered by id, and where the next starts."""
        with self._held() as shard:
            records, following = shard.engine.scroll(
                edge.ScrollRequest(
                    offset=edge_filters.to_edge_id(offset) if offset is not None else None,
                    limit=limit,
                    filter=edge_filters.to_edge_filter(condition) if condition else None,
                    with_payload=True if keys is None else list(keys),
                    with_vector=False if vector_name is None else select_vectors(vector_name, others),
                )
            )
            points = [to_stored_point(record, vector_name or "", others=others) for record in records]
            return points, to_point_id(following) if following is not None else None

    async def search(self, search: Search) -> list[StoredPoint]:
        """Find the best points; exactly, unless by quantized vectors or a prefix."""
        with self._held() as shard:
            if search.condition is not None:
                edge_indexes.index_keys(shard, search.condition)
            found = shard.engine.query(edge_models.to_edge_query(search))
            return [to_stored_point(point, search.vector_name, point.score) for point in found]

    async def search_legs(self, searches: Sequence[Search]) -> Candidates:
        """Find candidates by several searches, then score each candidate by all of them.

        A second step costs no round trip here; in one, every scoring search would find all candidates anew.
        """
        with self._held() as shard:
            if searches[0].condition is not None:
                edge_indexes.index_keys(shard, searches[0].condition)
            finders = [search for search in searches if search.limit]
            found = shard.engine.query_batch(edge_models.to_edge_finders(finders))
            ids = {point.id for reply in found for point in reply}
            replies = shard.engine.query_batch(edge_models.to_edge_scorers(searches, ids)) if ids else []
            return to_candidates(replies, searches[0].vector_name)

    async def count(self, condition: models.Filter | None) -> int:
        """Count points exactly."""
        with self._held() as shard:
            edge_filter = edge_filters.to_edge_filter(condition) if condition else None
            return shard.engine.count(edge.CountRequest(exact=True, filter=edge_filter))

    def optimize(self) -> None:
        """Build the graph and drop deleted points, in a child process; other calls wait until it is done.

        Raises:
            StoreError: The child failed, or the disk has no room; the collection is as it was.
        """
        with self._held() as shard:
            shard.optimize()

    def check(self) -> IntegrityReport:
        """Read everything and compare it with what was written; a collection that does not exist is sound."""
        with self._held() as shard:
            return IntegrityReport(0) if self._file is None else shard.check(self._file)

    @contextmanager
    def _held(self) -> Iterator[WatchedShard]:
        """Use the shard alone; without a collection there is no shard, and what needs one raises."""
        if os.getpid() != self._process:
            raise StoreLockedError(
                f"{self.where} was opened by process {self._process}, and this is its child {os.getpid()}; "
                "expected one process. Open a store in the child after closing it in the parent"
            )
        with self._lock:
            if not self._release.alive:
                raise StoreError(f"{self.where} is closed; open another store")
            shard = cast("WatchedShard", self._shard or _NoCollection(self.where))
            with engine_errors(self.where, lambda found: name_unreadable(shard.engine, found)):
                yield shard


class _NoCollection:
    """Stands in for the shard of a collection that does not exist."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __getattr__(self, name: str) -> object:
        raise StoreError(f"{self._where} holds no collection; the first add() makes it")


def _free(folder: EdgeFolder, ledger: PointLedger) -> None:
    ledger.close()
    folder.release()


def open_engine(folder: Path) -> EdgeEngine:
    """Open a collection's folder, or share the engine that has it open in this process already."""
    with _opening:
        engine = _opened.get(folder)
        if engine is None or engine._process != os.getpid():
            engine = _opened[folder] = EdgeEngine(folder)
        engine.users += 1
        return engine
