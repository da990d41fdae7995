"""Weights fitted on queries: chosen on one half, measured on the other, never on what chose them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from rag_embed.errors import InputError
from rag_embed.evaluation import VectorCache, choose_arms, evaluate, make_arms
from rag_embed.evaluation.arms import Arm, add_rerank, find_recommended
from rag_embed.evaluation.fitting import (
    SHARES,
    Weights,
    _score_all,
    choose_weights,
    default_weights,
    fit_weights,
    halve_queries,
)
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import rank, rank_hybrid, rerank
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.vectors import Vectors
from rag_embed.llamaindex import ContextualEmbedding
from tests.evalsets import make_set

ARM = add_rerank(Arm("late + words", {"strategy": "late"}, method="hybrid", with_title=True))
GRID = [Weights(words, tokens) for words, tokens in product(SHARES, SHARES)]
DEFAULT = Weights(0.5, 0.25)


@pytest.fixture
def model(tiny_folder):
    return ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")


@pytest.fixture
def searcher(model):
    evalset = make_set()
    return Searcher(evalset, model, Vectors(evalset.documents, cache=VectorCache(None)))


def halves(count):
    return np.arange(count) % 2 == 0


def test_the_weights_that_are_really_better_are_found_and_gain_what_they_gain():
    """One setting is 5 points better for every query: both halves find it."""
    generator = np.random.default_rng(0)
    base = generator.uniform(0.2, 0.8, 120)
    best = Weights(0.375, 0.125)
    table = {each: base + 0.05 * (each == best) - 0.01 * each.distance(best) for each in GRID}
    fitted = choose_weights(table, halves(120), arm=ARM)
    assert fitted.halves == (best, best) and fitted.chosen == best
    expected = 0.05 + 0.01 * DEFAULT.distance(best)
    assert fitted.gain[0] == pytest.approx(expected) and fitted.gain[1] > 0 and fitted.is_recommended
    assert fitted.sentence.startswith(
        "Set the weights words 0.375, late interaction 0.125, as_retriever(alpha=0.625) and "
        "ListwiseRerank(weight=0.125): on queries that had no part in choosing, fitted weights "
        "bring +5.2 points"
    )


def test_what_chance_chooses_is_not_reported_as_a_gain():
    """Settings differ by noise: the best of 81 looks 5 points better on the queries that chose it."""
    looks, reported = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        table = {each: generator.normal(0.5, 0.25, 100) for each in GRID}
        fitted = choose_weights(table, halves(100), arm=ARM)
        looks.append(float((table[fitted.chosen] - table[DEFAULT]).mean()))
        reported.append(fitted.gain)
    assert np.mean(looks) > 0.05
    assert abs(np.mean([mean for mean, _, _ in reported])) < 0.02
    assert sum(low > 0 for _, low, _ in reported) <= 2


def test_no_query_is_measured_with_weights_that_it_helped_to_choose():
    generator = np.random.default_rng(3)
    table = {each: generator.uniform(0, 1, 60) for each in GRID}
    is_first = halves(60)
    fitted = choose_weights(table, is_first, arm=ARM)
    before = np.array(fitted.per_query)
    # The first half alone decides what is measured on the second.
    others = {each: np.where(is_first, scores, generator.uniform(0, 1, 60)) for each, scores in table.items()}
    again = choose_weights(others, is_first, arm=ARM)
    assert again.halves[0] == fitted.halves[0]
    for half, chosen in ((is_first, fitted.halves[1]), (~is_first, fitted.halves[0])):
        assert before[half].tolist() == table[chosen][half].tolist()
        assert table[chosen][~half].mean() == max(scores[~half].mean() for scores in table.values())


def test_weights_that_change_nothing_stay_as_they_are():
    fitted = choose_weights({each: np.full(50, 0.5) for each in GRID}, halves(50), arm=ARM)
    assert fitted.halves == (DEFAULT, DEFAULT) and fitted.gain == (0, 0, 0)
    assert not fitted.is_recommended and fitted.sentence.startswith("Keep the default weights: ")
    assert "few" not in fitted.sentence
    few = choose_weights({each: np.full(8, 0.5) for each in GRID}, halves(8), arm=ARM)
    assert "8 queries are few for fitting" in few.sentence


def test_queries_of_one_document_are_on_one_side():
    evalset = make_set()
    first = halve_queries(evalset)
    assert first.sum() == 8
    for left, right in zip(first[::2], first[1::2], strict=True):  # two queries a city
        assert left == right
    one = make_set(1)
    assert halve_queries(one).all()
    # Of a single document the queries themselves are divided.
    table = {each: np.array([0.5, 0.6]) for each in GRID}
    assert len(choose_weights(table, halve_queries(one), arm=ARM).per_query) == 2


@pytest.mark.parametrize("where", ["corpus", "document"])
@pytest.mark.parametrize("method", ["hybrid", "vectors"])
def test_every_setting_is_scored_as_the_arm_with_that_setting(model, method, where):
    """Candidates are scored once for all settings; the result is that of the search itself."""
    evalset = replace(make_set(), is_within_document=where == "document")
    searcher = Searcher(evalset, model, Vectors(evalset.documents, cache=VectorCache(None)))
    arm = replace(ARM, method=method)
    table = _score_all(searcher, arm)
    assert len(table) == (81 if method == "hybrid" else 9)
    dense, words = searcher.dense(arm), searcher.lexical(True)
    for weights in list(table)[::7]:
        competing = searcher.competing[where]
        first = rank(dense, competing)
        if method == "hybrid":
            first = rank_hybrid(dense, words, competing, weight=weights.words)
        found = rerank(
            first, searcher.query_tokens(arm), searcher.chunk_tokens(arm), weight=weights.late_interaction
        )
        expected = measure(found, evalset.golds, searcher.answers, measures=["nDCG@10"])["nDCG@10"]
        assert table[weights].tolist() == pytest.approx(expected.tolist()), weights


def test_the_default_weights_of_an_arm_are_those_that_it_is_measured_with(model, searcher):
    arms = choose_arms(
        make_arms(model, has_titles=True, with_rerank=True),
        ["title + late + words + late interaction", "late"],
    )
    fitted = fit_weights(searcher, arms)
    assert fitted.arm == "title + late + words + late interaction" and fitted.default == DEFAULT
    evaluation = evaluate(searcher.evalset, arms, model=model)
    measured = evaluation.result(fitted.arm).scores["corpus"]["nDCG@10"]
    assert _score_all(searcher, arms[-1])[DEFAULT].tolist() == pytest.approx(measured.tolist())


def test_the_recommended_arm_is_the_one_that_is_fitted(model):
    arms = make_arms(model, has_titles=True, with_rerank=True)
    assert find_recommended(arms).name == "title + late + words + late interaction"
    plain = make_arms(model, has_titles=False)
    assert find_recommended(plain).name == "late + words"
    assert default_weights(find_recommended(plain)) == Weights(0.5, None)
    dense = [arm for arm in arms if arm.method == "vectors"]
    assert default_weights(find_recommended(dense)) == Weights(None, 0.5)


def test_nothing_to_fit_is_refused(model, searcher):
    with pytest.raises(
        InputError, match=r"no arm searches by words and vectors or is reranked.*'late \+ words'"
    ):
        fit_weights(searcher, choose_arms(make_arms(model, has_titles=True), ["late", "bm25"]))
