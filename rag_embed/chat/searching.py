"""Search an index: retrieve candidates, rerank them, say exactly where each passage stands, and quote it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llama_index.core import VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from rag_embed.chat.passages import Passage, to_passages
from rag_embed.chat.quotes import quote_best, quote_passages
from rag_embed.chat.turns import Quote
from rag_embed.errors import ContextOverflowError, InputError
from rag_embed.llamaindex import ContextualEmbedding, ListwiseRerank
from rag_embed.llamaindex.mapped_embedding import MappedEmbedding
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.legs import NO_LEGS, Legs
from rag_embed.stage_scores import SKIPPED

dispatcher = get_dispatcher(__name__)

Rerank = Literal["auto", "none", "late-interaction", "listwise"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one search found.

    Attributes:
        passages: Best first.
        unranked: Why they stand in the order of the first stage; None if they were reranked as asked.
    """

    passages: Sequence[Passage]
    unranked: str | None = None


class Searcher:
    """Retriever and reranker over one index; any number of threads may search at once.

    Args:
        store: The index.
        embed_model: The model it was made with.
        top_k: Most passages in a result.
        candidates: How many the reranker chooses from.
        rerank: How; "none" takes the first stage's order, "auto" reranks where the index keeps token vectors
            or the model was trained for a list prompt.
        with_words: Whether words find chunks beside meaning; None where the index keeps words.
        filters: What the chunks' metadata must be, in every search.
    """

    def __init__(
        self,
        store: QdrantChunkStore,
        embed_model: ContextualEmbedding,
        *,
        top_k: int = 8,
        candidates: int = 50,
        rerank: Rerank = "auto",
        with_words: bool | None = None,
        filters: MetadataFilters | None = None,
    ) -> None:
        self.store = store
        self.embed_model = embed_model
        self.top_k = top_k
        self._candidates = candidates
        self._rerank: Rerank = rerank
        self._with_words = with_words
        self._filters = filters
        self._index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)

    @dispatcher.span
    def search(self, query: str, *, filters: MetadataFilters | None = None) -> Found:
        """Find the best passages.

        Args:
            query: Some words.
            filters: What the chunks' metadata must be as well, in this search.

        Raises:
            InputError: The question is blank.
            StoreError: The store cannot be asked, or not this.
        """
        if not query.strip():
            raise InputError("the question is empty; expected some words")
        schema = self.store.info()
        legs = schema.legs if schema is not None else NO_LEGS
        with_words = legs.lexical is not None if self._with_words is None else self._with_words
        is_reranked = self._pays(legs) if self._rerank == "auto" else self._rerank != "none"
        retriever = self._index.as_retriever(
            similarity_top_k=max(self.top_k, self._candidates) if is_reranked else self.top_k,
            vector_store_query_mode="hybrid" if with_words else "default",
            filters=join_filters(self._filters, filters),
        )
        bundle = QueryBundle(query)
        nodes = retriever.retrieve(bundle)
        if not is_reranked:
            return Found(to_passages(nodes))
        nodes, reason = self._rerank_nodes(nodes, bundle)
        unranked = f"not reranked, the passages stand as they were found: {reason}" if reason else None
        return Found(to_passages(nodes), unranked)

    async def asearch(self, query: str, *, filters: MetadataFilters | None = None) -> Found:
        """Do the same on a worker thread."""
        return await asyncio.to_thread(self.search, query, filters=filters)

    @dispatcher.span
    def quote_best(
        self, question: str, passages: Sequence[Passage], *, most: int
    ) -> list[tuple[Passage, Quote]]:
        """Choose the sentences nearest to a question, at most so many; see `quotes.quote_best`."""
        return quote_best(self.store, self.embed_model, question, passages, most=most)

    @dispatcher.span
    def quote_passages(self, question: str, passages: Sequence[Passage]) -> list[Quote | None]:
        """Find the sentence nearest to a question in each passage; see `quotes.quote_passages`."""
        return quote_passages(self.store, self.embed_model, question, passages)

    def _pays(self, legs: Legs) -> bool:
        if isinstance(self.embed_model, MappedEmbedding):  # tokens of one encoder, token vectors of another
            return False
        return legs.tokens is not None or self.embed_model.profile.has_list_prompt

    def _rerank_nodes(
        self, nodes: list[NodeWithScore], bundle: QueryBundle
    ) -> tuple[list[NodeWithScore], str | None]:
        """Rerank, or keep the first stage's order where a question is too long for that, and say why."""
        method = None if self._rerank == "auto" else self._rerank.replace("-", "_")
        reranker = ListwiseRerank(
            embed_model=self.embed_model, vector_store=self.store, method=method, top_n=self.top_k
        )
        try:
            result = reranker.postprocess_nodes(nodes, query_bundle=bundle)
        except ContextOverflowError as error:
            return nodes[: self.top_k], str(error)
        return result, next((found.node.metadata.get(SKIPPED) for found in result), None)


def join_filters(*parts: MetadataFilters | None) -> MetadataFilters | None:
    """Require all of several filters; None requires nothing."""
    given: list[MetadataFilters] = [part for part in parts if part is not None]
    return MetadataFilters(filters=list(given)) if len(given) > 1 else (given[0] if given else None)
