"""Writes that count although the engine's log was lost.

Every write has a number. A point ignores writes with lower numbers than its last one, and a payload index
those with lower numbers than the last write of any kind. The numbers come from the log: where that was lost
they start again, and the engine would acknowledge writes and do nothing.
"""

from __future__ import annotations

import qdrant_edge as edge

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_faults import find_ids, read_points

_MOST_TRIES = 2**18


def advance_log(shard: edge.EdgeShard) -> None:
    """Write nothing to a point that can be read until that gets a higher number than all points have.

    Raises:
        StoreError: The numbers of the points are out of reach, as after damage.
    """
    records, _ = read_points(shard, next(find_ids(shard), []))
    if not records:
        return
    probe = records[0]
    newest = max(point.version for point in _versions(shard, probe))
    tries = 1
    while tries < _MOST_TRIES:
        for _ in range(tries):
            shard.update(edge.UpdateOperation.set_payload([probe.id], {}))
        if _versions(shard, probe, only=True)[0].version > newest:
            return
        tries *= 2
    raise StoreError(
        f"the newest point has the number {newest}, and a new write does not get beyond it; expected numbers "
        "of this folder's log. Points would ignore what is written: index again"
    )


def make_index(
    shard: edge.EdgeShard, key: str, schema: edge.PayloadSchemaType | edge.PayloadSchemaParams
) -> None:
    """Index a payload key, in the place of the index that it has."""
    delete_index(shard, key)
    while key not in shard.info().payload_schema:
        shard.update(edge.UpdateOperation.create_field_index(key, schema))


def delete_index(shard: edge.EdgeShard, key: str) -> None:
    """Delete the index of a payload key, if it has one."""
    while key in shard.info().payload_schema:
        shard.update(edge.UpdateOperation.delete_field_index(key))


def _versions(shard: edge.EdgeShard, probe: edge.Record, *, only: bool = False) -> list[edge.ScoredPoint]:
    """Search for all points, or for one, to learn the numbers of their last writes."""
    name, vector = next(iter(probe.vector.items())) if isinstance(probe.vector, dict) else ("", probe.vector)
    return shard.query(
        edge.QueryRequest(
            limit=1 if only else shard.count(edge.CountRequest(exact=True)),
            query=edge.Query.Nearest(vector or [], using=name or None),
            filter=edge.Filter(must=[edge.HasIdCondition({probe.id})]) if only else None,
            params=edge.SearchParams(exact=True),
        )
    )
