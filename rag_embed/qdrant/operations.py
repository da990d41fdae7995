"""What is done to a collection of a server as a whole: aliases, snapshots, and shards by key.

Qdrant does all of it; docs/operations.md says when. A folder is backed up by copying it while it is closed,
and memory by `copy_to`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeVar

from qdrant_client import models

from rag_embed.errors import InputError, StoreError
from rag_embed.qdrant.client_engine import ClientEngine
from rag_embed.qdrant.lifecycle import Flow, StoreLifecycle
from rag_embed.qdrant.port import Engine

T = TypeVar("T")
_NO_SERVER = (
    "expected a server. A folder has one collection by its name: copy the folder while no store has it open, "
    "or copy_to() another place"
)


class StoreOperations(StoreLifecycle):
    """Operations on the collection of a server; mixed into a store."""

    def create_snapshot(self) -> str:
        """Let the server write a snapshot of the collection, of the node that answers.

        Returns:
            Its name, by which `restore_snapshot` and the server's REST interface find it.

        Raises:
            InputError: The collection is in no server.
        """
        return self._run(_on_server("create_snapshot", _create_snapshot))

    async def acreate_snapshot(self) -> str:
        """Do what `create_snapshot` does, awaiting."""
        return await self._arun(_on_server("create_snapshot", _create_snapshot))

    def list_snapshots(self) -> list[str]:
        """Name the collection's snapshots on the node that answers, oldest first."""
        return self._run(_on_server("list_snapshots", _list_snapshots))

    async def alist_snapshots(self) -> list[str]:
        """Do what `list_snapshots` does, awaiting."""
        return await self._arun(_on_server("list_snapshots", _list_snapshots))

    def restore_snapshot(self, location: str) -> None:
        """Bring the collection to what a snapshot holds; what was written since is gone.

        Args:
            location: A URL that the server can fetch, or "file:///qdrant/snapshots/..." on its own disk.
        """
        self._run(_on_server("restore_snapshot", lambda engine: _restore(engine, location)))
        self._collection.forget()

    async def arestore_snapshot(self, location: str) -> None:
        """Do what `restore_snapshot` does, awaiting."""
        await self._arun(_on_server("restore_snapshot", lambda engine: _restore(engine, location)))
        self._collection.forget()

    def point_alias(self, alias: str) -> None:
        """Let a name mean this collection from now on, in one step, whatever it meant before.

        Stores that were opened by that name read and write here from their next request on.

        Raises:
            StoreError: This collection does not exist, or a collection has that name.
        """
        self._run(_on_server("point_alias", lambda engine: _point_alias(engine, alias)))

    async def apoint_alias(self, alias: str) -> None:
        """Do what `point_alias` does, awaiting."""
        await self._arun(_on_server("point_alias", lambda engine: _point_alias(engine, alias)))

    def create_shard_key(self, key: int | str) -> None:
        """Make the shards of one more key in a collection whose shards are named."""
        self._run(_on_server("create_shard_key", lambda engine: engine.create_shard_key(key)))

    async def acreate_shard_key(self, key: int | str) -> None:
        """Do what `create_shard_key` does, awaiting."""
        await self._arun(_on_server("create_shard_key", lambda engine: engine.create_shard_key(key)))


def _on_server(name: str, flow: Callable[[ClientEngine], Coroutine[object, None, T]]) -> Flow[T]:
    """Refuse an operation of servers in a folder and in memory."""

    def checked(engine: Engine) -> Coroutine[object, None, T]:
        if not isinstance(engine, ClientEngine) or engine.is_local:
            raise InputError(f"{name}() was called for a collection in {engine.where}; {_NO_SERVER}")
        return flow(engine)

    return checked


async def _create_snapshot(engine: ClientEngine) -> str:
    made = await engine.call(lambda client, name: client.create_snapshot(name, wait=True))
    if made is None:
        raise StoreError(f"{engine.where} made no snapshot; expected a description of it. Read its log")
    return str(made.name)


async def _list_snapshots(engine: ClientEngine) -> list[str]:
    found = await engine.call(lambda client, name: client.list_snapshots(name))
    return [each.name for each in sorted(found, key=lambda each: (each.creation_time or "", each.name))]


async def _restore(engine: ClientEngine, location: str) -> None:
    # Of all copies of a shard that a cluster has, the snapshot's counts.
    priority = models.SnapshotPriority.SNAPSHOT
    await engine.call(
        lambda client, name: client.recover_snapshot(name, location, priority=priority, wait=True)
    )


async def _point_alias(engine: ClientEngine, alias: str) -> None:
    known = await engine.call(lambda client, _: client.get_aliases())
    steps: list[models.AliasOperations] = []
    if any(each.alias_name == alias for each in known.aliases):
        steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    target = models.CreateAlias(collection_name=engine.collection_name, alias_name=alias)
    steps.append(models.CreateAliasOperation(create_alias=target))
    await engine.call(lambda client, _: client.update_collection_aliases(steps))
