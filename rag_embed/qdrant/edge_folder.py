"""The folder of an embedded collection: who holds it, and what it says of itself.

<path>/<collection>/
├─ .lock             held by the process that has the collection open; the system frees it when that dies
├─ collection.json   vectors, metadata; written last at creation, so that without it nothing was promised
└─ shard/            the engine's own files: mmaps, JSON, a write-ahead log; nothing is ever unpickled
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import portalocker
from pydantic import BaseModel, ValidationError
from qdrant_client import models

from rag_embed.errors import InputError, StoreError, StoreLockedError

_NAME = re.compile(r"[^/\\:*?\"<>|\x00-\x1f]{1,200}")


class CollectionFile(BaseModel):
    """Content of `collection.json`."""

    version: int = 1
    vectors: dict[str, models.VectorParams]
    sparse: list[str] = []
    metadata: dict[str, object]


class EdgeFolder:
    """One collection's folder, held by this process until `release`.

    Raises:
        StoreLockedError: Another process holds it.
        StoreError: It is something else's folder.
        InputError: The collection's name cannot be that of a folder.
    """

    def __init__(self, folder: Path) -> None:
        _check_foreign(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "collection.json"
        self.shard = folder / "shard"
        self._lock = _acquire(folder / ".lock")

    def release(self) -> None:
        """Let other processes have the folder; may be called twice."""
        self._lock.close()

    def read(self) -> CollectionFile | None:
        """Read what the folder holds; None if no collection was ever completed in it."""
        try:
            return CollectionFile.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise StoreError(
                f"{self._file} is not a collection of this rag-embed ({error.error_count()} errors); "
                "expected what it wrote. Restore it from a copy, or delete the folder and index again"
            ) from error

    def write(self, content: CollectionFile) -> None:
        """Write it in one step: after a crash either the old or the new content is there."""
        draft = self._file.with_suffix(".tmp")
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content.model_dump(mode="json", exclude_none=True), indent=2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)

    def remove(self) -> None:
        """Forget the collection, then delete its data."""
        self._file.unlink(missing_ok=True)
        shutil.rmtree(self.shard, ignore_errors=True)


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
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle
