"""What a check of a collection finds, and the check of what any engine gives back."""

from __future__ import annotations

from dataclasses import dataclass

from rag_embed.errors import RagEmbedError
from rag_embed.qdrant.filters import DOCUMENT_KEY
from rag_embed.qdrant.points import point_to_node
from rag_embed.qdrant.port import PAGE, Engine, PointId, StoredPoint


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What a collection holds, compared with what was written to it.

    Attributes:
        points: How many chunks could be read.
        documents: Ids of the documents to index again, in order.
        faults: What is wrong, a sentence each; empty if nothing is.
    """

    points: int
    documents: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it was written."""
        return not self.faults


async def check_points(engine: Engine, vector_name: str) -> IntegrityReport:
    """Read every point of a collection, and count them: for engines that keep checksums of their own.

    Args:
        engine: Where.
        vector_name: The vector that every chunk should have.
    """
    documents: set[str] = set()
    faults: list[str] = []
    points = 0
    offset: PointId | None = None
    while True:
        page, offset = await engine.scroll(None, vector_name, PAGE, offset)
        for point in page:
            points += 1
            found = _fault(point)
            if found:
                faults.append(f"point {str(point.id)!r} {found}")
                documents.add(str(point.payload.get(DOCUMENT_KEY)))
        if offset is None:
            break
    counted = await engine.count(None)
    if counted != points:
        faults.append(f"{counted} points are counted and {points} were read")
    return IntegrityReport(points, tuple(sorted(documents)), tuple(faults))


def _fault(point: StoredPoint) -> str:
    if point.vector is None:
        return "has no vector"
    try:
        point_to_node(point, "text")
    except (RagEmbedError, ValueError, TypeError, KeyError) as error:
        return f"holds no chunk ({error})"
    return ""
