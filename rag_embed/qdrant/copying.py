"""A collection copied from one engine to another: everything checked, then written, then compared.

    1. source     its blueprint and its points
    2. target     made after the blueprint; or, if it is there, refused unless all that it holds is the
                  source's
    3. write      page by page in the order of the ids, those that are missing
    4. compare    all points of both, by count and digest

Nothing is kept to know how far a copy came: what is there already is not written again, so a copy that was
killed is simply made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from qdrant_client import models

from rag_embed.errors import StoreError
from rag_embed.qdrant.blueprint import Blueprint
from rag_embed.qdrant.client_engine import ClientEngine
from rag_embed.qdrant.local_bits import restore_bits
from rag_embed.qdrant.point_digest import CollectionDigest, digest_point, find_difference
from rag_embed.qdrant.points import split_requests
from rag_embed.qdrant.port import Engine, PointId, StoredPoint
from rag_embed.qdrant.settings import CollectionSettings

COPY_PAGE = 128
"""Points held at once: some 20 MB each of source and target where token vectors are kept."""

CopyProgress = Callable[[int], None]
"""Told how many more points were dealt with, while writing and while comparing."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What became of a copy; all points of the source are in the target, and no others.

    Attributes:
        points: How many there are.
        written: How many of them this call wrote.
        source_digest: Over ids, payloads and vectors of the source.
        target_digest: The same of the target.
        rounded: Points whose vectors the target keeps in fewer bits than the source.
        largest_rounding: Farthest that any of those was moved, as a share of its vector's length.
    """

    points: int
    written: int
    source_digest: str
    target_digest: str
    rounded: int = 0
    largest_rounding: float = 0.0

    @property
    def is_equal(self) -> bool:
        """Whether source and target are equal to the last bit."""
        return self.source_digest == self.target_digest


async def copy_collection(
    source: Engine, target: Engine, *, settings: CollectionSettings, progress: CopyProgress | None = None
) -> CopyReport:
    """Copy a collection with all vectors and payloads, or complete a copy.

    Args:
        source: Not written to meanwhile, by nobody.
        target: Empty, or what an earlier call left.
        settings: Shards, copies, graph and disk of the target.
        progress: Called with numbers of points whose sum is twice the source's.

    Raises:
        StoreError: The source does not exist, the target holds something else, or the two differ in the end.
    """
    tell = progress or (lambda _: None)
    blueprint = await Blueprint.read(source)
    if blueprint is None:
        raise StoreError(
            f"{source.where} holds no such collection; expected one to copy. Check its name and place"
        )
    if not blueprint.info.vectors:
        raise StoreError(f"{source.where} keeps sparse vectors alone; expected a dense vector of each chunk")
    there = await Blueprint.read(target)
    if there is None:
        await target.create(blueprint.to_request(settings))
    else:
        blueprint.check_same(there, f"the collection in {target.where}")
    pair = _Pair(source, target, blueprint)
    if there is not None:
        await pair.check_held()
    await blueprint.complete(target)
    written = await pair.write(tell)
    await target.flush()
    return await pair.compare(written, tell)


class _Pair:
    """Source and target of one copy."""

    def __init__(self, source: Engine, target: Engine, blueprint: Blueprint) -> None:
        self._source = source
        self._target = target
        self._vectors = blueprint.info.vectors
        self._first, *self._others = blueprint.names

    async def check_held(self) -> None:
        """Refuse a target that holds what the source does not, before anything is written."""
        offset: PointId | None = None
        while True:
            held, offset = await self._read(self._target, offset)
            originals = await self._find(self._source, held)
            for point in held:
                self._check(originals.get(point.id), point)
            if offset is None:
                return

    async def write(self, tell: CopyProgress) -> int:
        """Write the points that are missing."""
        written = 0
        offset: PointId | None = None
        while True:
            page, offset = await self._read(self._source, offset)
            ids = [point.id for point in page]
            known = {point.id for point in await self._target.retrieve(ids, self._first)} if ids else set()
            missing = [point for point in page if point.id not in known]
            for request in split_requests(missing):
                await self._target.upsert(request, self._first, None)
                if isinstance(self._target, ClientEngine) and self._target.is_local:
                    restore_bits(self._target.client, self._target.collection_name, request, self._first)
            written += len(missing)
            tell(len(page))
            if offset is None:
                return written

    async def compare(self, written: int, tell: CopyProgress) -> CopyReport:
        """Read everything again, of both, and compare it."""
        wanted, found = CollectionDigest(), CollectionDigest()
        rounded, largest = 0, 0.0
        offset: PointId | None = None
        while True:
            page, offset = await self._read(self._source, offset)
            copies = await self._find(self._target, page)
            for point in page:
                copy = copies.get(point.id)
                if copy is None:
                    raise self._differs(f"point {point.id} is missing in {self._target.where}")
                digests = digest_point(point, self._first), digest_point(copy, self._first)
                wanted.add(digests[0])
                found.add(digests[1])
                if digests[0] != digests[1]:
                    rounded += 1
                    largest = max(largest, self._check(point, copy))
            tell(len(page))
            if offset is None:
                break
        count = await self._target.count(None)
        if count != wanted.count:
            raise self._differs(f"{self._target.where} holds {count} points, and the source {wanted.count}")
        return CopyReport(count, written, str(wanted), str(found), rounded, largest)

    def _check(self, original: StoredPoint | None, copy: StoredPoint) -> float:
        """Refuse a point that is no copy; say how far rounding moved it."""
        if original is None:
            raise StoreError(
                f"{self._target.where} holds point {copy.id}, which {self._source.where} does not; expected "
                "an empty collection, or part of a copy. Name another collection, or delete that one first"
            )
        distance, difference = find_difference(original, copy, self._first, self._vectors)
        if difference:
            raise self._differs(f"point {copy.id} differs {difference}")
        return distance

    def _differs(self, what: str) -> StoreError:
        return StoreError(
            f"{self._target.where} is no copy of {self._source.where}: {what}. Either was written to since "
            "the copy began: delete the target, or name another collection, and copy again undisturbed"
        )

    async def _read(self, engine: Engine, offset: PointId | None) -> tuple[list[StoredPoint], PointId | None]:
        page, following = await engine.scroll(None, self._first, COPY_PAGE, offset, others=self._others)
        return [_portable(point) for point in page], following

    async def _find(self, engine: Engine, points: Sequence[StoredPoint]) -> dict[PointId, StoredPoint]:
        ids = [point.id for point in points]
        found = await engine.retrieve(ids, self._first, self._others, with_payload=True) if ids else []
        return {point.id: _portable(point) for point in found}


def _portable(point: StoredPoint) -> StoredPoint:
    """Bring other vectors out of their engine's types, into those that every engine takes."""
    others: dict[str, object] = {}
    for name, vector in point.others.items():
        if hasattr(vector, "indices") and hasattr(vector, "values"):
            others[name] = models.SparseVector(indices=list(vector.indices), values=list(vector.values))
        elif vector is not None:
            others[name] = np.asarray(vector, dtype=np.float32)
    return replace(point, others=others)
