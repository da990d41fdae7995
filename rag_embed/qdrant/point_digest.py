"""Points compared across engines: digests for "equal to the bit", and how far apart those are that are not.

An engine keeps a vector in the numbers of its storage. What it gives back and is given again:

    embedded engine             float32: the same bits, unit vectors are left as they are. What was rounded is
                                normalised and rounded again: nearly always to the same bits, not always
    server                      the same engine; not run here
    the client's local mode     normalises again, which moves last bits; so `local_bits` writes over that
    a vector that was never     is rounded when it enters the storage that was asked for, by as much as
    in its storage              `TOLERANCES` says at most
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from rag_embed.qdrant.port import StoredPoint

_BYTES = 16
_WHOLE = 2 ** (8 * _BYTES)

TOLERANCES: Mapping[models.Datatype, float] = {
    models.Datatype.FLOAT32: 1e-6,
    models.Datatype.FLOAT16: 1e-3,
    models.Datatype.UINT8: 1e-6,
    models.Datatype.TURBO8: 0.03,
    models.Datatype.TURBO4: 0.3,
}
"""Most that a storage moves a vector, as a share of its length; measured by tests/test_qdrant_copy.py."""


@dataclass
class CollectionDigest:
    """A digest over points that does not depend on the order in which they come.

    Attributes:
        count: How many points are in it.
    """

    count: int = 0
    _sum: int = 0

    def add(self, digest: bytes) -> None:
        """Add a point by its digest."""
        self.count += 1
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _WHOLE

    def __str__(self) -> str:
        return self._sum.to_bytes(_BYTES, "big").hex()


def digest_point(point: StoredPoint, vector_name: str) -> bytes:
    """Digest a point: its id, its payload, and all its vectors, by name and to the bit of a float32.

    The order of a payload's keys and of a sparse vector's terms is the engine's, and does not count.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    digest.update(json.dumps([str(point.id), point.payload], sort_keys=True).encode())
    for name, arrays in sorted(_arrays_of(point, vector_name).items()):
        digest.update(json.dumps([name, [array.shape for array in arrays]]).encode())
        for array in arrays:
            digest.update(array.tobytes())
    return digest.digest()


def find_difference(
    one: StoredPoint, other: StoredPoint, vector_name: str, vectors: Mapping[str, models.VectorParams]
) -> tuple[float, str]:
    """Say how far apart the vectors of two points are, and what of them is not the same.

    Args:
        one: A point.
        other: The point of that id in another engine.
        vector_name: Of the dense vector.
        vectors: How the dense vectors are kept; of those that are compared by Cosine only directions count.

    Returns:
        The largest distance as a share of the vector's length, and what differs by more than its storage
        explains; empty if nothing does.
    """
    if one.payload != other.payload:
        keys = sorted(
            key for key in {*one.payload, *other.payload} if one.payload.get(key) != other.payload.get(key)
        )
        return 0.0, f"in its payload ({', '.join(keys)})"
    ours, theirs = _arrays_of(one, vector_name), _arrays_of(other, vector_name)
    if ours.keys() != theirs.keys():
        return 0.0, f"in its vectors: {sorted(ours)} and {sorted(theirs)}"
    largest = 0.0
    for name, arrays in ours.items():
        params = vectors.get(name)
        storage = params.datatype or models.Datatype.FLOAT32 if params else models.Datatype.FLOAT32
        is_cosine = params is not None and params.distance == models.Distance.COSINE
        if [array.shape for array in arrays] != [array.shape for array in theirs[name]]:
            return 0.0, f"in the size of its vector {name!r}"
        distance = max(
            _distance(mine, other_one, is_cosine=is_cosine)
            for mine, other_one in zip(arrays, theirs[name], strict=True)
        )
        if distance > TOLERANCES[storage]:
            return distance, f"in its vector {name!r}, by {distance:.2g} of its length"
        largest = max(largest, distance)
    return largest, ""


def _arrays_of(point: StoredPoint, vector_name: str) -> dict[str, list[npt.NDArray[np.generic]]]:
    """The vectors of a point by name, as arrays: a sparse one as its terms in order, and their weights."""
    named: dict[str, object] = dict(point.others)
    if point.vector is not None:
        named[vector_name] = point.vector
    arrays: dict[str, list[npt.NDArray[np.generic]]] = {}
    for name, vector in named.items():
        indices = getattr(vector, "indices", None)
        if indices is None:
            arrays[name] = [np.ascontiguousarray(vector, dtype="<f4")]
            continue
        order = np.argsort(indices)
        weights = np.asarray(getattr(vector, "values"), dtype="<f4")  # noqa: B009  # of two libraries' types
        arrays[name] = [np.asarray(indices, dtype="<u4")[order], weights[order]]
    return arrays


def _distance(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic], *, is_cosine: bool) -> float:
    """Largest distance of two vectors, or of the rows of two multivectors, as a share of their length."""
    if one.size == 0 or one.tobytes() == other.tobytes():
        return 0.0
    first, second = np.atleast_2d(one.astype(np.float64)), np.atleast_2d(other.astype(np.float64))
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    first = first / np.where(lengths > 0, lengths, 1.0)
    own = np.linalg.norm(second, axis=1, keepdims=True) if is_cosine else lengths
    second = second / np.where(own > 0, own, 1.0)
    return float(np.linalg.norm(first - second, axis=1).max())
