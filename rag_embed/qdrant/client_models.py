"""Searches and descriptions of collections, in the types of qdrant-client."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from rag_embed.qdrant.port import CollectionInfo, QueryVector, Search
from rag_embed.qdrant.records import select_vectors


def read_info(info: models.CollectionInfo, *, is_local: bool) -> CollectionInfo:
    """Bring what a client says of a collection to the port's form.

    Args:
        info: As the client gives it.
        is_local: Whether the client is in local mode, which names Qdrant's defaults for what it was given.
    """
    vectors = info.config.params.vectors or {}
    vectors = vectors if isinstance(vectors, dict) else {"": vectors}
    of_all = info.config.quantization_config
    known = set(models.HnswConfigDiff.model_fields)
    graph = info.config.hnsw_config.model_dump(include=known, exclude_none=True)
    return CollectionInfo(
        vectors={
            name: params.model_copy(update={"quantization_config": params.quantization_config or of_all})
            for name, params in vectors.items()
        },
        metadata=info.config.metadata or {},
        indexed={key: index.params or index.data_type for key, index in (info.payload_schema or {}).items()},
        sparse=info.config.params.sparse_vectors or {},
        hnsw=None if is_local else models.HnswConfigDiff.model_validate(graph),
        on_disk_payload=None if is_local else info.config.params.on_disk_payload,
    )


def to_query(search: Search) -> models.NearestQuery | QueryVector:
    """Say what to find the nearest of, and how varied they may be."""
    if search.diversity is None:
        return search.vector
    mmr = models.Mmr(diversity=search.diversity, candidates_limit=search.candidates)
    return models.NearestQuery(nearest=search.vector, mmr=mmr)


def to_batch(
    searches: Sequence[Search], shards: list[int | str] | None = None, *, is_local: bool
) -> list[models.QueryRequest]:
    """Let every search score the candidates of all; only the first brings payloads."""
    finders = [_to_finder(search, is_local=is_local) for search in searches if search.limit]
    return [
        models.QueryRequest(
            shard_key=shards,
            prefetch=finders,
            query=search.vector,
            using=search.vector_name,
            limit=sum(other.limit for other in searches),
            with_payload=number == 0,
            with_vector=select_vectors(search.vector_name) if search.with_vector else False,
        )
        for number, search in enumerate(searches)
    ]


def to_prefetch(search: Search) -> models.Prefetch | None:
    """Find candidates by the prefix; the whole vectors order them, so quantized ones need no rescoring."""
    if search.prefix is None:
        return None
    return models.Prefetch(
        query=search.prefix_vector,
        using=search.prefix.name,
        filter=search.condition,
        params=search.prefix_params,
        limit=search.prefix_limit,
    )


def _to_finder(search: Search, *, is_local: bool) -> models.Prefetch:
    return models.Prefetch(
        prefetch=to_prefetch(search),
        query=search.vector,
        using=search.vector_name,
        filter=search.condition,
        params=None if is_local else search.search_params,
        limit=search.limit,
    )
