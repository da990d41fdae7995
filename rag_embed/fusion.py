"""Fusion: one score out of several for the same candidates.

Every leg has scored every candidate, whoever found it; a score of words that is zero is a zero, not a gap. So
nothing has to be guessed for candidates that one leg alone has found, which is where fusion of two top-k
lists loses (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

Fusion: TypeAlias = Literal["scores", "dbsf", "rrf"]
"""By normalised scores, by Qdrant's distribution-based scores, or by reciprocal ranks."""

LEXICAL_WEIGHT = 0.5
"""Share of the words in a hybrid search; docs/benchmarks.md has it next to others."""
TOKEN_WEIGHT = 0.25
"""Share of late interaction behind a hybrid search."""
LEG_CANDIDATES = 50
"""Chunks that each leg of a hybrid search finds."""
RRF_CONSTANT = 60
"""Cormack, Clarke & Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods": what is added to a rank before it is inverted."""


def fuse(
    first: Float[np.ndarray, " candidates"],
    second: Float[np.ndarray, " candidates"],
    *,
    weight: float,
    method: Fusion = "scores",
    found: int = LEG_CANDIDATES,
) -> Float[np.ndarray, " candidates"]:
    """Mix two scores of the same candidates.

    Args:
        first: Finite.
        second: Finite, on any scale; 0 where it has nothing to say.
        weight: Share of the second, from 0 to 1.
        method: How scores of two scales are made comparable.
        found: How many candidates each leg has found by itself; ranks and distributions know of no others.

    Returns:
        Higher is better. With "scores" they read like the first's; with the others only their order counts.
    """
    if method == "scores":
        return (1 - weight) * first + weight * rescale(second, like=first)
    make_comparable = reciprocal_ranks if method == "rrf" else distribution_scores
    own = np.where(second != 0, second, -np.inf)
    return (1 - weight) * make_comparable(first, found) + weight * make_comparable(own, found)


def rescale(
    scores: Float[np.ndarray, " candidates"], *, like: Float[np.ndarray, " candidates"]
) -> Float[np.ndarray, " candidates"]:
    """Give scores the mean and the standard deviation of others.

    Scores that are all equal say nothing and become the others' mean; where those are all equal, the
    standard deviation becomes 1, so that the order of what does speak remains.
    """
    centred = scores - scores.mean()
    spread = scores.std()
    if spread <= np.finfo(np.float32).eps * max(1.0, float(np.abs(scores).max(initial=0.0))):
        return np.full_like(scores, like.mean())
    return np.asarray(centred / spread * (like.std() or 1.0) + like.mean())


def reciprocal_ranks(
    scores: Float[np.ndarray, " candidates"], found: int
) -> Float[np.ndarray, " candidates"]:
    """1 / (60 + rank) for the first so many, 0 for the others; equal scores share the best of their ranks."""
    ranks = np.searchsorted(np.sort(-scores), -scores, side="left") + 1
    return np.where((ranks <= found) & np.isfinite(scores), 1.0 / (RRF_CONSTANT + ranks), 0.0)


def distribution_scores(
    scores: Float[np.ndarray, " candidates"], found: int
) -> Float[np.ndarray, " candidates"]:
    """Qdrant's DBSF, which looks at the first so many alone.

    0 is three standard deviations below their mean, 1 is three above; candidates that are not among them are
    0, which is what loses: a candidate that one leg alone has found is judged by half of what is known.
    """
    own = best_first(scores)[:found]
    own = [index for index in own if np.isfinite(scores[index])]
    result = np.zeros(len(scores))
    if own:
        mean, spread = scores[own].mean(), scores[own].std(ddof=1) if len(own) > 1 else 0.0
        result[own] = np.clip((scores[own] - (mean - 3 * spread)) / (6 * spread), 0, 1) if spread else 0.5
    return result


def best_first(scores: Sequence[float] | Float[np.ndarray, " candidates"]) -> list[int]:
    """Positions in the order of falling scores; equal ones stay as they came."""
    return [int(index) for index in np.argsort(-np.asarray(scores), kind="stable")]
