"""What is to be known of an index."""

from __future__ import annotations

from rag_embed.devices import describe_auto
from rag_embed.indexes.migrating import count_done
from rag_embed.indexes.opening import FINGERPRINT, Place
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.schema import CollectionSchema


def describe_index(place: Place, store: QdrantChunkStore, schema: CollectionSchema) -> dict[str, object]:
    """Say where a collection is, how much it holds, and how its vectors were made."""
    migration = count_done(place, store)
    underway = {"migrating to": migration[0].fingerprint, "embedded anew": migration[1]} if migration else {}
    made_by = FINGERPRINT.fullmatch(schema.fingerprint or "")
    return {
        "collection": schema.collection_name,
        "engine": f"Qdrant server {place.url}" if place.url else f"embedded Qdrant in {place.folder}",
        "count": store.count(),
        "dim": schema.dim,
        "distance": schema.distance.value,
        "fingerprint": schema.fingerprint,
        "model": made_by and made_by["model"],
        "adapter": made_by and made_by["adapter"],
        "words": schema.legs.lexical and (schema.legs.lexical.language or "any language"),
        "tokens": schema.legs.tokens,
        "precision": made_by and (made_by["dtype"] or describe_auto()),
        **underway,
    }
