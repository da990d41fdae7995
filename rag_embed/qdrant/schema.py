"""What an existing collection holds and accepts.

A collection remembers how its vectors were made: under the key `rag_embed` of its metadata it keeps the
fingerprint and the dimension of the first write. Where there is no such record (a server before 1.16, or a
collection that LlamaIndex's own store wrote) the stamp of any stored chunk tells the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdrant_client import models

from rag_embed.errors import DimensionMismatchError, FingerprintMismatchError, StoreError
from rag_embed.qdrant.legs import NO_LEGS, Legs
from rag_embed.qdrant.points import point_to_node
from rag_embed.qdrant.port import CollectionInfo, StoredPoint, VectorPrefix
from rag_embed.qdrant.storage import (
    VectorStorage,
    choose_oversampling,
    describe_storage,
    find_prefix,
    read_encoding,
)
from rag_embed.stamp import STAMP_KEY, ChunkStamp

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class CollectionSchema:
    """What a collection holds.

    Attributes:
        collection_name: Its name.
        vector_name: The vector that is read and written; "" is the unnamed one.
        dim: Length of that vector.
        distance: How vectors compare.
        fingerprint: How the vectors were made; None if nothing says so.
        is_open: Whether the next write decides the fingerprint: there is neither a record nor a point.
        encoding: How the vectors that are searched are kept, such as "float32" or "int8".
        prefix: The vector that is searched instead, if there is one.
        oversampling: Candidates per result; None where a search needs none.
        legs: What it keeps beside the dense vector.
        others: Vectors of the collection that somebody else wrote, such as sparse ones. They are kept.
    """

    collection_name: str
    vector_name: str
    dim: int
    distance: models.Distance
    fingerprint: str | None
    is_open: bool = False
    encoding: str = "float32"
    prefix: VectorPrefix | None = None
    oversampling: float | None = None
    legs: Legs = NO_LEGS
    others: tuple[str, ...] = ()

    @property
    def has_distances(self) -> bool:
        """Whether the engine's scores are distances, of which the smaller is the better."""
        return self.distance in (models.Distance.EUCLID, models.Distance.MANHATTAN)

    def check_dim(self, dim: int, what: str) -> None:
        """Refuse a vector of another length.

        Raises:
            DimensionMismatchError: With both lengths and the fingerprint of the collection.
        """
        if dim != self.dim:
            origin = f", made by {self.fingerprint!r}" if self.fingerprint else ""
            raise DimensionMismatchError(
                f"collection {self.collection_name!r} stores {self.dim}-dimensional vectors{origin}; "
                f"{what} has {dim}. Use another collection, or the model it was built with"
            )

    def check_fingerprint(self, fingerprint: str | None, what: str) -> None:
        """Refuse vectors that were made in another way.

        Raises:
            FingerprintMismatchError: With both fingerprints.
        """
        if fingerprint == self.fingerprint or self.is_open:
            return
        stored = f"made by {self.fingerprint!r}" if self.fingerprint else "that carry no fingerprint"
        given = f"fingerprint {fingerprint!r}" if fingerprint else "no fingerprint"
        raise FingerprintMismatchError(
            f"collection {self.collection_name!r} stores vectors {stored}; {what} has {given}. "
            "Vectors made in different ways do not compare: use another collection, the model and options it "
            "was built with, or clear() it and index again"
        )

    def check_storage(self, storage: VectorStorage) -> None:
        """Refuse to take another storage for granted than the one that is there.

        Raises:
            StoreError: With both.
        """
        found = describe_storage(self.encoding, self.prefix.dim if self.prefix else None)
        if found != str(storage):
            raise StoreError(
                f"collection {self.collection_name!r} keeps its vectors as {found}; the store was opened for "
                f"{storage}. Open it without storage=, which takes what is there; to change it, clear() that "
                "store, or name another collection, and index again"
            )


def read_schema(
    info: CollectionInfo, name: str, *, preferred: str, points: Sequence[StoredPoint]
) -> CollectionSchema:
    """Read what a collection holds.

    Args:
        info: What it says of itself.
        name: Its name.
        preferred: Vector to use if there are several.
        points: One of its points, if it has no record of ours and is not empty.

    Raises:
        StoreError: No vector, or several and none is the preferred one; or a record of a later version.
    """
    vector_name = choose_vector(info, preferred, name)
    params = info.vectors[vector_name]
    prefix = find_prefix(info.vectors, vector_name)
    encoding = read_encoding(info.vectors[prefix.name] if prefix else params)
    record = read_record(info.metadata)
    legs = Legs.from_record(record or {})
    own = {vector_name, *legs.names, *([prefix.name] if prefix else [])}
    if record is not None:
        fingerprint = str(record["fingerprint"]) if record.get("fingerprint") is not None else None
    else:
        stamp = ChunkStamp.from_node(point_to_node(points[0], "")) if points else None
        fingerprint = stamp.fingerprint if stamp else None
    return CollectionSchema(
        name,
        vector_name,
        params.size,
        params.distance,
        fingerprint,
        is_open=record is None and not points,
        encoding=encoding,
        prefix=prefix,
        oversampling=choose_oversampling(encoding, prefix.dim if prefix else None),
        legs=legs,
        others=tuple(sorted({*info.vectors, *info.sparse} - own)),
    )


def make_record(dim: int, fingerprint: str | None, legs: Legs) -> dict[str, object]:
    """Build the metadata that a collection keeps of its first write."""
    record = {"version": RECORD_VERSION, "dim": dim, "fingerprint": fingerprint, **legs.to_record()}
    return {STAMP_KEY: record}


def read_record(metadata: Mapping[str, object]) -> Mapping[str, object] | None:
    """Find our record in a collection's metadata.

    Raises:
        StoreError: It was written by a later version.
    """
    record = metadata.get(STAMP_KEY)
    if not isinstance(record, Mapping):
        return None
    if record.get("version") != RECORD_VERSION:
        raise StoreError(
            f"the collection's record has version {record.get('version')!r}; this rag-embed reads version "
            f"{RECORD_VERSION}. Upgrade rag-embed, or index into another collection"
        )
    return record


def choose_vector(info: CollectionInfo, preferred: str, collection_name: str) -> str:
    """Decide which vector of an existing collection to use: the preferred one, or the only one.

    Raises:
        StoreError: There is none, or several and none is called as preferred.
    """
    prefixes = {prefix.name for name in info.vectors if (prefix := find_prefix(info.vectors, name))}
    several = {name for name, params in info.vectors.items() if params.multivector_config is not None}
    dense = [name for name in info.vectors if name not in prefixes | several]
    if preferred in dense:
        return preferred
    if len(dense) == 1:
        return dense[0]
    raise StoreError(
        f"collection {collection_name!r} has the dense vectors {sorted(dense)}; expected one of them to be "
        f"called {preferred!r}. Pass vector_name="
    )
