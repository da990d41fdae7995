"""Which folder a name in a collection means, so that a folder never takes another one's documents.

Documents are named after their folder, not after the path to it, so that a folder can be moved. The path is
written beside the collection: a second folder of the same name is known by it, and so is a folder that lies
in another one.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from rag_embed.cli.reading import Reading
from rag_embed.errors import InputError
from rag_embed.qdrant import QdrantChunkStore

FOLDERS_KEY = "rag_embed_folders"
"""Key in a collection's metadata: by a folder's name, where it was and on which machine."""


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
        if own is not None and own["path"] != str(reading.folder) and not _has_moved(own):
            raise InputError(
                f"collection {store.collection_name!r} holds the documents of another folder that is called "
                f"{reading.source!r}, {own['path']} on {own['host']}; they would be replaced by those in "
                f"{reading.folder}. Give it a name: {reading.source}-2={reading.folder} keeps both, "
                f"{reading.source}={reading.folder} says that it is the same folder in another place"
            )
        for name, claim in claims.items():
            other = Path(claim["path"])
            if name != reading.source and claim["host"] == socket.gethostname() and other.is_dir():
                _check_overlap(reading.folder, name, other)


def claim(store: QdrantChunkStore, reading: Reading) -> None:
    """Write down where a folder lies, if there is a collection to write it to."""
    if reading.folder is None or store.info() is None:
        return
    claims = _read_claims(store)
    wanted = {"path": str(reading.folder), "host": socket.gethostname()}
    if claims.get(reading.source) != wanted:
        store.update_metadata({FOLDERS_KEY: {**claims, reading.source: wanted}})


def _read_claims(store: QdrantChunkStore) -> dict[str, dict[str, str]]:
    found = store.read_metadata().get(FOLDERS_KEY)
    claims = found.items() if isinstance(found, Mapping) else ()
    return {
        str(name): {"path": str(entry["path"]), "host": str(entry["host"])}
        for name, entry in claims
        if isinstance(entry, Mapping) and {"path", "host"} <= entry.keys()
    }


def _has_moved(claim: Mapping[str, str]) -> bool:
    """Whether the folder is no longer where it was; of another machine nobody knows."""
    return claim["host"] == socket.gethostname() and not Path(claim["path"]).is_dir()


def _check_overlap(folder: Path, name: str, other: Path) -> None:
    if folder == other or folder in other.parents or other in folder.parents:
        inner, outer = sorted((folder, other), key=lambda path: len(path.parts), reverse=True)
        raise InputError(
            f"{inner} lies in {outer}, one of which is stored as {name!r}: its files would be there twice. "
            f"Index {outer} alone, use another --collection, or give the folder a name to have both: "
            f"{folder.name}-2={folder}"
        )
