"""Hybrid search: candidates by vectors and by words, each scored by every leg, one ranking.

One request: every leg finds its candidates, and the engine scores the candidates of all legs by each leg. So
no score has to be guessed for what one leg alone has found, and how far the scores of each leg spread can be
seen over the same candidates (`fusion.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

import numpy as np
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import models

from rag_embed.errors import InputError, UnsupportedQueryError
from rag_embed.fusion import LEG_CANDIDATES, LEXICAL_WEIGHT, TOKEN_WEIGHT, Fusion, best_first, fuse
from rag_embed.max_sim import to_units
from rag_embed.qdrant.legs import LEXICAL_NAME, TOKENS_NAME
from rag_embed.qdrant.port import Candidates, PointId, Search, StoredPoint
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.stage_scores import DENSE_SCORE, LEXICAL_SCORE, TOKEN_SCORE

_SCORE_KEYS = {LEXICAL_NAME: LEXICAL_SCORE, TOKENS_NAME: TOKEN_SCORE}


@dataclass(frozen=True, slots=True)
class HybridSearch:
    """Several legs and how their scores become one.

    Attributes:
        legs: The dense one first. A leg with the limit 0 finds nothing and scores what the others found.
        limit: Results.
        lexical_weight: Share of the words in the score of both.
        token_weight: Share of late interaction in the final score, where there is such a leg.
        fusion: How scores are made comparable.
        sign: -1 where a smaller dense score is the better one.
    """

    legs: tuple[Search, ...]
    limit: int
    lexical_weight: float
    token_weight: float
    fusion: Fusion
    sign: float

    def rank(self, candidates: Candidates) -> list[StoredPoint]:
        """Order the candidates.

        Args:
            candidates: Of `Engine.search_legs`.

        Returns:
            The best, with their final scores, and in their payloads the scores of the legs.
        """
        if not candidates.points:
            return []
        scores = {
            leg.vector_name: np.array(found) for leg, found in zip(self.legs, candidates.scores, strict=True)
        }
        final = scores[self.legs[0].vector_name] = scores[self.legs[0].vector_name] * self.sign
        if TOKENS_NAME in scores:
            # The engine adds up over the query's tokens; as a mean, questions of any length compare.
            scores[TOKENS_NAME] /= len(cast("list[object]", self.legs[-1].vector))
        for name, weight in ((LEXICAL_NAME, self.lexical_weight), (TOKENS_NAME, self.token_weight)):
            if name in scores:
                method = self.fusion if name == LEXICAL_NAME else "scores"
                final = fuse(final, scores[name], weight=weight, method=method, found=self.legs[0].limit)
        keys = {leg.vector_name: _SCORE_KEYS.get(leg.vector_name, DENSE_SCORE) for leg in self.legs}
        return [
            replace(
                candidates.points[index],
                score=float(final[index]),
                stages={keys[name]: float(values[index]) for name, values in scores.items()},
            )
            for index in best_first(final)[: self.limit]
        ]


def to_lexical_search(
    query: VectorStoreQuery, schema: CollectionSchema, condition: models.Filter | None, *, with_vectors: bool
) -> Search | None:
    """Translate a query by words; None if it asks for none but stop words, which find nothing."""
    words = _to_words(query, schema)
    if not words.indices:
        return None
    return Search(words, LEXICAL_NAME, query.similarity_top_k, condition, with_vectors)


def to_hybrid_search(
    query: VectorStoreQuery, schema: CollectionSchema, dense: Search, options: Mapping[str, object]
) -> HybridSearch:
    """Translate a query by vectors and words, or by vectors alone, and late interaction if it brings tokens.

    Args:
        query: LlamaIndex's `alpha` is the share of the vectors, `sparse_top_k` the candidates of the words,
            `hybrid_top_k` the results.
        schema: Of the collection.
        dense: The search by vectors.
        options: `fusion`, `query_tokens` and `token_weight` of LlamaIndex's `vector_store_kwargs`.

    Raises:
        UnsupportedQueryError: The collection keeps no words, or no token vectors.
        InputError: No question, or options out of range.
    """
    is_hybrid = query.mode == VectorStoreQueryMode.HYBRID
    limit = (query.hybrid_top_k if is_hybrid else None) or query.similarity_top_k
    count = max(LEG_CANDIDATES, limit)
    legs = [replace(dense, limit=count)]
    if is_hybrid and (words := _to_words(query, schema)).indices:
        legs.append(Search(words, LEXICAL_NAME, query.sparse_top_k or count, dense.condition))
    if "query_tokens" in options:
        legs.append(_to_token_search(options["query_tokens"], schema, 0, dense.condition))
    alpha = 1.0 - LEXICAL_WEIGHT if query.alpha is None else query.alpha
    return HybridSearch(
        tuple(legs),
        limit,
        lexical_weight=_share(1.0 - alpha, "alpha"),
        token_weight=_share(options.get("token_weight", TOKEN_WEIGHT), "token_weight"),
        fusion=_read_fusion(options),
        sign=-1.0 if schema.has_distances else 1.0,
    )


def to_token_search(tokens: object, schema: CollectionSchema, ids: Sequence[PointId]) -> Search:
    """Translate a query's token vectors for late interaction with given points."""
    condition = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    return replace(_to_token_search(tokens, schema, len(ids), condition), with_payload=False)


def _to_token_search(
    tokens: object, schema: CollectionSchema, limit: int, condition: models.Filter | None
) -> Search:
    if schema.legs.tokens is None:
        raise UnsupportedQueryError(
            f"collection {schema.collection_name!r} keeps no token vectors; expected one that was made by "
            "QdrantChunkStore(tokens=True). Index into such a one, or leave query_tokens out"
        )
    units = to_units(np.atleast_2d(np.asarray(tokens, dtype=np.float32)))
    if not units.size or not np.isfinite(units).all():
        raise InputError(
            f"query_tokens has the shape {units.shape}, or numbers that are not finite; expected a row for "
            "each token, as ContextualEmbedding.embed_query_tokens gives"
        )
    return Search(units.tolist(), TOKENS_NAME, limit, condition)


def _to_words(query: VectorStoreQuery, schema: CollectionSchema) -> models.SparseVector:
    if schema.legs.lexical is None:
        raise UnsupportedQueryError(
            f"query mode {query.mode.name} needs the words of the chunks, and collection "
            f"{schema.collection_name!r} keeps {schema.legs}; expected one that was made by "
            "QdrantChunkStore(lexical=True). Index into such a one, or use mode DEFAULT"
        )
    if not (query.query_str or "").strip():
        raise InputError(
            f"query mode {query.mode.name} has query_str={query.query_str!r}; expected the question, whose "
            "words are looked for"
        )
    return schema.legs.lexical.to_query(query.query_str or "")


def _share(value: object, name: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; expected a share from 0 to 1")
    return float(value)


def _read_fusion(options: Mapping[str, object]) -> Fusion:
    fusion = options.get("fusion", "scores")
    if fusion not in get_args(Fusion):
        raise InputError(f"fusion is {fusion!r}; expected one of {', '.join(get_args(Fusion))}")
    return cast(Fusion, fusion)
