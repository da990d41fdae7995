"""Chunk vectors of candidates: those that they carry, or what a store has of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode

from rag_embed.errors import DimensionMismatchError, MissingVectorError, NonFiniteError
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.store_access import StoreAccess


def fetch_vectors(
    nodes: Sequence[BaseNode], model: ContextualEmbedding, *, store: StoreAccess
) -> Float[np.ndarray, "candidates dim"]:
    """Collect the vectors of nodes; what they do not carry comes out of the store in one call.

    Raises:
        MissingVectorError: A node carries none, and the store has none.
        DimensionMismatchError: Vectors of another size than the model makes.
        NonFiniteError: A vector holds NaN or infinity.
    """
    vectors = {node.node_id: node.embedding for node in nodes if node.embedding is not None}
    missing = [node.node_id for node in nodes if node.node_id not in vectors]
    vectors.update(store.get_vectors(missing))
    if absent := [node for node in nodes if node.node_id not in vectors]:
        raise MissingVectorError(
            f"{len(absent)} of {len(nodes)} candidates come without a vector, the first is "
            f"{absent[0].node_id!r}; {_advise(absent[0], store)}"
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


def _advise(absent: BaseNode, store: StoreAccess) -> str:
    if absent.child_nodes:
        return (
            "it is a parent that AutoMergingRetriever put in the place of its chunks, and the index holds "
            "the chunks alone. Rerank what the retriever inside it finds, before merging, or add the parents to "
            "the vector store too: LateChunkingNodeParser(embed_model=...) embeds them"
        )
    if not store.is_there:
        return "pass ListwiseRerank(vector_store=...), or let the store return vectors"
    return "the vector store has none for them: index them again"
