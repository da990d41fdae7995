"""Measures, intervals and verdicts against slow ones and constructed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_embed.evaluation.bootstrap import detectable_effect, mean_interval, queries_needed
from rag_embed.evaluation.lexical import score_bm25, split_words
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import CANDIDATES, rank
from rag_embed.evaluation.verdict import decide


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


def test_bm25_is_lucenes_formula():
    texts = ["Der Fluss ist der Fluss", "river bank and river", "bank", "nothing here at all"]
    words = [split_words(text) for text in texts]
    average = sum(map(len, words)) / len(words)

    def slow(query, text):
        score = 0.0
        for word in split_words(query):
            frequency = text.count(word)
            holders = sum(word in other for other in words)
            idf = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5))
            score += idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * len(text) / average))
        return score

    found = score_bm25(["River BANK fluss", "absent"], texts)
    for column, text in enumerate(words):
        expected = slow("River BANK fluss", text)
        assert found[0, column] == (pytest.approx(expected, rel=1e-5) if expected else -np.inf)
    assert np.isneginf(found[1]).all()


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


def scores(mean, *, n=200, spread=0.05, seed=0):
    """Scores of one arm, all made from the same queries."""
    easy = np.random.default_rng(99).uniform(0.2, 0.8, n)
    noise = np.random.default_rng(seed).normal(0, spread, n)
    return easy + mean + noise - noise.mean()


ISOLATED = scores(0, spread=0)


def test_a_clear_gain_over_both_says_use():
    verdict = decide(
        ISOLATED, {"late": scores(-0.1, seed=1), "blend": scores(0.1, seed=2)}, titled=scores(0.03, seed=3)
    )
    assert (verdict.decision, verdict.arm) == ("use", "blend")
    assert "blend brings +10.0 points" in verdict.sentence and "+7.0 points" in verdict.sentence


def test_a_clear_gain_without_titles_says_use_and_that_there_are_none():
    verdict = decide(ISOLATED, {"late": scores(0.05, seed=1)})
    assert verdict.decision == "use" and "no titles to compare with" in verdict.sentence


def test_a_gain_that_titles_bring_as_well_says_prefix():
    verdict = decide(ISOLATED, {"late": scores(0.08, seed=1)}, titled=scores(0.08, seed=2))
    assert verdict.decision == "prefix" and verdict.sentence.startswith(
        "A title in front of each chunk is enough"
    )
    alone = decide(ISOLATED, {"late": scores(0, spread=0.3, seed=1)}, titled=scores(0.05, seed=2))
    assert alone.decision == "prefix" and "no contextual arm is shown to bring anything" in alone.sentence


def test_a_clear_loss_says_avoid():
    verdict = decide(ISOLATED, {"late": scores(-0.08, seed=1), "blend": scores(-0.03, seed=2)})
    assert verdict.decision == "avoid"
    assert verdict.sentence.startswith(
        "Do not use context here: every contextual arm loses, the best of them (bl"
    )


def test_a_gain_too_small_to_matter_says_avoid():
    verdict = decide(ISOLATED, {"late": scores(0.001, spread=0.02, seed=1)})
    assert verdict.decision == "avoid" and "are ruled out" in verdict.sentence


def test_few_queries_say_undecided_and_how_many_it_takes():
    base = scores(0, spread=0, n=12)
    verdict = decide(base, {"late": scores(0.04, spread=0.3, n=12, seed=1)}, titled=scores(0, n=12, seed=2))
    assert verdict.decision == "undecided" and verdict.sentence.startswith(
        "Undecided, so keep isolated chunks"
    )
    needed = int(verdict.sentence.rsplit("about ")[1].split()[0].replace(",", ""))
    sd = (scores(0.04, spread=0.3, n=12, seed=1) - base).std(ddof=1)
    assert needed == pytest.approx((2.8016 * sd / 0.02) ** 2, rel=0.01)


def test_a_gain_undecided_against_titles_that_bring_nothing_says_use_and_tells():
    noisy = scores(0, spread=0.9, seed=5)
    verdict = decide(ISOLATED, {"late": scores(0.05, seed=1)}, titled=noisy)
    assert verdict.decision == "use" and "it is undecided" in verdict.sentence


def test_many_arms_of_pure_chance_are_not_believed():
    """One of twenty arms passes a 95 % test by chance; the best of many must pass a harder one."""
    base, decided = ISOLATED[:60], 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        arms = {f"arm {i}": base + generator.normal(0, 0.3, 60) for i in range(8)}
        decided += decide(base, arms).decision == "use"
    assert decided <= 4


def test_nothing_to_compare_is_said():
    assert "0 contextual arms" in decide(ISOLATED, {}).sentence
    assert decide(ISOLATED[:1], {"late": ISOLATED[:1]}).decision == "undecided"
