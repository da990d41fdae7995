"""All arms over one set, with their verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from rag_embed.evaluation.arms import BM25, ISOLATED, Arm
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.costs import measure_costs
from rag_embed.evaluation.fitting import fit_weights
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.results import ArmResult, Evaluation, Example
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.sets import EvalSet, Slice
from rag_embed.evaluation.vectors import OnStep, Vectors, be_silent
from rag_embed.evaluation.verdict import Verdict, decide
from rag_embed.llamaindex import ContextualEmbedding

_EXAMPLES = 4
_FEW_QUERIES = 50


def evaluate(
    evalset: EvalSet,
    arms: Sequence[Arm],
    *,
    model: ContextualEmbedding,
    cache: VectorCache | None = None,
    settings: Mapping[str, Any] | None = None,
    with_costs: bool = False,
    with_weights: bool = False,
    on_step: OnStep = be_silent,
) -> Evaluation:
    """Measure every arm on every query, whole corpus and inside the right document.

    Interrupted, it can be started again and goes on where the cache ends, to the same result.

    Args:
        evalset: Chunked documents, queries and answers.
        arms: "isolated" must be among them.
        model: What arms do not set.
        cache: Where vectors are kept; by default in memory.
        settings: What else the report should say.
        with_costs: Whether bytes, milliseconds and seconds are measured too; these differ from run to run.
        with_weights: Whether the weights of words and late interaction are fitted on the queries.
        on_step: Told of progress.

    Raises:
        InputError: Weights cannot be fitted: no arm has any, or there are too few queries.
    """
    vectors = Vectors(evalset.documents, cache=cache or VectorCache(None), on_step=on_step)
    run = Searcher(evalset, model, vectors)
    results = [_measure(run, arm) for arm in arms]
    costs = measure_costs(run, arms) if with_costs else None
    fitted = fit_weights(run, arms) if with_weights else None
    verdict = _decide(results, evalset.main_slice, run.sliced[evalset.main_slice])
    return Evaluation(
        name=evalset.name,
        counts={
            "documents": len(evalset.documents),
            "chunks": len(evalset.chunk_ids),
            "queries": len(evalset.queries),
        },
        main_slice=evalset.main_slice,
        sliced=run.sliced,
        query_ids=list(evalset.queries),
        kinds=[evalset.kinds[query] for query in evalset.queries] if evalset.kinds else [],
        results=results,
        costs=costs,
        fitted=fitted,
        verdict=verdict,
        examples=_pick_examples(evalset, results, verdict),
        settings={
            "model": model.profile.name,
            "weights_sha256": model.profile.weights_sha256[:12],
            "dtype": str(model.encoder.dtype).removeprefix("torch."),
            **(settings or {}),
        },
        warnings=_collect_warnings(evalset, results, run),
    )


def _measure(searcher: Searcher, arm: Arm) -> ArmResult:
    """Rank and measure in each slice."""
    evalset = searcher.evalset
    rankings = {where: searcher.rank(arm, where) for where in searcher.sliced}
    firsts = [
        int(found[0]) if len(found := rankings[evalset.main_slice].found(row)) else -1
        for row in range(len(searcher.queries))
    ]
    return ArmResult(
        arm,
        {where: measure(ranking, evalset.golds, searcher.answers) for where, ranking in rankings.items()},
        firsts,
    )


def _decide(results: Sequence[ArmResult], where: Slice, chosen: Bool[np.ndarray, " queries"]) -> Verdict:
    scores = [(result.arm, result.scores[where][MAIN_MEASURE][chosen]) for result in results]
    isolated = next(found for arm, found in scores if arm.name == ISOLATED)
    return decide(isolated, [(arm, found) for arm, found in scores if arm.name != ISOLATED])


def _pick_examples(evalset: EvalSet, results: Sequence[ArmResult], verdict: Verdict) -> list[Example]:
    """Queries that the arm of the verdict wins and loses most against isolated chunks."""
    by_name = {result.arm.name: result for result in results}
    if verdict.arm is None:
        return []
    before, after = by_name[ISOLATED], by_name[verdict.arm]
    where = evalset.main_slice
    old, new = before.scores[where][MAIN_MEASURE], after.scores[where][MAIN_MEASURE]
    order = np.argsort(new - old, kind="stable")
    rows = [row for row in [*order[::-1][:_EXAMPLES], *order[:_EXAMPLES]] if new[row] != old[row]]
    queries, texts = list(evalset.queries), evalset.chunk_texts
    homes = [doc.title or doc.doc_id for doc in evalset.documents for _ in doc.spans]

    def show(chunk: int) -> tuple[str, str]:
        return (texts[chunk], homes[chunk]) if chunk >= 0 else ("nothing", "")

    places = {answer: chunk for chunk, answer in reversed(list(enumerate(evalset.answer_ids)))}
    return [
        Example(
            query=evalset.queries[queries[row]],
            kind=evalset.kinds.get(queries[row], ""),
            before=float(old[row]),
            after=float(new[row]),
            gold=show(places[next(iter(evalset.golds[queries[row]]))]),
            found_before=show(before.firsts[row]),
            found_after=show(after.firsts[row]),
        )
        for row in rows
    ]


def _collect_warnings(evalset: EvalSet, results: Sequence[ArmResult], run: Searcher) -> list[str]:
    warnings = list(evalset.warnings)
    if evalset.is_within_document:
        warnings.append("Queries do not name their document: the verdict is about ranking inside it")
    if not evalset.has_titles:
        warnings.append("No titles: the cheap rival, a title in front of each chunk, could not be compared")
    if "document" not in run.sliced:
        warnings.append("Nothing competes inside the right document: that slice is left out")
    if len(evalset.queries) < _FEW_QUERIES:
        warnings.append(f"{len(evalset.queries)} queries are few: only large differences can show")
    if len(evalset.documents) < 10:
        warnings.append(
            f"Intervals are over queries; {len(evalset.documents)} documents are few to speak for others"
        )
    names = {result.arm.name: result for result in results}
    main = evalset.main_slice
    vector_means = [r.scores[main][MAIN_MEASURE].mean() for r in results if r.arm.method == "vectors"]
    has_words = any(result.arm.method == "hybrid" for result in results)
    if not has_words and BM25 in names and names[BM25].scores[main][MAIN_MEASURE].mean() > max(vector_means):
        warnings.append("BM25 ranks better than every vector arm: consider it, or both together")
    return warnings
