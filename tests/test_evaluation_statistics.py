"""Measures and intervals against slow ones and constructed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_embed.evaluation.bootstrap import detectable_effect, mean_interval, queries_needed
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import CANDIDATES, rank


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.permutations(range(n)),
            st.integers(0, n),
            st.dictionaries(st.integers(0, n - 1), st.integers(1, 3), min_size=1),
        )
    )
)
def test_measures_are_those_of_the_textbook(example):
    order, found, relevance = example
    scores = np.full((1, len(order)), -np.inf)
    for place, chunk in enumerate(order[:found]):
        scores[0, chunk] = -place
    ids = [f"c{i}" for i in range(len(order))]
    golds = {"q": {f"c{chunk}": grade for chunk, grade in relevance.items()}}
    measured = measure(rank(scores, np.ones((1, len(order)), dtype=bool)), golds, ids)
    gains = [relevance.get(chunk, 0) for chunk in order[:found]][:10]
    ideal = sorted(relevance.values(), reverse=True)[:10]

    def dcg(grades):
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades))

    assert measured["nDCG@10"][0] == pytest.approx(dcg(gains) / dcg(ideal))
    first = next((place for place, grade in enumerate(gains, start=1) if grade), math.inf)
    assert measured["RR@10"][0] == pytest.approx(1 / first)
    for k in (5, 10, 20):
        hits = sum(chunk in relevance for chunk in order[:found][:k])
        assert measured[f"R@{k}"][0] == pytest.approx(hits / len(relevance))


def test_documents_are_ranked_by_their_best_chunk():
    scores = np.array([[0.9, 0.8, 0.7, 0.1]])
    answers = ["a", "a", "a", "b"]
    measured = measure(rank(scores, np.ones((1, 4), dtype=bool)), {"q": {"b": 1}}, answers)
    assert measured["RR@10"][0] == 0.5


def test_ties_keep_the_order_of_the_corpus_and_rankings_end():
    ranking = rank(np.zeros((1, 300)), np.ones((1, 300), dtype=bool))
    assert ranking.order[0].tolist() == list(range(CANDIDATES))
    few = rank(np.zeros((1, 3)), np.array([[True, False, True]]))
    assert few.found(0).tolist() == [0, 2]


def test_the_detectable_effect_is_detected_four_times_out_of_five():
    generator = np.random.default_rng(1)
    sample = generator.normal(0, 0.3, 80)
    effect = detectable_effect(sample)
    deviation = sample.std(ddof=1)
    trials = generator.normal(effect, deviation, (4000, 80)).mean(axis=1)
    detected = np.abs(trials) > 1.959964 * deviation / np.sqrt(80)
    assert detected.mean() == pytest.approx(0.8, abs=0.02)
    assert detectable_effect(np.full(5, 0.1)) == 0
    assert detectable_effect(np.array([0.1])) == math.inf


def test_four_times_the_queries_show_half_the_effect():
    differences = np.random.default_rng(2).normal(0, 0.2, 100)
    assert queries_needed(differences, detectable_effect(differences) / 2) == pytest.approx(400, abs=1)


def test_surer_intervals_are_wider():
    values = np.random.default_rng(4).normal(0, 1, 60)
    _, low, high = mean_interval(values)
    _, lower, higher = mean_interval(values, confidence=0.99)
    assert lower < low < values.mean() < high < higher
