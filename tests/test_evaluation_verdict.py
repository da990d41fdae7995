"""The verdict over legs, context and reranker: strict, cheap where it ties, and in plain words."""

from __future__ import annotations

import numpy as np
import pytest

from rag_embed.evaluation import Arm, decide
from rag_embed.evaluation.arms import add_rerank

ALONE = {"adapter": None, "strategy": "isolated"}
LATE, BLEND = {"strategy": "late"}, {"strategy": "blend"}
ARMS = {
    "bm25": Arm("bm25", ALONE, method="bm25"),
    "title": Arm("title + isolated", ALONE, with_title=True),
    "words": Arm("isolated + words", ALONE, method="hybrid"),
    "late": Arm("late", LATE),
    "late + words": Arm("late + words", LATE, method="hybrid"),
    "blend": Arm("blend 0.6", BLEND, is_default=True),
    "reranked": add_rerank(Arm("late", LATE)),
    "all": add_rerank(Arm("title + blend 0.6 + words", BLEND, method="hybrid", with_title=True)),
}


def scores(mean: float, *, n: int = 200, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    """Scores of one arm, all made from the same queries, with exactly this mean difference."""
    easy = np.random.default_rng(99).uniform(0.2, 0.8, n)
    noise = np.random.default_rng(seed).normal(0, spread, n)
    return easy + mean + noise - noise.mean()


BASE = scores(0, spread=0)


def judge(means, *, n=200, spread=0.05):
    """Decide between arms that have these means over isolated chunks."""
    arms = [
        (ARMS[name], scores(mean, n=n, spread=spread, seed=seed))
        for seed, (name, mean) in enumerate(means.items(), start=1)
    ]
    return decide(scores(0, n=n, spread=0), arms)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("bm25", "search by words alone, which needs no model"),
        ("title", "search by meaning alone, with the title in front of each chunk, without context"),
        ("words", "search by words and meaning together, without context"),
        ("late", "search by meaning alone, each chunk read once, inside its document"),
        (
            "reranked",
            "search by meaning alone, each chunk read once, inside its document, and rerank with weight .5",
        ),
        (
            "all",
            "search by words and meaning together, with the title in front of each chunk, each chunk read "
            "twice, inside its document and alone, and rerank with weight .25",
        ),
    ],
)
def test_each_way_to_search_is_said_in_plain_words(name, advice):
    assert ARMS[name].advice == advice
    verdict = judge({name: 0.1})
    assert verdict.sentence.startswith(f"On these documents: {advice}. That brings +10.0 points [")
    assert verdict.arm == ARMS[name].name
    for jargon in ("nDCG", "BM25", "dense", "sparse", "hybrid", "late interaction", "blend", "arm"):
        assert jargon not in verdict.sentence


def test_context_that_pays_over_all_that_is_cheaper_says_use_and_by_how_much():
    verdict = judge({"bm25": -0.1, "title": 0.03, "words": 0.04, "late + words": 0.12})
    assert (verdict.decision, verdict.arm) == ("use", "late + words")
    assert "+12.0 points" in verdict.sentence
    assert "and +8.0 points" in verdict.sentence and "without context)." in verdict.sentence


@pytest.mark.parametrize("cheap", ["bm25", "title", "words"])
def test_of_two_that_tie_the_cheaper_is_advised(cheap):
    verdict = judge({cheap: 0.08, "late + words": 0.082, "all": 0.081})
    assert (verdict.decision, verdict.arm) == ("simpler", ARMS[cheap].name)
    # What measured best is not hidden.
    assert "The best measured (search by words and meaning together" in verdict.sentence
    assert "+0.2 points" in verdict.sentence and "may be chance" in verdict.sentence


def test_a_second_pass_and_a_reranker_are_advised_only_where_they_are_sure_to_gain():
    assert judge({"late + words": 0.1, "blend": 0.1005, "all": 0.102}).arm == "late + words"
    assert (
        judge({"late + words": 0.1, "blend": 0.12, "all": 0.16}).arm
        == "title + blend 0.6 + words + late interaction"
    )


def test_a_cheaper_arm_that_gains_nothing_for_sure_is_not_advised():
    """A tie with the best is no reason: it has to be above isolated chunks too."""
    noisy = scores(0.03, spread=0.9, seed=5)
    verdict = decide(BASE, [(ARMS["title"], noisy), (ARMS["late"], scores(0.05, seed=1))])
    assert (verdict.decision, verdict.arm) == ("use", "late")
    assert "may be chance, but the cheaper way is not sure to gain anything itself" in verdict.sentence


def test_all_context_that_loses_says_avoid_unless_something_simpler_gains():
    verdict = judge({"late": -0.08, "blend": -0.03})
    assert verdict.decision == "avoid"
    assert verdict.sentence.startswith("On these documents: search by meaning alone, without context. Every")
    assert "−3.0 points" in verdict.sentence
    assert judge({"late": -0.08, "blend": -0.03, "words": 0.05}).decision == "simpler"


def test_a_gain_too_small_to_matter_says_avoid():
    verdict = judge({"late": 0.001}, spread=0.02)
    assert verdict.decision == "avoid" and "are ruled out" in verdict.sentence


def test_few_queries_say_undecided_and_how_many_it_takes():
    verdict = judge({"late": 0.04}, n=12, spread=0.3)
    assert verdict.decision == "undecided" and verdict.sentence.startswith(
        "Undecided, so keep to the simplest"
    )
    needed = int(verdict.sentence.rsplit("about ")[1].split()[0].replace(",", ""))
    differences = scores(0.04, spread=0.3, n=12, seed=1) - scores(0, spread=0, n=12)
    assert needed == pytest.approx((2.8016 * differences.std(ddof=1) / 0.02) ** 2, rel=0.01)


def test_many_arms_of_pure_chance_are_not_believed():
    """One of twenty arms passes a 95 % test by chance; the best of many must pass a harder one."""
    base, decided = BASE[:60], 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        arms = [(arm, base + generator.normal(0, 0.3, 60)) for arm in ARMS.values()]
        decided += decide(base, arms).decision in {"use", "simpler"}
    assert decided <= 4


def test_nothing_to_compare_is_said():
    assert "0 arms were compared" in decide(BASE, []).sentence
    assert decide(BASE[:1], [(ARMS["late"], BASE[:1])]).decision == "undecided"
