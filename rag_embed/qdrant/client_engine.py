"""The engine behind qdrant-client: a server over REST or gRPC, or the client's local mode in memory."""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from rag_embed.errors import InputError
from rag_embed.qdrant.client_models import read_info, to_batch, to_prefetch, to_query
from rag_embed.qdrant.cluster import NO_CLUSTER, ONE_SHARD, ClusterOptions
from rag_embed.qdrant.deadline import answer_within
from rag_embed.qdrant.port import (
    Candidates,
    CollectionInfo,
    PointId,
    Search,
    StoredPoint,
    VectorPrefix,
)
from rag_embed.qdrant.records import name_vectors, select_vectors, to_candidates, to_point_id, to_stored_point
from rag_embed.qdrant.retry import RetryPolicy

T = TypeVar("T")


class ClientEngine:
    """One collection behind a client of qdrant-client.

    With a `QdrantClient` every operation blocks, with an `AsyncQdrantClient` it awaits; the code is the same.

    Args:
        client: Either client; left open when the engine is done.
        collection_name: The collection, which need not exist.
        where: How messages name the client.
        retry: How patiently failures are repeated.
        timeout_s: Longest time from a request to the end of its answer; None leaves that to the client.
        cluster: Which shards are written to and read from, and how consistently.
    """

    def __init__(
        self,
        client: QdrantClient | AsyncQdrantClient,
        collection_name: str,
        *,
        where: str,
        retry: RetryPolicy,
        timeout_s: float | None = None,
        cluster: ClusterOptions = NO_CLUSTER,
    ) -> None:
        self.client = client
        self.where = where
        self.collection_name = collection_name
        self._cluster = cluster
        self._pinned: list[int | str] = []
        self._retry = retry
        self._timeout_s = timeout_s
        self._blocks = isinstance(client, QdrantClient)
        self._sleep = _block if self._blocks else asyncio.sleep
        self.is_local = is_local(client)
        # A server sorts out concurrent requests itself.
        free = nullcontext(), nullcontext()
        self._lock, self.writing = _locks_of(client) if self.is_local else free

    def in_shards(self, shard_identifier: object) -> ClientEngine:
        """Give the same collection, of which only the named shards are written to and read.

        Raises:
            InputError: There are no shards here, or that names none.
        """
        if self.is_local:
            raise InputError(f"shard_identifier={shard_identifier!r} for {self.where}: {ONE_SHARD}")
        engine = copy.copy(self)
        engine._pinned = self._cluster.select(shard_identifier)
        return engine

    async def describe(self) -> CollectionInfo | None:
        """Describe the collection; None if it does not exist."""
        if not await self._call(lambda: self.client.collection_exists(self.collection_name)):
            return None
        info = await self._call(lambda: self.client.get_collection(self.collection_name))
        return read_info(info, is_local=self.is_local)

    async def create(self, request: models.CreateCollection) -> None:
        """Create the collection."""
        await self._call(
            lambda: self.client.create_collection(
                self.collection_name,
                vectors_config=request.vectors,
                sparse_vectors_config=request.sparse_vectors,
                shard_number=request.shard_number,
                replication_factor=request.replication_factor,
                write_consistency_factor=request.write_consistency_factor,
                sharding_method=request.sharding_method,
                on_disk_payload=request.on_disk_payload,
                hnsw_config=request.hnsw_config,
                optimizers_config=request.optimizers_config,
                metadata=request.metadata,
            )
        )
        for key in self._cluster.shard_keys:
            await self.create_shard_key(key)

    async def call(self, request: Callable[[Any, str], Any]) -> Any:
        """Ask the client something else about the collection, with the same patience."""
        return await self._call(lambda: request(self.client, self.collection_name))

    async def create_shard_key(self, key: int | str) -> None:
        """Make the shards of a key, as many and with as many copies as the collection's settings say."""
        await self._call(lambda: self.client.create_shard_key(self.collection_name, key))

    async def set_metadata(self, metadata: Mapping[str, object]) -> None:
        """Merge values into the collection's metadata."""
        await self._call(lambda: self.client.update_collection(self.collection_name, metadata=dict(metadata)))

    async def create_index(self, key: str, schema: models.PayloadFieldSchema) -> None:
        """Index a payload key; local mode has no indexes and needs none to give the same answers."""
        if not self.is_local:
            await self._call(
                lambda: self.client.create_payload_index(
                    self.collection_name, key, field_schema=schema, wait=True
                )
            )

    async def drop(self) -> None:
        """Delete the collection, if it exists."""
        await self._call(lambda: self.client.delete_collection(self.collection_name))

    async def upsert(
        self,
        points: Sequence[StoredPoint],
        vector_name: str,
        prefix: VectorPrefix | None,
        condition: models.Filter | None = None,
    ) -> None:
        """Insert or overwrite points, and wait until they are stored."""
        for options, group in self._cluster.groups(points, self._pinned):
            structs = [
                models.PointStruct(
                    id=point.id,
                    vector=cast(models.VectorStruct, name_vectors(point, vector_name, prefix)),
                    payload=point.payload,
                )
                for point in group
            ]
            write = partial(self.client.upsert, self.collection_name, structs, **options)
            await self._call(partial(write, wait=True, update_filter=condition))

    async def delete(self, condition: models.Filter) -> None:
        """Delete the points that satisfy a condition, and wait until they are gone."""
        keys = self._pinned or self._cluster.keys_of(condition)
        if self._cluster.is_sharded and not keys:
            keys = await self._find_shard_keys()  # a write that names no shard of these reaches none
        options = self._cluster.writing(keys or [])
        selector = models.FilterSelector(filter=condition)
        await self._call(lambda: self.client.delete(self.collection_name, selector, wait=True, **options))

    async def _find_shard_keys(self) -> list[int | str]:
        info = await self._call(lambda: self.client.collection_cluster_info(self.collection_name))
        keys = [shard.shard_key for shard in info.local_shards] + [
            shard.shard_key for shard in info.remote_shards
        ]
        return sorted({key for key in keys if key is not None}, key=str)

    async def flush(self) -> None:
        """Do nothing: a server sees to that itself, and memory has no disk."""

    async def retrieve(
        self,
        ids: Sequence[PointId],
        vector_name: str,
        others: Sequence[str] = (),
        *,
        with_payload: bool = False,
    ) -> list[StoredPoint]:
        """Fetch the vectors of those of the points that exist."""
        records = await self._call(
            lambda: self.client.retrieve(
                self.collection_name,
                list(ids),
                with_payload=with_payload,
                with_vectors=select_vectors(vector_name, others),
                **self._cluster.reading(None, self._pinned),
            )
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
        records, following = await self._call(
            lambda: self.client.scroll(
                self.collection_name,
                scroll_filter=condition,
                limit=limit,
                offset=offset,
                with_payload=True if keys is None else list(keys),
                with_vectors=select_vectors(vector_name, others) if vector_name is not None else False,
                **self._cluster.reading(condition, self._pinned),
            )
        )
        points = [to_stored_point(record, vector_name or "", others=others) for record in records]
        return points, to_point_id(following) if following is not None else None

    async def search(self, search: Search) -> list[StoredPoint]:
        """Find the best points."""
        response = await self._call(
            lambda: self.client.query_points(
                self.collection_name,
                query=to_query(search),
                using=search.vector_name or None,
                prefetch=to_prefetch(search),
                query_filter=search.condition,
                # Local mode is always exact, and warns of parameters.
                search_params=None if self.is_local else search.search_params,
                limit=search.limit,
                with_payload=search.with_payload,
                with_vectors=select_vectors(search.vector_name) if search.with_vector else False,
                **self._cluster.reading(search.condition, self._pinned),
            )
        )
        return [to_stored_point(point, search.vector_name, point.score) for point in response.points]

    async def search_legs(self, searches: Sequence[Search]) -> Candidates:
        """Find candidates by several searches, and score each candidate by all of them."""
        options = self._cluster.reading(searches[0].condition, self._pinned)
        shards = options.pop("shard_key_selector", None)  # a batch has it in each of its requests
        requests = to_batch(searches, shards, is_local=self.is_local)
        replies = await self._call(
            lambda: self.client.query_batch_points(self.collection_name, requests, **options)
        )
        return to_candidates([reply.points for reply in replies], searches[0].vector_name)

    async def count(self, condition: models.Filter | None) -> int:
        """Count points exactly."""
        options = self._cluster.reading(condition, self._pinned)
        options.pop("consistency", None)  # counting knows none
        result = await self._call(
            lambda: self.client.count(self.collection_name, count_filter=condition, exact=True, **options)
        )
        return result.count

    async def _call(self, request: Callable[[], T | Awaitable[T]]) -> T:
        async def attempt() -> T:
            if not self.is_local:
                return await answer_within(self._timeout_s, request, blocks=self._blocks)
            with self._lock:
                reply = request()
            return await reply if inspect.isawaitable(reply) else reply

        return await self._retry.call(attempt, self._sleep, self.where)


Locks: TypeAlias = tuple[AbstractContextManager[object], AbstractContextManager[object]]

_locks: weakref.WeakKeyDictionary[object, Locks] = weakref.WeakKeyDictionary()
_naming = threading.Lock()


def _locks_of(client: object) -> Locks:
    """Find the locks of a local client, one for an operation and one for a write of several.

    Local mode is numpy without locks, and stores that share a client share its data.
    """
    with _naming:
        return _locks.setdefault(client, (threading.RLock(), threading.RLock()))


def is_local(client: QdrantClient | AsyncQdrantClient) -> bool:
    """Whether a client is its own database rather than talking to a server."""
    options = client.init_options
    return options.get("location") == ":memory:" or options.get("path") is not None


async def _block(seconds: float) -> None:
    # Driven without an event loop, so it may.
    time.sleep(seconds)
