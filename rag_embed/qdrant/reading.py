"""What is asked of a store: queries, nodes, vectors, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryResult

from rag_embed.qdrant.lifecycle import Flow, StoreLifecycle, in_shards
from rag_embed.qdrant.queries import check_options

dispatcher = get_dispatcher(__name__)


class StoreReading(StoreLifecycle):
    """Everything that a store answers; mixed into a pydantic model that has these attributes."""

    return_vectors: bool

    def count(self, filters: MetadataFilters | None = None) -> int:
        """Count the chunks that pass the filters; 0 if the collection does not exist."""
        return self._run(lambda engine: self._collection.count(engine, filters))

    async def acount(self, filters: MetadataFilters | None = None) -> int:
        """Do what `count` does, awaiting."""
        return await self._arun(lambda engine: self._collection.count(engine, filters))

    def count_by_document(self, filters: MetadataFilters | None = None) -> dict[str, int]:
        """Count the chunks of each document, of those that pass the filters.

        Returns:
            By document id, in the order of the ids. Chunks that belong to no document are not in it.
        """
        return self._run(lambda engine: self._collection.count_by_document(engine, filters))

    async def acount_by_document(self, filters: MetadataFilters | None = None) -> dict[str, int]:
        """Do what `count_by_document` does, awaiting."""
        return await self._arun(lambda engine: self._collection.count_by_document(engine, filters))

    @dispatcher.span
    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find chunks by meaning, by words, or by both.

        Args:
            query: Mode DEFAULT or MMR (by the vector), SPARSE or TEXT_SEARCH (by the question's words), or
                HYBRID (by both, `alpha` being the share of the vector; `sparse_top_k` are the candidates of
                the words, `hybrid_top_k` the results). node_ids, doc_ids and filters must all be met.
            kwargs: LlamaIndex's `vector_store_kwargs`: qdrant_filters (a qdrant_client.models.Filter that
                must hold as well); except for words alone search_params (a models.SearchParams); for MMR
                mmr_threshold (1 relevant, 0 varied), mmr_prefetch_k or mmr_prefetch_factor (candidates); for
                HYBRID fusion ("scores", "dbsf" or "rrf"); for DEFAULT and HYBRID query_tokens, and with them
                token_weight, for late interaction in the same request; shard_identifier, the shards to
                search. None is not given.

        Returns:
            Nodes, best first, with similarities (of Euclid and Manhattan the negative distance) and node ids;
            none if the collection does not exist. After HYBRID and late interaction the nodes' metadata have
            the scores of the stages, see `rag_embed.stage_scores`.

        Raises:
            UnsupportedQueryError: Another mode, one for which the collection keeps nothing, or a filter that
                Qdrant cannot evaluate.
            DimensionMismatchError: A vector of another length than the collection's.
            NonFiniteError: A vector with NaN or infinity.
            InputError: An option that would be ignored, such as another mode's.
        """
        return self._run(self._search(query, kwargs))

    @dispatcher.span
    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do what `query` does, awaiting."""
        return await self._arun(self._search(query, kwargs))

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> list[BaseNode]:
        """Fetch the nodes that have one of the ids and pass the filters, with their embeddings.

        In the order of the ids, else of the point ids. Under Cosine embeddings come back with length 1.

        Args:
            node_ids: None for any.
            filters: None for all.
            limit: How many at most; None for all.
            options: shard_identifier, the shards to look in.
        """
        check_options(options, method="get_nodes")
        return self._run(
            in_shards(lambda engine: self._collection.get_nodes(engine, node_ids, filters, limit), options)
        )

    async def aget_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> list[BaseNode]:
        """Do what `get_nodes` does, awaiting."""
        check_options(options, method="aget_nodes")
        return await self._arun(
            in_shards(lambda engine: self._collection.get_nodes(engine, node_ids, filters, limit), options)
        )

    def get_vectors(self, node_ids: Sequence[str]) -> dict[str, list[float]]:
        """Fetch stored vectors, in one request per thousand.

        Returns:
            By node id, in the given order. Under Cosine of length 1.

        Raises:
            MissingVectorError: Names the nodes that have none.
        """
        return self._run(lambda engine: self._collection.get_vectors(engine, node_ids))

    async def aget_vectors(self, node_ids: Sequence[str]) -> dict[str, list[float]]:
        """Do what `get_vectors` does, awaiting."""
        return await self._arun(lambda engine: self._collection.get_vectors(engine, node_ids))

    def score_tokens(
        self, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """Compare a query's token vectors with those of stored chunks, where they are stored.

        Args:
            node_ids: Of the chunks.
            query_vectors: Unit vectors, as `ContextualEmbedding.embed_query_tokens` makes them.

        Returns:
            MaxSim (a mean of cosines) by node id, of those of the chunks that have token vectors.
        """
        return self._run(lambda engine: self._collection.score_tokens(engine, node_ids, query_vectors))

    async def ascore_tokens(
        self, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """Do what `score_tokens` does, awaiting."""
        return await self._arun(lambda engine: self._collection.score_tokens(engine, node_ids, query_vectors))

    def _search(self, query: VectorStoreQuery, options: Mapping[str, object]) -> Flow[VectorStoreQueryResult]:
        given = {
            name: value for name, value in options.items() if value is not None and name != "shard_identifier"
        }
        return in_shards(
            lambda engine: self._collection.query(
                engine, query, with_vectors=self.return_vectors, options=given
            ),
            options,
        )
