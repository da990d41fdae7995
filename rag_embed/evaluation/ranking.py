"""From vectors or words to the order of chunks for each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rag_embed.fusion import LEG_CANDIDATES, LEXICAL_WEIGHT, fuse
from rag_embed.listwise import cosine_scores, fuse_scores

CANDIDATES = 100
"""How many chunks a ranking holds for each query."""


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
) -> Ranking:
    """Order the chunks that either leg finds first by both legs' scores, as the store does.

    Args:
        dense: Cosines.
        lexical: BM25; 0 where no word is shared.
        competing: Which chunks compete.
        weight: Share of the words.
        candidates: Chunks that each leg finds.
    """
    fused = np.full(dense.shape, -np.inf, dtype=np.float32)
    legs = rank(dense, competing), rank_found(lexical, competing)
    for row in range(len(dense)):
        found = np.unique(np.concatenate([leg.found(row)[:candidates] for leg in legs]))
        if len(found):
            fused[row, found] = fuse(dense[row, found], lexical[row, found], weight=weight)
    return rank(fused, competing)


def rerank(
    first: Ranking,
    moved: Float[Tensor, "queries dim"],
    chunks: Float[Tensor, "chunks dim"],
    *,
    weight: float = 1.0,
) -> Ranking:
    """Order by the cosine of better query vectors with the stored ones, mixed with the first scores."""
    scores = np.full_like(first.scores, -np.inf)
    for row, vector in enumerate(moved):
        found = first.found(row)
        scores[row, : len(found)] = fuse_scores(
            torch.from_numpy(first.scores[row, : len(found)]),
            cosine_scores(vector, chunks[found]),
            weight=weight,
        )
    inner = np.argsort(-scores, axis=1, kind="stable")
    return Ranking(np.take_along_axis(first.order, inner, axis=1), np.take_along_axis(scores, inner, axis=1))


def list_candidates(
    ranking: Ranking, queries: Sequence[str], texts: Sequence[str], *, count: int
) -> list[tuple[str, list[str]]]:
    """Each query with the texts of its first candidates, as a list prompt shows them."""
    return [
        (query, [texts[chunk] for chunk in ranking.found(row)[:count]]) for row, query in enumerate(queries)
    ]
