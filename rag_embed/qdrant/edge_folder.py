"""The folder of an embedded collection: who holds it, and what it says of itself.

<path>/<collection>/
├─ .lock             held by the process that has the collection open; the system frees it when that dies
├─ .unfinished       there while a collection is made or deleted; without `collection.json` beside it, it
│                    proves that the engine's files in `shard` are a half-made or half-deleted collection
├─ collection.json   vectors, metadata; written last at creation, so that without it nothing was promised
├─ ledger.db         the points that should be there, each with a digest, and a copy of collection.json
└─ shard/            the engine's own files: mmaps, JSON, a write-ahead log; nothing is ever unpickled

Opening and reading delete nothing. Making and deleting a collection delete the engine's own entries of
`shard`, and those only with one of the two files that prove them to be ours.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import portalocker
from pydantic import BaseModel, ValidationError
from qdrant_client import models

from rag_embed.errors import InputError, StoreError, StoreLockedError

RESERVED_BYTES = 16_000_000
"""What must be free for anything: the engine maps files with holes, and dies where one cannot be filled."""

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[^/\\:*?\"<>|\x00-\x1f]{1,200}")
_ENGINE_ENTRIES = ("segments", "wal", "edge_config.json")
_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class CollectionFile(BaseModel):
    """Content of `collection.json`.

    Attributes:
        version: 2 where a ledger belongs to it, 1 where it was written before there were ledgers.
        vectors: The dense vectors by name.
        metadata: Free values.
    """

    version: int = 2
    vectors: dict[str, models.VectorParams]
    sparse: list[str] = []
    metadata: dict[str, object]

    def to_text(self) -> str:
        """Write it as JSON."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), indent=2)


class EngineSettings(BaseModel):
    """What the engine's own `edge_config.json` says and `collection.json` does not."""

    sparse_vectors: dict[str, models.SparseVectorParams] = {}
    hnsw_config: models.HnswConfigDiff | None = None
    on_disk_payload: bool | None = None

    def sparse_of(self, name: str) -> models.SparseVectorParams:
        """Find the settings of a sparse vector."""
        return self.sparse_vectors.get(name, models.SparseVectorParams())


