"""Weights of words and of late interaction, fitted on queries and never reported on what chose them.

Queries are halved by their documents. The weights that are best on one half are measured on the other, and
the other way round: so every query is measured with weights that it had no part in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rag_embed.errors import InputError
from rag_embed.evaluation.arms import Arm, find_recommended
from rag_embed.evaluation.bootstrap import mean_interval
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import CANDIDATES, RERANK_CANDIDATES, Ranking, rank, rank_found
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.sets import EvalSet
from rag_embed.fusion import LEG_CANDIDATES, LEXICAL_WEIGHT, best_first, fuse
from rag_embed.max_sim import max_sim

Scores = Float[np.ndarray, " queries"]

SHARES = tuple(eighth / 8 for eighth in range(9))
"""Weights that are tried, for words and for late interaction."""
_FEW_QUERIES = 40


@dataclass(frozen=True, slots=True)
class Weights:
    """Shares of the second score in each mixture.

    Attributes:
        words: Of BM25 in a hybrid search; LlamaIndex's `alpha` is 1 less this. None if there are no words.
        late_interaction: Of the reranker, `ListwiseRerank(weight=...)`. None if there is none.
    """

    words: float | None
    late_interaction: float | None

    def __str__(self) -> str:
        named = (("words", self.words), ("late interaction", self.late_interaction))
        return ", ".join(f"{name} {value:g}" for name, value in named if value is not None)

    def distance(self, other: Weights) -> float:
        """How far two settings are apart."""
        pairs = ((self.words, other.words), (self.late_interaction, other.late_interaction))
        return sum(abs(one - two) for one, two in pairs if one is not None and two is not None)


@dataclass(frozen=True, slots=True)
class FittedWeights:
    """What fitting gave.

    Attributes:
        arm: The arm whose weights they are.
        default: The weights that it has without fitting.
        chosen: Best on all queries: what to set, if fitting gains.
        halves: Best on the one half and on the other.
        gain: nDCG@10 of the halves' weights, each on the half that did not choose them, over the default
            weights: mean, and its 95 % interval.
        per_query: nDCG@10 of each query with weights that it had no part in.
        sentence: The same for people.
    """

    arm: str
    default: Weights
    chosen: Weights
    halves: tuple[Weights, Weights]
    gain: tuple[float, float, float]
    per_query: Sequence[float]
    sentence: str

    @property
    def is_recommended(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.gain[1] > 0

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        values = {**asdict(self), "is_recommended": self.is_recommended}
        return {**values, "per_query": [round(float(value), 6) for value in self.per_query]}


def fit_weights(searcher: Searcher, arms: Sequence[Arm]) -> FittedWeights:
    """Fit the weights of the recommended arm, or of what comes next to it.

    Args:
        searcher: Of the run.
        arms: That were compared.

    Raises:
        InputError: No arm mixes scores, or there are too few queries.
    """
    arm = find_recommended(arms)
    if arm is None:
        raise InputError(
            "no weights can be fitted: no arm searches by words and vectors or is reranked; expected "
            "one such as 'late + words'. Name one, or leave the fitting out"
        )
    table = _score_all(searcher, arm)
    is_measured = searcher.sliced[searcher.evalset.main_slice]
    if is_measured.sum() < 2:
        raise InputError(
            f"no weights can be fitted on {int(is_measured.sum())} queries; expected at least 2, and better "
            f"{_FEW_QUERIES}. Ask more, or leave the fitting out"
        )
    return choose_weights(
        {weights: scores[is_measured] for weights, scores in table.items()},
        halve_queries(searcher.evalset)[is_measured],
        arm=arm,
    )


def choose_weights(
    table: Mapping[Weights, Scores], is_first: Bool[np.ndarray, " queries"], *, arm: Arm
) -> FittedWeights:
    """Choose on each half and measure on the other.

    Args:
        table: nDCG@10 of every query with all weights that were tried, the default ones among them.
        is_first: Which queries are the first half; queries of one document are on one side.
        arm: Whose weights they are.
    """
    if is_first.all() or not is_first.any():
        # One document: its queries are all there is to divide.
        is_first = np.arange(len(is_first)) % 2 == 0
    default = default_weights(arm)
    everything = np.ones_like(is_first)
    halves = _best(table, is_first, default), _best(table, ~is_first, default)
    chosen = _best(table, everything, default)
    nested = np.where(is_first, table[halves[1]], table[halves[0]])
    gain = mean_interval(nested - table[default])
    return FittedWeights(
        arm.name,
        default,
        chosen,
        halves,
        gain,
        nested.tolist(),
        _describe(default, chosen, halves, gain, len(nested)),
    )


def default_weights(arm: Arm) -> Weights:
    """Name the weights that an arm has without fitting."""
    return Weights(
        LEXICAL_WEIGHT if arm.method == "hybrid" else None, arm.rerank_weight if arm.is_reranked else None
    )


def halve_queries(evalset: EvalSet) -> Bool[np.ndarray, " queries"]:
    """Divide queries by their first document, so that nearly as many are on each side."""
    homes = [min(evalset.home_documents(query)) for query in evalset.queries]
    names, counts = np.unique(homes, return_counts=True)
    first: set[str] = set()
    sizes = [0, 0]
    for index in np.random.default_rng(0).permutation(len(names)):
        side = int(sizes[0] > sizes[1])
        sizes[side] += int(counts[index])
        if side == 0:
            first.add(str(names[index]))
    return np.array([home in first for home in homes])


def _best(table: Mapping[Weights, Scores], chosen: Bool[np.ndarray, " queries"], default: Weights) -> Weights:
    """The best on average; of equal ones that which changes least."""
    return min(
        table,
        key=lambda weights: (-round(float(table[weights][chosen].mean()), 9), weights.distance(default)),
    )


def _describe(
    default: Weights, chosen: Weights, halves: Sequence[Weights], gain: tuple[float, float, float], count: int
) -> str:
    mean, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in gain)
    measured = (
        f"on queries that had no part in choosing, fitted weights bring {mean} points [{low}, {high}] over "
        f"the default ones ({default})"
    )
    few = f"; {count} queries are few for fitting" if count < _FEW_QUERIES else ""
    spread = (
        "both halves chose the same"
        if halves[0] == halves[1]
        else f"the halves chose {halves[0]} and {halves[1]}"
    )
    if gain[1] > 0:
        settings = []
        if chosen.words is not None:
            settings.append(f"as_retriever(alpha={1 - chosen.words:g})")
        if chosen.late_interaction is not None:
            settings.append(f"ListwiseRerank(weight={chosen.late_interaction:g})")
        return f"Set the weights {chosen}, {' and '.join(settings)}: {measured}; {spread}{few}."
    return (
        f"Keep the default weights: {measured}, which is no sure gain; the best on all queries would be "
        f"{chosen}, {spread}{few}."
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """What one query finds, and every score of it."""

    chunks: Int[np.ndarray, " candidates"]
    dense: Float[np.ndarray, " candidates"]
    lexical: Float[np.ndarray, " candidates"] | None
    tokens: Float[np.ndarray, " candidates"] | None

    def order(self, weights: Weights, arm: Arm) -> list[int]:
        """Chunks, best first, as `rank_hybrid` and `rerank` put them."""
        first = self.dense
        if self.lexical is not None and weights.words is not None and len(self.chunks):
            first = fuse(self.dense, self.lexical, weight=weights.words, method=arm.fusion)
        order = best_first(first)[:CANDIDATES]
        if self.tokens is not None and weights.late_interaction is not None and order:
            shown, rest = order[:RERANK_CANDIDATES], order[RERANK_CANDIDATES:]
            fused = fuse(first[shown], self.tokens[shown], weight=weights.late_interaction)
            order = [shown[place] for place in best_first(fused)] + rest
        return [int(self.chunks[index]) for index in order]


def _score_all(searcher: Searcher, arm: Arm) -> dict[Weights, Scores]:
    """nDCG@10 of every query with every setting; candidates and their scores are the same for all of them."""
    evalset = searcher.evalset
    candidates = _find_candidates(searcher, arm)
    default = default_weights(arm)
    shares = [SHARES if value is not None else (None,) for value in (default.words, default.late_interaction)]
    table = {}
    for words, tokens in product(*shares):
        weights = Weights(words, tokens)
        orders = [each.order(weights, arm) for each in candidates]
        ranking = _to_ranking(orders)
        table[weights] = measure(ranking, evalset.golds, searcher.answers, measures=[MAIN_MEASURE])[
            MAIN_MEASURE
        ]
    return table


def _find_candidates(searcher: Searcher, arm: Arm) -> list[_Candidates]:
    competing = searcher.competing[searcher.evalset.main_slice]
    dense = searcher.dense(arm)
    legs = [rank(dense, competing)]
    lexical = searcher.lexical(arm.with_title) if arm.method == "hybrid" else None
    if lexical is not None:
        legs.append(rank_found(lexical, competing))
    asked = searcher.query_tokens(arm) if arm.is_reranked else []
    stored = searcher.chunk_tokens(arm) if arm.is_reranked else []
    limit = LEG_CANDIDATES if lexical is not None else CANDIDATES
    found = []
    for row in range(len(dense)):
        chunks = np.unique(np.concatenate([leg.found(row)[:limit] for leg in legs])).astype(int)
        tokens = None
        if arm.is_reranked and (query := asked[row]) is not None:
            tokens = np.array([max_sim(query, stored[chunk]) for chunk in chunks], dtype=np.float32)
        words = None if lexical is None else lexical[row, chunks]
        found.append(_Candidates(chunks, dense[row, chunks], words, tokens))
    return found


def _to_ranking(orders: Sequence[Sequence[int]]) -> Ranking:
    width = max(1, max(map(len, orders), default=1))
    order = np.zeros((len(orders), width), dtype=np.int64)
    scores = np.full((len(orders), width), -np.inf)
    for row, chunks in enumerate(orders):
        order[row, : len(chunks)] = chunks
        scores[row, : len(chunks)] = -np.arange(len(chunks))
    return Ranking(order, scores)
