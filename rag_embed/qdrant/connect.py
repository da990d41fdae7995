"""Where a store's collection is, and the engines that reach it."""

from __future__ import annotations

import asyncio
import threading
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from qdrant_client import AsyncQdrantClient, QdrantClient

from rag_embed.errors import InputError
from rag_embed.qdrant.client_engine import ClientEngine, is_local
from rag_embed.qdrant.cluster import NO_CLUSTER, ClusterOptions
from rag_embed.qdrant.edge_folder import collection_folder
from rag_embed.qdrant.retry import RetryPolicy
from rag_embed.qdrant.secrecy import check_address, without_credentials

if TYPE_CHECKING:
    from rag_embed.qdrant.edge_engine import EdgeEngine

BlockingEngine: TypeAlias = "ClientEngine | EdgeEngine"

MEMORY = ":memory:"
_INSECURE = "(Api key|Auth token provider) is used with an insecure connection"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Connection:
    """Opens the engine of one collection, when it is first needed.

    Exactly one of `path`, `url`, `location` and the two clients says where the collection is.

    Attributes:
        collection_name: The collection.
        path: Folder of the embedded engine.
        url: Server.
        location: ":memory:", or a server.
        client: Somebody's client, which stays theirs.
        aclient: The same for async; never together with a client in local mode, for they would share nothing.
        options: More arguments of QdrantClient for `url`.
        retry: How patiently a server is asked again.
        cluster: Which shards are written to and read from, and how consistently.
    """

    collection_name: str
    path: str | None = None
    url: str | None = None
    location: str | None = None
    client: QdrantClient | None = None
    aclient: AsyncQdrantClient | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    cluster: ClusterOptions = NO_CLUSTER

    def __post_init__(self) -> None:
        check_address(self.url)
        check_address(self.location)
        given = {
            "path": self.path is not None,
            "url": self.url is not None,
            "location": self.location is not None,
            "client": self.client is not None or self.aclient is not None,
        }
        found = [name for name, is_given in given.items() if is_given]
        if len(found) != 1:
            raise InputError(
                f"found {' and '.join(found) or 'no place'} for collection {self.collection_name!r}; "
                f'expected exactly one of path=, url=, location="{MEMORY}" and client= (or aclient=)'
            )
        if MEMORY in (self.path, self.url):
            raise InputError(f'{found[0]}="{MEMORY}" is no {found[0]}; pass location="{MEMORY}"')
        if self.location not in (None, MEMORY):
            self.url, self.location = self.location, None
        if self.aclient is not None and self.client is not None and is_local(self.client):
            raise InputError(
                "client= is in local mode and aclient= is given too; the two would hold different data. "
                "Pass client= alone: async methods use it on a thread"
            )
        # Whoever comes second must get what the first one opens: a second database in memory would be empty.
        self._opening = threading.Lock()
        self._blocking: BlockingEngine | None = None
        self._owned: QdrantClient | None = None
        self._async: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ClientEngine] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def one_shard(self) -> str | None:
        """Name a place that is one shard and one copy, a folder or memory; None for a server."""
        if self.path is not None:
            return f"folder {self.path!r}"
        client = self.client or self.aclient
        is_one = self.location is not None or (client is not None and is_local(client))
        return MEMORY if is_one else None

    @property
    def is_in_memory(self) -> bool:
        """Whether the data live and die with this process."""
        return self.location is not None

    def blocking(self) -> BlockingEngine:
        """Open, or return, the engine of the sync methods.

        Raises:
            StoreLockedError: Another process holds the folder.
            MissingExtraError: The embedded engine is not installed.
            InputError: There is only an async client.
        """
        with self._opening:
            if self._blocking is None:
                self._blocking = self._open()
            return self._blocking

    def for_loop(self) -> ClientEngine | None:
        """Return the engine that awaits on the running loop; None where async means a thread.

        A connection belongs to the loop it was made on, so every loop has a client of its own.
        """
        if self.url is None and self.aclient is None:
            return None
        loop = asyncio.get_running_loop()
        with self._opening:
            engine = self._async.get(loop)
            if engine is None:
                client = self.aclient or _quietly(AsyncQdrantClient, self.url, self.options)
                engine = self._async[loop] = self._client_engine(client)
            return engine

    def close(self) -> None:
        """Free the folder or the connections that this object opened."""
        with self._opening:
            engine, self._blocking = self._blocking, None
            owned, self._owned = self._owned, None
        if engine is not None and not isinstance(engine, ClientEngine):
            engine.close()
        if owned is not None:
            owned.close()

    async def aclose(self) -> None:
        """Close, including the async connection of the running loop."""
        await self.close_loop()
        self.close()

    async def close_loop(self) -> None:
        """Close the async connection of the running loop; it opens again when needed."""
        with self._opening:
            engine = self._async.pop(asyncio.get_running_loop(), None)
        if engine is not None and self.aclient is None and isinstance(engine.client, AsyncQdrantClient):
            await engine.client.close()

    def _open(self) -> BlockingEngine:
        if self.path is not None:
            from rag_embed.qdrant.edge_engine import open_engine

            return open_engine(collection_folder(Path(self.path), self.collection_name))
        if self.client is not None:
            return self._client_engine(self.client)
        if self.aclient is not None:
            raise InputError(
                "the store was given aclient= alone, and a sync method was called; expected client= too. "
                "Pass client=, or use the async method"
            )
        if self.url is not None:
            self._owned = _quietly(QdrantClient, self.url, self.options)
        else:
            self._owned = QdrantClient(location=MEMORY)
        return self._client_engine(self._owned)

    def _client_engine(self, client: QdrantClient | AsyncQdrantClient) -> ClientEngine:
        address = self.url or client.init_options.get("url") or client.init_options.get("host")
        is_ours = client not in (self.client, self.aclient)
        where = "local Qdrant in this process"
        if not is_local(client):
            where = f"Qdrant server {without_credentials(str(address))}"
        return ClientEngine(
            client,
            self.collection_name,
            where=where,
            retry=self.retry,
            timeout_s=self.options.get("timeout") if is_ours else None,
            cluster=self.cluster,
        )


def _quietly(kind: type[Any], url: str | None, options: Mapping[str, Any]) -> Any:
    """Make a client that asks nothing on creation, and does not call an api key on loopback insecure."""
    with warnings.catch_warnings():
        host = urlsplit(url if url and "//" in url else f"//{url}").hostname
        if host in _LOOPBACK:
            warnings.filterwarnings("ignore", message=_INSECURE)
        return kind(url=url, check_compatibility=False, **options)
