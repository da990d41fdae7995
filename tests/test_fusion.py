"""Fusion of two scores of the same candidates."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_embed.fusion import best_first, distribution_scores, fuse, reciprocal_ranks, rescale

SCORES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=30)


def slow_fusion(first: list[float], second: list[float], weight: float) -> list[float]:
    """Standardise the second over the candidates, give it the first's scale, mix."""
    spread = statistics.pstdev(second)
    if spread < 1e-9:
        moved = [statistics.fmean(first)] * len(second)
    else:
        scale = statistics.pstdev(first) or 1.0
        centre = statistics.fmean(second)
        moved = [(x - centre) / spread * scale + statistics.fmean(first) for x in second]
    return [(1 - weight) * a + weight * b for a, b in zip(first, moved, strict=True)]


@given(st.data(), st.floats(0, 1))
def test_normalised_scores_are_mixed_as_written_down(data: st.DataObject, weight: float) -> None:
    first = data.draw(SCORES)
    second = data.draw(st.lists(st.integers(-9, 9).map(float), min_size=len(first), max_size=len(first)))
    found = fuse(np.array(first), np.array(second), weight=weight)
    assert found.tolist() == pytest.approx(slow_fusion(first, second, weight), abs=1e-6)


@given(SCORES, st.floats(0.1, 100), st.floats(-5, 5))
def test_the_scale_of_the_second_leg_does_not_matter(first: list[float], scale: float, shift: float) -> None:
    a = np.array(first)
    second = np.sin(np.arange(len(a))) * 3
    assert fuse(a, second * scale + shift, weight=0.5) == pytest.approx(fuse(a, second, weight=0.5), abs=1e-6)


def test_a_leg_that_says_nothing_leaves_the_others_order() -> None:
    first = np.array([0.3, 0.9, 0.5])
    assert best_first(fuse(first, np.zeros(3), weight=0.5)) == [1, 2, 0]
    assert best_first(fuse(np.ones(3), np.array([1.0, 3.0, 2.0]), weight=0.5)) == [1, 2, 0]


@pytest.mark.parametrize("method", ["scores", "rrf", "dbsf"])
def test_weights_at_their_ends_are_one_leg_alone(method: str) -> None:
    first, second = np.array([3.0, 1.0, 2.0]), np.array([0.1, 0.9, 0.5])
    assert best_first(fuse(first, second, weight=0, method=method)) == [0, 2, 1]  # type: ignore[arg-type]
    assert best_first(fuse(first, second, weight=1, method=method)) == [1, 2, 0]  # type: ignore[arg-type]


def test_reciprocal_ranks_count_from_one_and_share_ties() -> None:
    assert reciprocal_ranks(np.array([5.0, 9.0, 5.0, 1.0, -np.inf]), 3).tolist() == pytest.approx(
        [1 / 62, 1 / 61, 1 / 62, 0.0, 0.0]
    )


def test_distribution_scores_are_those_of_qdrants_formula() -> None:
    scores = [3.0, 1.0, 5.0, 10.0, -2.0]
    first = [3.0, 5.0, 10.0]
    mean, spread = statistics.fmean(first), statistics.stdev(first)
    expected = {x: (x - (mean - 3 * spread)) / (6 * spread) for x in first}
    found = distribution_scores(np.array(scores), 3).tolist()
    assert found == pytest.approx([expected.get(score, 0.0) for score in scores])
    assert distribution_scores(np.array([2.0, 2.0]), 2).tolist() == [0.5, 0.5]


def test_rescaled_scores_have_the_others_mean_and_spread() -> None:
    like = np.array([0.2, 0.4, 0.9])
    moved = rescale(np.array([7.0, 1.0, 4.0]), like=like)
    assert moved.mean() == pytest.approx(like.mean())
    assert moved.std() == pytest.approx(like.std())
    assert not math.isnan(rescale(np.array([1.0]), like=np.array([2.0]))[0])
