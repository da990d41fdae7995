"""Measures of a ranking, by ir-measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from rag_embed.errors import MissingExtraError
from rag_embed.evaluation.ranking import Ranking

MEASURES = ("nDCG@10", "RR@10", "R@5", "R@10", "R@20")
"""In ir-measures' names. R@k, the mean share of a query's answers among the first k, is what Anthropic's
contextual retrieval reports as Pass@k; RR@10 averages to MRR@10."""
MAIN_MEASURE = "nDCG@10"


def measure(
    ranking: Ranking,
    golds: dict[str, dict[str, int]],
    answer_ids: Sequence[str],
    *,
    measures: Sequence[str] = MEASURES,
) -> dict[str, Float[np.ndarray, " queries"]]:
    """Measure each query.

    Args:
        ranking: A row per query.
        golds: Relevance by answer, for each query in the order of the ranking's rows.
        answer_ids: What judgements call each chunk. Chunks of one answer count once, where the best stands.
        measures: In ir-measures' names.

    Raises:
        MissingExtraError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError(
            "metrics need ir-measures, which is not installed; run pip install 'rag-embed[eval]'"
        ) from error
    parsed = [ir_measures.parse_measure(name) for name in measures]
    run = [
        ir_measures.ScoredDoc(query, answer, -float(place))
        for row, query in enumerate(golds)
        for place, answer in enumerate(_unique_answers(ranking, row, answer_ids))
    ]
    values = {name: dict.fromkeys(golds, 0.0) for name in measures}
    for found in ir_measures.iter_calc(parsed, golds, run):
        values[str(found.measure)][found.query_id] = found.value
    return {name: np.array([values[name][query] for query in golds]) for name in measures}


def _unique_answers(ranking: Ranking, row: int, answer_ids: Sequence[str]) -> Iterator[str]:
    return iter(dict.fromkeys(answer_ids[chunk] for chunk in ranking.found(row)))
