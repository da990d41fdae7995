"""What goes wrong in the embedded engine, as errors of this package, and the points it cannot read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import qdrant_edge as edge

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_filters import EdgeId
from rag_embed.qdrant.filters import DOCUMENT_KEY
from rag_embed.qdrant.port import PAGE


@contextmanager
def engine_errors(where: str, advise: Callable[[str], str] = str) -> Iterator[None]:
    """Turn what the engine, the ledger and the disk raise into a StoreError.

    Args:
        where: How messages name the engine.
        advise: Is told what was found; returns the message, with what to do.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{where}: {error}. Check the folder with `rag-embed info --check`") from error
    except BaseException as error:
        if is_panic(error):
            found = f"the engine failed inside ({error}). Check the folder with `rag-embed info --check`"
        elif type(error) is Exception:  # the engine raises nothing more specific
            found = str(error)
        else:
            raise
        raise StoreError(f"{where}: {advise(found)}") from error


def is_panic(error: BaseException) -> bool:
    """Whether this is a failed assertion in the engine's Rust code, which is no `Exception` in Python."""
    return type(error).__name__ == "PanicException"


def read_points(shard: edge.EdgeShard, ids: Sequence[EdgeId]) -> tuple[list[edge.Record], list[EdgeId]]:
    """Read points with all their vectors and payload, and name those that exist and cannot be read."""
    try:
        return shard.retrieve(list(ids), with_payload=True, with_vector=True), []
    except BaseException as error:
        if not (is_panic(error) or type(error) is Exception):
            raise
    if len(ids) == 1:
        return [], list(ids)
    half = len(ids) // 2
    records, unreadable = read_points(shard, ids[:half])
    more_records, more_unreadable = read_points(shard, ids[half:])
    return records + more_records, unreadable + more_unreadable


def find_ids(shard: edge.EdgeShard, condition: edge.Filter | None = None) -> Iterator[list[EdgeId]]:
    """List the ids of points, page by page, without reading their payload for it."""
    offset: EdgeId | None = None
    while True:
        records, following = shard.scroll(
            edge.ScrollRequest(
                offset=offset, limit=PAGE, filter=condition, with_payload=False, with_vector=False
            )
        )
        if records:
            yield [record.id for record in records]
        if following is None:
            return
        offset = following


def name_unreadable(shard: edge.EdgeShard, found: str) -> str:
    """Add to a failure the points whose payload cannot be read, and how to be rid of them."""
    if "payload" not in found.lower():
        return found
    unreadable = [id_ for page in find_ids(shard) for id_ in read_points(shard, page)[1]]
    if not unreadable:
        return found
    named = ", ".join(f"{str(id_)!r} (of document {_document(shard, id_)!r})" for id_ in unreadable[:3])
    more = ", ..." if unreadable[3:] else ""
    return (
        f"{len(unreadable)} point(s) cannot be read back: {named}{more} ({found[:200]}); expected none. "
        f"delete_nodes({[str(id_) for id_ in unreadable[:3]]}) deletes what is named here"
    )


def _document(shard: edge.EdgeShard, id_: EdgeId) -> str:
    """Ask the index of documents which one a point belongs to: its payload would not say."""
    only = edge.Filter(must=[edge.HasIdCondition({id_})])
    hits = shard.facet(edge.FacetRequest(DOCUMENT_KEY, limit=1, exact=True, filter=only)).hits
    return str(hits[0].value) if hits else "unknown"
