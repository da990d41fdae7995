"""Points in the types of the engines, and back: which vectors are called what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from rag_embed.qdrant.port import Candidates, Payload, PointId, StoredPoint, VectorPrefix, Vectors


def select_vectors(vector_name: str, others: Sequence[str] = ()) -> bool | list[str]:
    """Say which vectors to return: the named ones, or all where one of them has no name."""
    return [vector_name, *others] if vector_name else True


def name_vectors(
    point: StoredPoint, vector_name: str, prefix: VectorPrefix | None
) -> list[float] | dict[str, object]:
    """Give a point's vectors their names; the unnamed one stays without if it is the only one.

    Arrays become lists only here, request by request: as lists they take eight times the memory.
    """
    vector = point.vector or []
    if not vector_name and not point.others:
        return vector
    own = {} if point.vector is None else {vector_name: vector}  # some points of others have only others
    prefixes = {prefix.name: vector[: prefix.dim]} if prefix else {}
    others = {
        name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in point.others.items()
    }
    return {**own, **prefixes, **others}


def count_numbers(vector: object) -> int:
    """Count the numbers of a vector of any kind, in any of the types of `Vectors`; indices count too."""
    if isinstance(vector, np.ndarray):
        return vector.size
    if isinstance(vector, Sequence):
        # Asking every number whether it is a row took a fifth of the time of a copy into a folder.
        has_rows = len(vector) > 0 and isinstance(vector[0], Sequence)
        return sum(map(len, vector)) if has_rows else len(vector)
    return 2 * len(getattr(vector, "indices", ()))


def to_point_id(id_: object) -> PointId:
    """Bring an engine's id to the port's form: an integer, or the text of a UUID."""
    return id_ if isinstance(id_, int) else str(id_)


class FoundRecord(Protocol):
    """What the engines' own types of stored and found points have in common."""

    @property
    def id(self) -> object:
        """An integer, or a UUID as such or as text."""

    @property
    def payload(self) -> object:
        """A mapping, or None."""

    @property
    def vector(self) -> object:
        """A vector, vectors by name, or None."""


class ScoredRecord(FoundRecord, Protocol):
    """A found point of an engine's own type."""

    @property
    def score(self) -> float:
        """What the search thinks of it."""


def to_stored_point(
    record: FoundRecord, vector_name: str, score: float | None = None, others: Sequence[str] = ()
) -> StoredPoint:
    """Bring an engine's point to the port's form."""
    found = record.vector
    vectors: Vectors = found if isinstance(found, dict) else {vector_name: found}
    return StoredPoint(
        id=to_point_id(record.id),
        payload=cast(Payload, record.payload or {}),
        vector=cast("list[float] | None", vectors.get(vector_name) or None),
        score=score,
        others={name: vectors[name] for name in others if name in vectors},
    )


def to_candidates(replies: Sequence[Sequence[ScoredRecord]], vector_name: str) -> Candidates:
    """Bring what several searches think of the same points together.

    Args:
        replies: Of each search; that of the first has the points' payloads. None if nothing was found.
        vector_name: Of the first search.
    """
    if not replies:
        return Candidates([], [])
    first, *others = replies
    ids = [record.id for record in first]
    known = [{record.id: record.score for record in reply} for reply in others]
    return Candidates(
        [to_stored_point(record, vector_name) for record in first],
        [[record.score for record in first], *([found.get(id_, 0.0) for id_ in ids] for found in known)],
    )
