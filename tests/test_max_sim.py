"""MaxSim and what is kept of token states, against loops that anybody can check."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rag_embed.errors import DimensionMismatchError, InputError
from rag_embed.max_sim import TokenEncoding, TokenForm, max_sim, max_sims, to_units

STATES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.just(6)),
    elements=st.integers(-40, 40).map(lambda x: x / 10),
)


def slow_max_sim(query: np.ndarray, chunk: np.ndarray) -> float:
    """Every pair of tokens, one by one."""
    total = 0.0
    for asked in query:
        best = -math.inf
        for token in chunk:
            lengths = math.sqrt(sum(float(x) ** 2 for x in asked)) * math.sqrt(
                sum(float(x) ** 2 for x in token)
            )
            dot = sum(float(a) * float(b) for a, b in zip(asked, token, strict=True))
            best = max(best, dot / lengths if lengths else 0.0)
        total += best
    return total / len(query)


@given(STATES, STATES)
def test_max_sim_is_the_mean_over_query_tokens_of_the_best_cosine(
    query: np.ndarray, chunk: np.ndarray
) -> None:
    assert max_sim(to_units(query), to_units(chunk)) == pytest.approx(slow_max_sim(query, chunk), abs=1e-4)


def test_one_call_for_several_chunks_gives_what_single_calls_give() -> None:
    states = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    query, *chunks = [to_units(each) for each in states]
    assert max_sims(query, chunks).tolist() == pytest.approx([max_sim(query, each) for each in chunks])


def keep(states: np.ndarray, encoding: TokenEncoding, neighbours: int) -> np.ndarray:
    return to_units(TokenForm(encoding, neighbours).keep(torch.from_numpy(states)).numpy())


@given(STATES, st.integers(1, 4))
def test_neighbours_are_averaged_in_reading_order(states: np.ndarray, neighbours: int) -> None:
    kept = keep(states, "float16", neighbours)
    assert len(kept) == math.ceil(len(states) / neighbours)
    for row, vector in enumerate(kept):
        group = [to_units(state[None])[0] for state in states[row * neighbours : (row + 1) * neighbours]]
        expected = to_units(np.sum(group, axis=0)[None])[0]
        if np.linalg.norm(np.sum(group, axis=0)) > 1e-2:
            assert vector == pytest.approx(expected, abs=2e-3)


@given(STATES)
def test_kept_vectors_are_of_length_one_or_of_none(states: np.ndarray) -> None:
    for encoding in ("float16", "int8"):
        lengths = np.linalg.norm(keep(states, encoding, 1), axis=1)
        assert all(abs(length - 1) < 1e-3 or length == 0 for length in lengths)


def test_int8_keeps_the_direction() -> None:
    states = np.random.default_rng(1).normal(size=(50, 384)).astype(np.float32)
    kept = TokenForm("int8", 1).keep(torch.from_numpy(states)).numpy()
    assert kept.dtype == np.int8
    assert np.abs(kept).max(axis=1).tolist() == [127] * 50
    assert (to_units(kept) * to_units(states)).sum(axis=1).min() > 0.9999


def test_forms_and_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        TokenForm(neighbours=0)
    with pytest.raises(DimensionMismatchError, match=r"have 4 dimensions.*chunk 6"):
        max_sim(np.ones((1, 4), np.float32), np.ones((2, 6), np.float32))
