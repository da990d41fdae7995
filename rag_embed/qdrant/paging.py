"""Long lists in pages: of ids on their way in, and of points on their way out."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from rag_embed.qdrant.port import PAGE, Engine, PointId, StoredPoint


def to_pages(items: Sequence[PointId] | Sequence[str]) -> list[list[str]]:
    """Cut a list of ids into what is sent at once."""
    return [list(items[start : start + PAGE]) for start in range(0, len(items), PAGE)]  # type: ignore[arg-type]


async def scroll_all(
    engine: Engine,
    condition: models.Filter | None,
    vector_name: str | None,
    *,
    keys: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[StoredPoint]:
    """Fetch every point that meets a condition, page by page, or the first of them."""
    points: list[StoredPoint] = []
    offset: PointId | None = None
    while limit is None or len(points) < limit:
        size = PAGE if limit is None else min(PAGE, limit - len(points))
        page, offset = await engine.scroll(condition, vector_name, size, offset, keys)
        points += page
        if offset is None:
            break
    return points
