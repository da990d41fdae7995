"""The life of a store: opening, running one flow at a time or on an event loop, closing, pickling."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self

from rag_embed.errors import InputError, StoreError
from rag_embed.qdrant.client_engine import ClientEngine
from rag_embed.qdrant.cluster import ONE_SHARD, ClusterOptions
from rag_embed.qdrant.collection import Collection
from rag_embed.qdrant.connect import BlockingEngine, Connection
from rag_embed.qdrant.copying import CopyProgress, CopyReport, copy_collection
from rag_embed.qdrant.integrity import IntegrityReport, check_points
from rag_embed.qdrant.port import Engine, run_blocking
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.qdrant.secrecy import KEY_VARIABLE, without_secrets
from rag_embed.qdrant.settings import CollectionSettings

T = TypeVar("T")
Flow = Callable[[Engine], Coroutine[object, None, T]]


def in_shards(flow: Flow[T], options: Mapping[str, object]) -> Flow[T]:
    """Let a flow write to and read from the shards that a call names, if it names any."""
    shard_identifier = options.get("shard_identifier")
    if shard_identifier is None:
        return flow

    def routed(engine: Engine) -> Coroutine[object, None, T]:
        if not isinstance(engine, ClientEngine):
            raise InputError(f"shard_identifier={shard_identifier!r} for {engine.where}: {ONE_SHARD}")
        return flow(engine.in_shards(shard_identifier))

    return routed


class StoreLifecycle:
    """What every store does around its collection; mixed into a pydantic model that has these attributes."""

    collection_name: str
    api_key: str | None
    client_options: dict[str, Any]
    settings: CollectionSettings
    cluster: ClusterOptions
    _connection: Connection
    _collection: Collection
    _is_closed: bool

    def info(self) -> CollectionSchema | None:
        """Read what the collection holds: vector name, dimension, fingerprint. None if it does not exist."""
        return self._run(self._collection.read_schema)

    async def ainfo(self) -> CollectionSchema | None:
        """Do what `info` does, awaiting."""
        return await self._arun(self._collection.read_schema)

    def read_metadata(self) -> dict[str, object]:
        """Read what is written about the collection as a whole; empty if it does not exist."""
        found = self._run(lambda engine: engine.describe())
        return dict(found.metadata) if found is not None else {}

    def update_metadata(self, values: Mapping[str, object]) -> None:
        """Write something about the collection, beside what is there already under other names."""
        self._write(lambda engine: engine.set_metadata(values))

    def optimize(self) -> None:
        """Build the search graph of an embedded folder and drop what was deleted; servers do so unasked.

        Worth its seconds to minutes from some 100,000 chunks on. Other calls of this store wait meanwhile.
        """
        engine = self._engine()
        if not isinstance(engine, ClientEngine):
            engine.optimize()

    def check(self) -> IntegrityReport:
        """Read everything that is stored and compare it with what was written.

        An embedded folder is compared with its ledger, point by point, and its payload indexes are made anew;
        of a server and of memory everything is read and counted.

        Returns:
            What is wrong, and which documents to index again.
        """
        engine = self._engine()
        return engine.check() if not isinstance(engine, ClientEngine) else self._run(self._check)

    async def acheck(self) -> IntegrityReport:
        """Do what `check` does, awaiting."""
        if self._is_closed or self._connection.for_loop() is None:
            return await asyncio.to_thread(self.check)
        return await self._arun(self._check)

    def copy_to(self, target: StoreLifecycle, *, progress: CopyProgress | None = None) -> CopyReport:
        """Copy this collection, with all vectors and payloads, into another store's place.

        The target is made as this one is; of the settings that its store was made with only those of its
        place count: shards, copies, graph, optimizers and payloads on disk. What is there already is not
        written again: a copy that was interrupted or killed is completed by calling this again. Nobody may
        write to either meanwhile.

        Args:
            target: A store whose collection does not exist, is empty, or is an unfinished copy of this one.
            progress: Told how many more points were dealt with; their sum is twice the number of points.

        Returns:
            Counts and digests of both, compared point by point.

        Raises:
            InputError: Both are one collection, or the target's settings say what the copy takes from here.
            StoreError: There is nothing to copy, the target holds something else, or the copy is not equal.
            FingerprintMismatchError: The target's store was opened for another fingerprint.
        """
        source, into = self._engine(), target._engine()
        if source is into or (source.where, self.collection_name) == (into.where, target.collection_name):
            raise InputError(
                f"collection {self.collection_name!r} in {source.where} is source and target; expected two. "
                "Give the copy another name or place"
            )
        target.settings.check_copied()
        # What the target's store was opened for (fingerprint, storage, words, tokens), the source must have.
        run_blocking(target._collection.read_schema(source))
        target._collection.forget()
        with into.writing:
            settings = target.settings.for_cluster(target.cluster)
            return run_blocking(copy_collection(source, into, settings=settings, progress=progress))

    async def acopy_to(self, target: StoreLifecycle, *, progress: CopyProgress | None = None) -> CopyReport:
        """Do what `copy_to` does, on a thread."""
        return await asyncio.to_thread(self.copy_to, target, progress=progress)

    def close(self) -> None:
        """Free the folder or the connections; the store cannot be used afterwards."""
        self._is_closed = True
        self._connection.close()

    async def aclose(self) -> None:
        """Do what `close` does, including the async connections of the running loop."""
        self._is_closed = True
        await self._connection.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __getstate__(self) -> dict[str, Any]:
        if self._connection.is_in_memory or self._connection.client or self._connection.aclient:
            raise TypeError(
                f"the store of {self.collection_name!r} cannot be pickled: its data or its client belong to "
                "this process; expected a store made with url= or path="
            )
        # Who reads a pickle gets no key: its public fields, and whether there was one.
        fields = {name: value for name, value in self.__dict__.items() if name != "api_key"}
        fields["client_options"] = without_secrets(self.client_options)
        return {"__dict__": fields, "has_api_key": self.api_key is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        api_key = os.environ.get(KEY_VARIABLE) if state["has_api_key"] else None
        # BaseComponent would swallow a StoreLockedError and leave a store that does not work.
        self.__init__(**state["__dict__"], api_key=api_key)  # type: ignore[misc]

    async def _check(self, engine: Engine) -> IntegrityReport:
        schema = await self._collection.read_schema(engine)
        return IntegrityReport(0) if schema is None else await check_points(engine, schema.vector_name)

    def _engine(self) -> BlockingEngine:
        if self._is_closed:
            raise StoreError(f"the store of {self.collection_name!r} is closed; make another one")
        return self._connection.blocking()

    def _run(self, flow: Flow[T]) -> T:
        engine = self._engine()
        try:
            return run_blocking(flow(engine))
        except StoreError:
            self._collection.forget()
            raise

    def _write(self, flow: Flow[T], options: Mapping[str, object] | None = None) -> T:
        with self._engine().writing:
            return self._run(in_shards(flow, options or {}))

    async def _arun(self, flow: Flow[T], *, writes: bool = False) -> T:
        engine = None if self._is_closed else self._connection.for_loop()
        if engine is None:
            return await asyncio.to_thread(self._write if writes else self._run, flow)
        try:
            return await flow(engine)
        except StoreError:
            self._collection.forget()
            raise

    async def _awrite(self, flow: Flow[T], options: Mapping[str, object] | None = None) -> T:
        return await self._arun(in_shards(flow, options or {}), writes=True)
