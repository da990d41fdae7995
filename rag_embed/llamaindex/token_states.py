"""Token vectors of candidates: compared where they are stored, or read again in their documents."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode

from rag_embed.errors import AlignmentError
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex.context import group_by_context
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.store_access import StoreAccess
from rag_embed.max_sim import max_sim, to_units

STORED, IN_DOCUMENT, ALONE = "stored", "read in its document", "read alone"


def score_candidates(
    model: ContextualEmbedding, query_vectors: TokenVectors, nodes: Sequence[BaseNode], *, store: StoreAccess
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
    stored = store.score_tokens([node.node_id for node in nodes], query_vectors)
    missing = [node for node in nodes if node.node_id not in stored]
    read = _read(model, missing, store) if missing else {}
    return [
        (stored[node.node_id], STORED)
        if node.node_id in stored
        else (max_sim(query_vectors, read[node.node_id][0]), read[node.node_id][1])
        for node in nodes
    ]


def _read(
    model: ContextualEmbedding, nodes: Sequence[BaseNode], store: StoreAccess
) -> dict[str, tuple[TokenVectors, str]]:
    """Read the windows that hold the candidates, of documents that are whole; other candidates alone."""
    contexts, alone = group_by_context(nodes, need_stamps=False)
    documents = list(dict.fromkeys(node.ref_doc_id for node in nodes if node.ref_doc_id))
    rows, _ = group_by_context(store.get_documents(documents), need_stamps=False)
    found: dict[str, tuple[TokenVectors, str]] = {}
    for context, members in contexts.items():
        wanted = [node for node, _ in members]
        document = [node for node, _ in rows.get(context, [])]
        # A parent out of a docstore is no chunk of the store, and is read where it stands all the same.
        known = {node.node_id for node in document}
        document += [node for node in wanted if node.node_id not in known]
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
