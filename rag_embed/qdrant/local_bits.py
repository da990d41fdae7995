"""Vectors in the client's local mode, exactly as another engine gave them.

Local mode divides every vector under Cosine by its length again, although a stored one has length 1: that
moves the last bits of a quarter of all 384-dimensional vectors. A server leaves unit vectors as they are. The
copy of a collection has to be one, so what local mode made of a vector is put back to what it was given.

This reaches into qdrant-client, which offers no way; a contract test says if an upgrade moves these parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import AsyncQdrantClient, QdrantClient

from rag_embed.qdrant.port import StoredPoint


def restore_bits(
    client: QdrantClient | AsyncQdrantClient,
    collection_name: str,
    points: Sequence[StoredPoint],
    vector_name: str,
) -> None:
    """Give points that were just written the vectors that they were written with."""
    inner: Any = client._client
    collection = inner.collections[collection_name]
    for point in points:
        row = collection.ids[point.id]
        named = {vector_name: point.vector, **point.others}
        for name, vector in named.items():
            if vector is None:
                continue
            if name in collection.vectors:
                collection.vectors[name][row] = np.asarray(vector, dtype=np.float32)
            elif name in collection.multivectors:
                collection.multivectors[name][row] = np.array(vector, dtype=np.float32)
