"""Nodes and queries for the tests of the Qdrant store: clustered vectors, as embeddings are."""

from __future__ import annotations

import numpy as np
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from rag_embed.llamaindex.context import stamp_node
from rag_embed.stamp import ChunkStamp

DIM = 8


def make_vectors(count: int, *, dim: int = DIM, seed: int = 0, spread: float = 0.4) -> list[list[float]]:
    """Unit vectors around eight centres, exact in float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, dim))
    vectors = centres[rng.integers(0, 8, size=count)] + spread * rng.normal(size=(count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32).astype(float).tolist()


def make_nodes(
    count: int,
    *,
    document: str | None = "doc",
    fingerprint: str | None = None,
    dim: int = DIM,
    seed: int = 0,
    prefix: str = "node",
    **metadata: object,
) -> list[TextNode]:
    """Nodes of one document with embeddings and, given a fingerprint, stamps."""
    nodes = []
    for index, vector in enumerate(make_vectors(count, dim=dim, seed=seed)):
        values: dict[str, object] = {"index": index, **metadata}
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document else {}
        node = TextNode(
            id_=f"{prefix}-{index}",
            text=f"Text {index} of {document}: naïve 🙂",
            metadata=values,
            relationships=source,
            embedding=vector,
        )
        if fingerprint is not None:
            stamp_node(node, ChunkStamp("0" * 32, index, index + 1, fingerprint=fingerprint))
        nodes.append(node)
    return nodes


def ask(vector: list[float], top_k: int = 5, **options: object) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=top_k, **options)


def where(key: str, value: object, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def nearest(nodes: list[TextNode], vector: list[float], top_k: int) -> list[str]:
    """The slow and obvious search by cosine."""
    matrix = np.asarray([node.embedding for node in nodes])
    scores = matrix @ np.asarray(vector) / np.linalg.norm(matrix, axis=1)
    return [nodes[row].node_id for row in np.argsort(-scores, kind="stable")[:top_k]]
