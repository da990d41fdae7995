"""Token vectors of candidates: compared where they are stored, or read again in their documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from rag_embed.errors import AlignmentError
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex.context import group_by_context
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.max_sim import max_sim, to_units

STORED, IN_DOCUMENT, ALONE = "stored", "read in its document", "read alone"


@runtime_checkable
class TokenStore(Protocol):
    """A vector store that compares token vectors where they are."""

    def score_tokens(
        self, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """MaxSim of those of the nodes that have token vectors."""


def score_candidates(
    model: ContextualEmbedding,
    query_vectors: TokenVectors,
    nodes: Sequence[BaseNode],
    *,
    store: BasePydanticVectorStore | None,
) -> list[tuple[float, str]]:
    """Compare a query's tokens with those of each candidate.

    Args:
        model: The one that the candidates were indexed with.
        query_vectors: Of the query.
        nodes: Candidates.
        store: Where they are. One of ours compares what it has stored; from any other, and for what is not
            stored, the candidates' documents are fetched, and the windows around the candidates read again.

    Returns:
        MaxSim of each candidate, and where its token vectors were from.
    """
    ids = [node.node_id for node in nodes]
    stored = store.score_tokens(ids, query_vectors) if isinstance(store, TokenStore) else {}
    missing = [node for node in nodes if node.node_id not in stored]
    read = _read(model, missing, store) if missing else {}
    return [
        (stored[id_], STORED) if id_ in stored else (max_sim(query_vectors, read[id_][0]), read[id_][1])
        for id_ in ids
    ]


def _read(
    model: ContextualEmbedding, nodes: Sequence[BaseNode], store: BasePydanticVectorStore | None
) -> dict[str, tuple[TokenVectors, str]]:
    """Read the windows that hold the candidates, of documents that are whole; other candidates alone."""
    contexts, alone = group_by_context(nodes, need_stamps=False)
    rows, _ = group_by_context(_fetch_documents(nodes, store), need_stamps=False)
    found: dict[str, tuple[TokenVectors, str]] = {}
    for context, members in contexts.items():
        wanted = [node for node, _ in members]
        document = [node for node, _ in rows.get(context, [])] or wanted
        try:
            kept = model.read_tokens(wanted, members=document)
        except AlignmentError:  # the store does not have all of the document
            alone += wanted
            continue
        found |= {
            node.node_id: (to_units(each), IN_DOCUMENT) for node, each in zip(wanted, kept, strict=True)
        }
    if alone:
        kept = model.read_tokens(alone)
        found |= {node.node_id: (to_units(each), ALONE) for node, each in zip(alone, kept, strict=True)}
    return found


def _fetch_documents(nodes: Sequence[BaseNode], store: BasePydanticVectorStore | None) -> list[BaseNode]:
    ids = list(dict.fromkeys(node.ref_doc_id for node in nodes if node.ref_doc_id))
    if store is None or not ids or not store.stores_text:
        return []
    filters = [MetadataFilter(key="doc_id", value=ids, operator=FilterOperator.IN)]
    return store.get_nodes(filters=MetadataFilters(filters=filters))
