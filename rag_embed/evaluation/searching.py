"""A set that is searched as an arm says: all queries at once to be measured, or one by one to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from rag_embed.evaluation.arms import Arm
from rag_embed.evaluation.lexical import WordIndex
from rag_embed.evaluation.ranking import Ranking, rank, rank_found, rank_hybrid, rerank
from rag_embed.evaluation.sets import EvalSet, Slice
from rag_embed.evaluation.vectors import Vectors, as_isolated
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex import ContextualEmbedding


class Searcher:
    """What all arms of one run share.

    Args:
        evalset: Chunked documents, queries and answers.
        model: What arms do not set.
        vectors: Of the set's documents.
    """

    def __init__(self, evalset: EvalSet, model: ContextualEmbedding, vectors: Vectors) -> None:
        self.evalset = evalset
        self.model = model
        self.vectors = vectors
        self.queries = list(evalset.queries.values())
        self.answers = evalset.answer_ids
        self._asked: dict[str, Sequence[TokenVectors | None]] = {}
        inside = evalset.competing("document")
        self.competing: dict[Slice, Bool[np.ndarray, "queries chunks"]] = {
            "corpus": evalset.competing("corpus"),
            "document": inside,
        }
        self.sliced: dict[Slice, Bool[np.ndarray, " queries"]] = {
            "corpus": np.ones(len(self.queries), dtype=bool),
        }
        # Where every competing chunk is an answer there is nothing to rank.
        golds = np.array([len(evalset.golds[query]) for query in evalset.queries])
        contested = inside.sum(axis=1) > golds
        if evalset.unit == "chunk" and contested.any():
            self.sliced["document"] = contested

    def rank(self, arm: Arm, where: Slice) -> Ranking:
        """Order the chunks of a slice for every query."""
        first = self._find(arm, where)
        if not arm.is_reranked:
            return first
        return rerank(first, self.query_tokens(arm), self.chunk_tokens(arm), weight=arm.rerank_weight)

    def prepare(self, arm: Arm) -> Callable[[str], Ranking]:
        """Get ready what an index would hold, and search the whole corpus by it, one query at a time.

        Returns:
            From the text of a query to the order of chunks, with nothing kept of it before.
        """
        everything = np.ones((1, len(self.answers)), dtype=bool)
        if arm.method == "bm25":
            words = self.words(arm.with_title)
            return lambda query: rank_found(words.score(query)[None], everything)
        model = arm.make_model(self.model)
        chunks = self.vectors.chunks(model, with_title=arm.with_title)
        tokens = self.chunk_tokens(arm) if arm.is_reranked else ()

        def search(query: str) -> Ranking:
            dense = (model.embed_query(query)[None] @ chunks.T).numpy()
            if arm.method == "hybrid":
                lexical = self.words(arm.with_title).score(query)[None]
                found = rank_hybrid(dense, lexical, everything, method=arm.fusion)
            else:
                found = rank(dense, everything)
            if not arm.is_reranked:
                return found
            asked = self.vectors.query_tokens(model, [query])
            return rerank(found, asked, tokens, weight=arm.rerank_weight)

        return search

    def dense(self, arm: Arm) -> Float[np.ndarray, "queries chunks"]:
        """Cosines of every query and chunk."""
        model = arm.make_model(self.model)
        chunks = self.vectors.chunks(model, with_title=arm.with_title)
        return (self.vectors.queries(model, self.queries) @ chunks.T).numpy()

    @lru_cache(maxsize=2)  # noqa: B019 - with and without titles, for all arms of one run
    def words(self, with_title: bool) -> WordIndex:
        """The words of each chunk."""
        return WordIndex(self.worded_texts(with_title))

    def worded_texts(self, with_title: bool) -> list[str]:
        """What the words of each chunk are taken from: behind its title, as LlamaIndex puts it there."""
        heads = [
            f"{doc.title_key}: {doc.title}\n\n" if with_title and doc.title else ""
            for doc in self.evalset.documents
            for _ in doc.spans
        ]
        return [head + text for head, text in zip(heads, self.evalset.chunk_texts, strict=True)]

    @lru_cache(maxsize=2)  # noqa: B019 - with and without titles, for all arms of one run
    def lexical(self, with_title: bool) -> Float[np.ndarray, "queries chunks"]:
        """BM25 of every query and chunk."""
        return self.words(with_title).score_all(self.queries)

    def chunk_tokens(self, arm: Arm) -> Sequence[TokenVectors]:
        """Token vectors of every chunk."""
        return self.vectors.tokens(arm.make_model(self.model), with_title=arm.with_title)

    def query_tokens(self, arm: Arm) -> Sequence[TokenVectors | None]:
        """Token vectors of every query, the same for all strategies and adapters of one encoder."""
        model = as_isolated(arm.make_model(self.model))
        key = model.fingerprint()
        if key not in self._asked:
            self._asked[key] = self.vectors.query_tokens(model, self.queries)
        return self._asked[key]

    def _find(self, arm: Arm, where: Slice) -> Ranking:
        """The first stage: by words, by vectors, or by both."""
        competing = self.competing[where]
        if arm.method == "bm25":
            return rank_found(self.lexical(arm.with_title), competing)
        if arm.method == "hybrid":
            lexical = self.lexical(arm.with_title)
            return rank_hybrid(self.dense(arm), lexical, competing, method=arm.fusion)
        return rank(self.dense(arm), competing)
