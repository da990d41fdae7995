"""How points are written: in requests of bounded size, with the vectors of others, version after version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qdrant_client import models

from rag_embed.qdrant.filters import is_of_documents
from rag_embed.qdrant.paging import to_pages
from rag_embed.qdrant.points import split_requests
from rag_embed.qdrant.port import Engine, PointId, StoredPoint
from rag_embed.qdrant.revisions import (
    find_winner,
    has_no_revision,
    is_not_newer,
    is_older,
    newest_revision,
    next_revision,
    read_revisions,
)
from rag_embed.qdrant.schema import CollectionSchema


async def write_points(
    engine: Engine,
    schema: CollectionSchema,
    points: Sequence[StoredPoint],
    *,
    condition: models.Filter | None = None,
) -> None:
    """Insert or overwrite points, keeping the vectors that somebody else gave them.

    Args:
        engine: Where.
        schema: Of the collection.
        points: In any number.
        condition: Overwrite only points that satisfy it.
    """
    prefix_dim = schema.prefix.dim if schema.prefix else 0
    for request in split_requests(points, prefix_dim=prefix_dim):
        kept = await _with_others(engine, schema, request) if schema.others else request
        for part in split_requests(kept, prefix_dim=prefix_dim):
            await engine.upsert(part, schema.vector_name, schema.prefix, condition)


async def replace_chunks(
    engine: Engine, schema: CollectionSchema, ref_doc_id: str, points: Sequence[StoredPoint]
) -> None:
    """Put new chunks in the place of all that a document has, as `revisions` describes."""
    before = await read_revisions(engine, ref_doc_id)
    ids = {point.id for point in points}
    own = next_revision(before, len(ids))
    marked = [own.mark(point) for point in points]
    while True:
        await write_points(engine, schema, marked, condition=is_not_newer(own.number))
        after = await read_revisions(engine, ref_doc_id)
        winner = find_winner(after, own)
        if winner != own or ids <= after.keys():
            break
    document = is_of_documents([ref_doc_id])
    await engine.delete(models.Filter(must=[document, is_older(winner.number)]))
    loose = [id_ for id_, revision in before.items() if revision is None]
    await _delete_those(engine, ref_doc_id, loose, has_no_revision())


async def empty_document(engine: Engine, ref_doc_id: str) -> None:
    """Delete the chunks that a document has now, but none that is written meanwhile."""
    before = await read_revisions(engine, ref_doc_id)
    await _delete_those(engine, ref_doc_id, list(before), is_not_newer(newest_revision(before)))


async def _delete_those(
    engine: Engine, ref_doc_id: str, ids: Sequence[PointId], unchanged: models.Condition
) -> None:
    for page in to_pages(ids):
        those = models.HasIdCondition(has_id=list(page))
        await engine.delete(models.Filter(must=[is_of_documents([ref_doc_id]), those, unchanged]))


async def _with_others(
    engine: Engine, schema: CollectionSchema, points: Sequence[StoredPoint]
) -> list[StoredPoint]:
    """Add to points the vectors of others that are stored with them; an upsert alone would drop them."""
    stored = await engine.retrieve([point.id for point in points], schema.vector_name, schema.others)
    others = {point.id: point.others for point in stored}
    return [replace(point, others={**others.get(point.id, {}), **point.others}) for point in points]
