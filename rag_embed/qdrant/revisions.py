"""Versions of a document: several writers may replace it at once, and one of theirs remains.

Every chunk that `replace_document` writes carries its version: a number above all that the document had, and
how many chunks the version has. From that, each writer sees by itself how the others stand:

1. Read which versions the chunks of the document have, and choose a number above them.
2. Write, but never over a chunk of a newer version.
3. Read again. The newest version that is there with all its chunks has won: the writer's own, or that of
   somebody who was faster. A chunk that somebody deleted meanwhile is written again.
4. Delete what is older than the winner, and of the chunks without a version those that were there in step 1.

So a complete version is there at any moment, what nobody read is never deleted, and one complete version is
what remains. Who dies in between leaves chunks beside it; the next replacement clears them away.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from qdrant_client import models

from rag_embed.qdrant.filters import all_of, is_of_documents
from rag_embed.qdrant.paging import scroll_all
from rag_embed.qdrant.port import Engine, PointId, StoredPoint

REVISION_KEY = "rag_embed_revision"
"""Payload key of a chunk's version; no metadata of the node, so that nothing that reads nodes sees it."""

_NUMBER = f"{REVISION_KEY}.number"
_STEP = 2**32
"""Numbers grow by a random step up to this: writers who start at once hardly ever choose the same, and two
million replacements stay below 2**53, where engines compare numbers exactly."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of a document.

    Attributes:
        number: Newer ones have larger numbers.
        chunks: How many chunks it has.
    """

    number: int
    chunks: int

    def mark(self, point: StoredPoint) -> StoredPoint:
        """Give a point the mark of this version."""
        mark = {"number": self.number, "chunks": self.chunks}
        return replace(point, payload={**point.payload, REVISION_KEY: mark})


Found: TypeAlias = Mapping[PointId, "Revision | None"]
"""The chunks of a document, with the version of those that have one."""


async def read_revisions(engine: Engine, ref_doc_id: str) -> Found:
    """Read which versions the chunks of a document have."""
    condition = all_of(is_of_documents([ref_doc_id]))
    points = await scroll_all(engine, condition, None, keys=[REVISION_KEY])
    return {point.id: _read_mark(point.payload.get(REVISION_KEY)) for point in points}


def next_revision(found: Found, chunks: int) -> Revision:
    """Choose a version newer than all that are there."""
    return Revision(newest_revision(found) + 1 + secrets.randbelow(_STEP), chunks)


def find_winner(found: Found, own: Revision) -> Revision:
    """Find the newest version that is there with all its chunks; one's own counts as such."""
    counts = Counter(revision for revision in found.values() if revision is not None)
    complete = [revision for revision, count in counts.items() if count >= revision.chunks]
    return max([own, *complete], key=lambda revision: revision.number)


def newest_revision(found: Found) -> int:
    """Find the largest number of the versions that are there, complete or not; 0 without any."""
    return max((revision.number for revision in found.values() if revision is not None), default=0)


def is_not_newer(number: int) -> models.Filter:
    """Match the chunks of this version and of older ones, and those without a version."""
    return models.Filter(must_not=[models.FieldCondition(key=_NUMBER, range=models.Range(gt=number))])


def is_older(number: int) -> models.FieldCondition:
    """Match the chunks of older versions."""
    return models.FieldCondition(key=_NUMBER, range=models.Range(lt=number))


def has_no_revision() -> models.IsEmptyCondition:
    """Match the chunks that `replace_document` has not written."""
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=_NUMBER))


def _read_mark(mark: object) -> Revision | None:
    if not isinstance(mark, Mapping):
        return None
    number, chunks = mark.get("number"), mark.get("chunks")
    return Revision(number, chunks) if isinstance(number, int) and isinstance(chunks, int) else None
