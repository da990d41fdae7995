"""What a postprocessor asks of a vector store, from a thread or from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)


@runtime_checkable
class TokenStore(Protocol):
    """A vector store that compares token vectors where they are."""

    def score_tokens(
        self, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """MaxSim of those of the nodes that have token vectors."""


class StoreAccess:
    """Blocking access to a store, or to none.

    Args:
        store: Any vector store; None has nothing.
        loop: A running event loop on which the store's async methods are awaited, while the caller waits in a
            thread of its own: a store that has only an async client can do no other. None calls the others.
    """

    def __init__(
        self, store: BasePydanticVectorStore | None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._store = store
        self._loop = loop

    @property
    def is_there(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    def get_vectors(self, node_ids: Sequence[str]) -> dict[str, list[float]]:
        """Fetch the vectors that the store has, in one call."""
        if isinstance(self._store, SimpleVectorStore):  # keeps vectors and no nodes
            known = self._store.data.embedding_dict
            return {node_id: known[node_id] for node_id in node_ids if node_id in known}
        if self._store is None or not node_ids:
            return {}
        found: list[BaseNode] = self._call("get_nodes", node_ids=list(node_ids))
        return {node.node_id: node.embedding for node in found if node.embedding is not None}

    def get_documents(self, ref_doc_ids: Sequence[str]) -> list[BaseNode]:
        """Fetch all chunks of documents, in one call; none from a store that keeps no text."""
        if self._store is None or not ref_doc_ids or not self._store.stores_text:
            return []
        one = MetadataFilter(key="doc_id", value=list(ref_doc_ids), operator=FilterOperator.IN)
        found: list[BaseNode] = self._call("get_nodes", filters=MetadataFilters(filters=[one]))
        return found

    def score_tokens(
        self, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """Compare token vectors where they are stored; nothing from a store that cannot."""
        if not isinstance(self._store, TokenStore):
            return {}
        scores: dict[str, float] = self._call("score_tokens", node_ids, query_vectors)
        return scores

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self._loop is None:
            return getattr(self._store, method)(*args, **kwargs)
        awaited: Coroutine[Any, Any, Any] = getattr(self._store, f"a{method}")(*args, **kwargs)
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result()
