"""From vectors or words to the order of chunks for each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rag_embed.fusion import LEG_CANDIDATES, LEXICAL_WEIGHT, Fusion, best_first, fuse
from rag_embed.late_interaction import TokenVectors
from rag_embed.max_sim import max_sims

CANDIDATES = 100
"""How many chunks a ranking holds for each query."""
RERANK_CANDIDATES = 50
"""How many of them a reranker looks at."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Chunks of each query, best first.

    Attributes:
        order: Positions of the chunks.
        scores: Minus infinity where there is no further chunk.
    """

    order: Int[np.ndarray, "queries candidates"]
    scores: Float[np.ndarray, "queries candidates"]

    def found(self, query: int) -> Int[np.ndarray, " found"]:
        """Chunks of one query."""
        found: Int[np.ndarray, " found"] = self.order[query][np.isfinite(self.scores[query])]
        return found


def rank(
    scores: Float[np.ndarray, "queries chunks"], competing: Bool[np.ndarray, "queries chunks"]
) -> Ranking:
    """Order the competing chunks; equal ones stay in the order of the corpus."""
    allowed = np.where(competing, scores, -np.inf)
    order = np.argsort(-allowed, axis=1, kind="stable")[:, :CANDIDATES]
    return Ranking(order, np.take_along_axis(allowed, order, axis=1))


def rank_found(
    scores: Float[np.ndarray, "queries chunks"], competing: Bool[np.ndarray, "queries chunks"]
) -> Ranking:
    """Order the competing chunks that share a word with the query: a score of 0 is not found."""
    return rank(scores, competing & (scores > 0))


def rank_hybrid(
    dense: Float[np.ndarray, "queries chunks"],
    lexical: Float[np.ndarray, "queries chunks"],
    competing: Bool[np.ndarray, "queries chunks"],
    *,
    weight: float = LEXICAL_WEIGHT,
    candidates: int = LEG_CANDIDATES,
    method: Fusion = "scores",
) -> Ranking:
    """Order the chunks that either leg finds first by both legs' scores, as the store does.

    Args:
        dense: Cosines.
        lexical: BM25; 0 where no word is shared.
        competing: Which chunks compete.
        weight: Share of the words.
        candidates: Chunks that each leg finds.
        method: How the scores become one.
    """
    fused = np.full(dense.shape, -np.inf, dtype=np.float32)
    legs = rank(dense, competing), rank_found(lexical, competing)
    for row in range(len(dense)):
        found = np.unique(np.concatenate([leg.found(row)[:candidates] for leg in legs]))
        if len(found):
            fused[row, found] = fuse(dense[row, found], lexical[row, found], weight=weight, method=method)
    return rank(fused, competing)


def rerank(
    first: Ranking,
    query_tokens: Sequence[TokenVectors | None],
    chunk_tokens: Sequence[TokenVectors],
    *,
    weight: float,
    candidates: int = RERANK_CANDIDATES,
) -> Ranking:
    """Reorder the first candidates by late interaction, as `ListwiseRerank` does; the others stay behind.

    Args:
        first: The first stage's.
        query_tokens: Unit vectors of each query's tokens; None for one that is too long, whose order stays.
        chunk_tokens: Unit vectors of each chunk's tokens.
        weight: Share of late interaction.
        candidates: How many are looked at.
    """
    order, scores = first.order.copy(), first.scores.copy()
    for row, tokens in enumerate(query_tokens):
        found = first.found(row)[:candidates]
        if tokens is None or not len(found):
            continue
        moved = max_sims(tokens, [chunk_tokens[chunk] for chunk in found])
        fused = fuse(first.scores[row, : len(found)], moved, weight=weight)
        inner = best_first(fused)
        order[row, : len(found)] = found[inner]
        # What was not looked at stays behind: only the order counts in measures.
        rest = scores[row, len(found) :]
        highest = np.max(rest, initial=-np.inf)
        scores[row, : len(found)] = fused[inner] + max(0.0, highest - float(fused.min()) + 1e-6)
    return Ranking(order, scores)
