"""Which folder a name in a collection means, so that a folder never takes another one's documents.

Documents are named after their folder, not after the path to it, so that a folder can be moved. The path is
written beside the collection: a second folder of the same name is known by it, and so is a folder that lies
in another one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from rag_embed.errors import InputError
from rag_embed.files.reading import Reading
from rag_embed.qdrant import QdrantChunkStore

FOLDERS_KEY = "rag_embed_folders"
"""Key in a collection's metadata: by a folder's name, where it was and on which machine."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose documents bear a name.

    Attributes:
        folder: Where it was when it was read last.
        host: Name of the machine on which it was there.
    """

    folder: Path
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it was read on this machine; of another one nobody knows what is there now."""
        return self.host == socket.gethostname()

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Claim:
        """Read what `to_record` wrote."""
        return cls(Path(os.fsdecode(unquote_to_bytes(record["path"]))), record["host"])

    def to_record(self) -> dict[str, str]:
        """Write it as JSON can hold it; a path may be no UTF-8."""
        return {"path": quote(os.fsencode(self.folder)), "host": self.host}


def check_distinct(readings: Sequence[Reading]) -> None:
    """Refuse folders that one command names, and that cannot be told apart or overlap.

    Raises:
        InputError: With how to name them.
    """
    for first, second in combinations(readings, 2):
        if first.source == second.source:
            raise InputError(
                f"several folders are called {first.source!r}, by which documents are named; give one of "
                f"them another name, {first.source}-2={second.folder or 'FOLDER'}"
            )
        if first.folder and second.folder and not (first.is_named or second.is_named):
            _check_overlap(first.folder, second.source, second.folder)


def check_claims(store: QdrantChunkStore, readings: Sequence[Reading]) -> None:
    """Refuse a folder that would replace the documents of another one, or store files twice.

    A folder whose name was given is taken at its word.

    Raises:
        InputError: With how to name it.
    """
    claims = _read_claims(store)
    for reading in readings:
        if reading.folder is None or reading.is_named:
            continue
        own = claims.get(reading.source)
        if own is not None and own.folder != reading.folder and not (own.is_here and not own.folder.is_dir()):
            raise InputError(
                f"collection {store.collection_name!r} holds the documents of another folder that is called "
                f"{reading.source!r}, {own.folder} on {own.host}; they would be replaced by those in "
                f"{reading.folder}. Give it a name: {reading.source}-2={reading.folder} keeps both, "
                f"{reading.source}={reading.folder} says that it is the same folder in another place"
            )
        for name, other in claims.items():
            if name != reading.source and other.is_here and other.folder.is_dir():
                _check_overlap(reading.folder, name, other.folder)


def claim(store: QdrantChunkStore, reading: Reading) -> None:
    """Write down where a folder lies, if there is a collection to write it to."""
    if reading.folder is None or store.info() is None:
        return
    claims = _read_claims(store)
    wanted = Claim(reading.folder, socket.gethostname())
    if claims.get(reading.source) != wanted:
        claims[reading.source] = wanted
        record = {name: known.to_record() for name, known in claims.items()}
        store.update_metadata({FOLDERS_KEY: record})


def _read_claims(store: QdrantChunkStore) -> dict[str, Claim]:
    found = store.read_metadata().get(FOLDERS_KEY)
    if not isinstance(found, Mapping):
        return {}
    return {str(name): Claim.from_record(record) for name, record in found.items()}


def _check_overlap(folder: Path, name: str, other: Path) -> None:
    if folder == other or folder in other.parents or other in folder.parents:
        inner, outer = sorted((folder, other), key=lambda path: len(path.parts), reverse=True)
        raise InputError(
            f"{inner} lies in {outer}, one of which is stored as {name!r}: its files would be there twice. "
            f"Index {outer} alone, use another --collection, or give the folder a name to have both: "
            f"{folder.name}-2={folder}"
        )
