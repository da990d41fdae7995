"""Maps between two spaces: known rotations come back, and SciPy finds the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from rag_embed.errors import DimensionMismatchError, InputError, NonFiniteError
from rag_embed.query_map import learn_map

dims = st.integers(1, 10)
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def sample(seed: int, pairs: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((pairs, dim)) + 3


def random_rotation(seed: int, dim: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def pad(rows: np.ndarray, dim: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, dim - rows.shape[1])))


@few
@given(seeds, dims)
def test_a_known_rotation_and_translation_are_recovered(seed: int, dim: int) -> None:
    new = sample(seed, 4 * dim + 2, dim)
    rotation, moved = random_rotation(seed + 1, dim), np.arange(dim)
    found = learn_map("procrustes", new, new @ rotation + moved)
    queries = sample(seed + 2, 5, dim)
    assert found.rotation == pytest.approx(rotation, abs=1e-8)
    assert found.apply(queries) == pytest.approx(queries @ rotation + moved, abs=1e-7)
    assert found.apply(queries[0]) == pytest.approx(found.apply(queries)[0])
    assert found.is_determined


@few
@given(seeds, dims, dims)
def test_a_space_that_lies_in_a_larger_one_is_found_there_and_back(seed: int, small: int, more: int) -> None:
    inside = random_rotation(seed, small + more)[:small]
    low = sample(seed + 1, 3 * small + 2, small)
    high = low @ inside + 2
    assert learn_map("procrustes", low, high).apply(low) == pytest.approx(high, abs=1e-7)
    assert learn_map("procrustes", high, low).apply(high) == pytest.approx(low, abs=1e-7)


@few
@given(seeds, st.integers(2, 30), dims, dims)
def test_the_rotation_is_orthonormal_whatever_the_sample(
    seed: int, pairs: int, new_dim: int, old_dim: int
) -> None:
    found = learn_map("procrustes", sample(seed, pairs, new_dim), sample(seed + 1, pairs, old_dim)).rotation
    assert found is not None
    gram = found.T @ found if new_dim >= old_dim else found @ found.T
    assert gram == pytest.approx(np.eye(min(new_dim, old_dim)), abs=1e-9)


@few
@given(seeds, dims, dims)
def test_it_is_scipys_of_centred_vectors_filled_up_with_zeros(seed: int, new_dim: int, old_dim: int) -> None:
    pairs, larger = 40, max(new_dim, old_dim)
    new, old = sample(seed, pairs, new_dim), sample(seed + 1, pairs, old_dim)
    expected, trace = orthogonal_procrustes(pad(new - new.mean(0), larger), pad(old - old.mean(0), larger))
    found = learn_map("procrustes", new, old).rotation
    assert found == pytest.approx(expected[:new_dim, :old_dim], abs=1e-6)
    assert np.sum(found * ((new - new.mean(0)).T @ (old - old.mean(0)))) == pytest.approx(trace)


@few
@given(seeds, st.integers(1, 4), st.integers(0, 3))
def test_no_other_rotation_into_as_large_a_space_is_nearer(seed: int, dim: int, more: int) -> None:
    new, old = sample(seed, 30, dim), sample(seed + 1, 30, dim + more)
    found = learn_map("procrustes", new, old)
    rest = float(np.square(found.apply(new) - old).sum())
    for other in range(20):
        rotation = random_rotation(seed + other, dim + more)[:dim]
        turned = (new - new.mean(0)) @ rotation + old.mean(0)
        assert rest <= float(np.square(turned - old).sum()) + 1e-9


@few
@given(seeds, dims)
def test_a_shift_takes_mean_to_mean_and_keeps_differences(seed: int, dim: int) -> None:
    new, old = sample(seed, 9, dim), 2 * sample(seed + 1, 9, dim)
    found = learn_map("shift", new, old)
    drift = np.mean([n - o for n, o in zip(new, old, strict=True)], axis=0)  # as the paper has it
    assert found.apply(new) == pytest.approx(new - drift)
    assert found.apply(new).mean(0) == pytest.approx(old.mean(0))


def test_a_sample_that_does_not_span_the_space_is_known() -> None:
    new, old = sample(0, 8, 8), sample(1, 8, 12)
    assert not learn_map("procrustes", new, old).is_determined  # centred, 8 pairs span 7 dimensions
    assert learn_map("shift", new, new).is_determined


def test_what_cannot_be_learned_from_is_refused() -> None:
    new = sample(0, 5, 4)
    with pytest.raises(InputError, match="5 vectors of the new encoder and 4 of the old one"):
        learn_map("procrustes", new, new[:4])
    with pytest.raises(InputError, match="at least 2"):
        learn_map("shift", new[:1], new[:1])
    with pytest.raises(DimensionMismatchError, match="makes 4 dimensions and the old vectors have 3"):
        learn_map("shift", new, new[:, :3])
    with pytest.raises(NonFiniteError):
        learn_map("procrustes", np.full_like(new, np.nan), new)
    with pytest.raises(DimensionMismatchError, match="have 3 dimensions; this map takes 4"):
        learn_map("procrustes", new, new).apply(new[:, :3])
