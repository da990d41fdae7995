"""Bootstrap intervals of a mean; paired when given the differences of pairs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000
_BLOCK = 500


def mean_interval(
    values: Float[np.ndarray, " items"], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean, and the 2.5 % and 97.5 % percentiles of the means of resamples drawn with replacement."""
    generator, n = np.random.default_rng(seed), len(values)
    means = [
        values[generator.integers(n, size=(min(_BLOCK, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, _BLOCK)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
