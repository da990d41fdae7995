"""Chunk vectors of candidates: those that they carry, or what a store has of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from rag_embed.errors import DimensionMismatchError, MissingVectorError, NonFiniteError
from rag_embed.llamaindex.embedding import ContextualEmbedding


def fetch_vectors(
    nodes: Sequence[BaseNode], model: ContextualEmbedding, *, store: BasePydanticVectorStore | None
) -> Float[np.ndarray, "candidates dim"]:
    """Collect the vectors of nodes; what they do not carry comes out of the store in one call.

    Raises:
        MissingVectorError: A node carries none, and the store has none.
        DimensionMismatchError: Vectors of another size than the model makes.
        NonFiniteError: A vector holds NaN or infinity.
    """
    vectors = {node.node_id: node.embedding for node in nodes if node.embedding is not None}
    missing = [node.node_id for node in nodes if node.node_id not in vectors]
    if missing and store is not None:
        vectors.update(_ask(store, missing))
    if absent := [node_id for node_id in missing if node_id not in vectors]:
        raise MissingVectorError(
            f"{len(absent)} of {len(nodes)} candidates come without a vector, the first is {absent[0]!r}; "
            + (
                "pass ListwiseRerank(vector_store=...), or let the store return vectors"
                if store is None
                else "the vector store has none for them: index them again, or, if they are in a document "
                "store only (as AutoMergingRetriever's parents are), use method='late_interaction'"
            )
        )
    dim = model.dim or model.profile.dim
    if sizes := sorted({len(vector) for vector in vectors.values()} - {dim}):
        raise DimensionMismatchError(
            f"stored vectors have {sizes[0]} dimensions; encoder {model.profile.name!r} makes {dim}. Rerank "
            "with the model that the collection was built with"
        )
    stored = np.array([vectors[node.node_id] for node in nodes], dtype=np.float64)
    if not np.isfinite(stored).all():
        raise NonFiniteError("a stored vector holds NaN or infinity; index the collection again")
    return stored


def _ask(store: BasePydanticVectorStore, node_ids: list[str]) -> dict[str, list[float]]:
    """Ask a store for the vectors that it has, in one call."""
    if isinstance(store, SimpleVectorStore):  # keeps vectors and no nodes
        return {i: store.get(i) for i in node_ids if i in store.data.embedding_dict}
    found = store.get_nodes(node_ids=node_ids)
    return {node.node_id: node.embedding for node in found if node.embedding is not None}
