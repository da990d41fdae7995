"""How sure a mean difference is: bootstrap intervals, and the smallest effect that could have been seen."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000
_BLOCK = 500


def mean_interval(
    values: Float[np.ndarray, " items"],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Average, and say between which bounds the mean of many such samples would lie.

    Args:
        values: One per query; differences of two arms make the comparison paired.
        confidence: Share of the resamples whose mean lies inside the interval.
        resamples: How many samples of the same size are drawn with replacement.
        seed: Of the drawing.

    Returns:
        Mean, lower and upper bound (percentile bootstrap; Efron 1979).
    """
    generator, n = np.random.default_rng(seed), len(values)
    means = [
        values[generator.integers(n, size=(min(_BLOCK, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, _BLOCK)
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(values.mean()), float(low), float(high)


def detectable_effect(
    differences: Float[np.ndarray, " queries"], *, confidence: float = 0.95, power: float = 0.8
) -> float:
    """Say how large a true mean difference has to be for these queries to show it.

    The smallest effect that a two-sided paired test at `1 - confidence` finds with probability `power`, with
    the standard deviation of the differences taken as known (Cohen 1988, chapter 2). Zero where all
    differences are equal; infinite with fewer than two queries, which show nothing.
    """
    if len(differences) < 2:
        return float("inf")
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(power)
    return float(quantiles * differences.std(ddof=1) / np.sqrt(len(differences)))


def queries_needed(
    differences: Float[np.ndarray, " queries"], effect: float, *, confidence: float = 0.95
) -> int:
    """Say how many such queries would show an effect of this size with probability 0.8."""
    now = detectable_effect(differences, confidence=confidence)
    return int(np.ceil(len(differences) * (now / effect) ** 2))