class EdgeFolder:
    """One collection's folder, held by this process until `release`.

    Raises:
        StoreLockedError: Another process holds it.
        StoreError: It is something else's folder, cannot be written, or lies on a full disk.
    """

    def __init__(self, folder: Path) -> None:
        _check_foreign(folder.parent)
        self.path = folder
        self.shard = folder / "shard"
        self._file = folder / "collection.json"
        self._unfinished = folder / ".unfinished"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _acquire(folder / ".lock")
        except OSError as error:
            if error.errno in _IS_FULL:
                raise _full(folder, RESERVED_BYTES) from error
            raise StoreError(
                f"{folder} cannot be written ({error.strerror}); expected a folder that can: the "
                "embedded engine writes a lock and a log there even to search. Change its permissions, or "
                "copy it to where you may write, and open the copy"
            ) from error

    def release(self) -> None:
        """Let other processes have the folder; may be called twice."""
        self._lock.close()

    def check_room(self, needed_bytes: int = 0) -> None:
        """Refuse to let the engine write what the disk cannot take; it would be killed by a signal.

        Raises:
            StoreError: Names the folder, and the free and needed bytes.
        """
        if shutil.disk_usage(self.path).free < RESERVED_BYTES + needed_bytes:
            raise _full(self.path, RESERVED_BYTES + needed_bytes)

    def read(self, copy: Callable[[], str | None]) -> CollectionFile | None:
        """Read what the folder holds; None if no collection was ever completed in it.

        Args:
            copy: Gives the content to restore the record with, if that alone is missing.

        Raises:
            StoreError: The record cannot be read, or is missing beside an engine's files and has no copy.
        """
        try:
            content = CollectionFile.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            if self._unfinished.exists() or not (self.shard / "edge_config.json").exists():
                return None
            kept = copy()
            if kept is None:
                raise StoreError(
                    f"{self.shard} holds an index, and its record {self._file} is missing; expected both. "
                    "Restore that file from a copy, or move the folder away and index again"
                ) from None
            logger.warning("%s was missing; restored from the copy in the ledger", self._file)
            self.write(kept)
            return self.read(copy)
        except OSError as error:
            raise StoreError(
                f"{self._file} cannot be read ({error.strerror}); expected a file that rag-embed wrote. "
                "Restore it from a copy, or move the folder away and index again"
            ) from error
        except ValidationError as error:
            raise StoreError(
                f"{self._file} is not a collection of this rag-embed ({error.error_count()} errors); "
                "expected what it wrote. Delete that file alone to have it restored from the ledger beside "
                "it, restore it from a copy, or delete the folder and index again"
            ) from error
        self._unfinished.unlink(missing_ok=True)
        return content

    def read_settings(self) -> EngineSettings:
        """Read what the engine keeps of how it was made.

        Raises:
            StoreError: The file cannot be read.
        """
        file = self.shard / "edge_config.json"
        try:
            return EngineSettings.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{file} cannot be read ({error}); expected what the embedded engine wrote. Restore the "
                "folder from a copy, or index again"
            ) from error

    def write(self, content: str) -> None:
        """Write the record in one step: after a crash either the old or the new content is there."""
        draft = self._file.with_suffix(".tmp")
        with draft.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
        self._unfinished.unlink(missing_ok=True)

    def set_log_aside(self) -> Path:
        """Move the engine's log out of its way, to where nothing reads or deletes it."""
        names = (self.path / f"unreadable-log-{number}" for number in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        (self.shard / "wal").rename(aside)
        return aside

    def claim(self) -> None:
        """Make way for a new collection, deleting what a crash left of one that was made or deleted.

        Raises:
            StoreError: There are files in the way that nothing proves to be ours.
        """
        if self._unfinished.exists():
            self._remove_shard()
        strangers = sorted(path.name for path in self.shard.iterdir()) if self.shard.is_dir() else []
        if strangers or (os.path.lexists(self.shard) and not self.shard.is_dir()):
            found = f"holds {', '.join(map(repr, strangers[:3]))}" if strangers else "is no folder"
            raise StoreError(
                f"{self.shard} {found}, which rag-embed did not put there; expected nothing in its place. "
                "Move it away, or use another path or collection_name"
            )
        self._unfinished.touch()

    def remove(self) -> None:
        """Forget the collection, then delete its data."""
        if self._file.exists():
            self._unfinished.touch()
            self._file.unlink()
        if self._unfinished.exists():
            self._remove_shard()
            self._unfinished.unlink()

    def _remove_shard(self) -> None:
        for name in _ENGINE_ENTRIES:
            path = self.shard / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.shard.is_dir() and not any(self.shard.iterdir()):
            self.shard.rmdir()


def collection_folder(path: str | os.PathLike[str], collection_name: str) -> Path:
    """Find the folder of a collection.

    Raises:
        InputError: The name cannot be that of a folder.
    """
    if not _NAME.fullmatch(collection_name) or collection_name in (".", ".."):
        raise InputError(
            f"collection_name {collection_name!r} cannot name a folder; expected 1 to 200 characters "
            'without / \\ : * ? " < > |'
        )
    return Path(path).expanduser().resolve() / collection_name


def merge_metadata(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """Lay new values over old ones, as a server does."""
    return {**old, **new}


def _full(folder: Path, needed_bytes: int) -> StoreError:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return StoreError(
        f"the disk of {folder} has {shutil.disk_usage(there).free:,} bytes free; expected at least "
        f"{needed_bytes:,} for what the embedded engine is about to write. Free some, or use another path"
    )


def _check_foreign(path: Path) -> None:
    if (path / "meta.json").exists() and (path / "collection").is_dir():
        raise StoreError(
            f"{path} was written by qdrant-client's local mode, which unpickles its files; expected a folder "
            "of rag-embed's embedded engine. Use another path, or client=QdrantClient(path=...) to trust it"
        )


def _acquire(path: Path) -> TextIO:
    handle = path.open("a+", encoding="utf-8")
    try:
        portalocker.lock(handle, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.LockException as error:
        handle.seek(0)
        holder = handle.read(20).strip() or "unknown"
        handle.close()
        raise StoreLockedError(
            f"{path.parent} is open in another process (id {holder}); expected to be the only one. "
            "Close that store or end that process, or run a Qdrant server and pass url= to share a collection"
        ) from error
    except BaseException:
        handle.close()
        raise
    try:
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    except OSError:
        handle.close()
        raise
    return handle
