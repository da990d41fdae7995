"""All arms over one set, with their verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rag_embed.evaluation.arms import BM25, ISOLATED, TITLED, Arm
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.lexical import score_bm25
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import Ranking, rank, rank_found, rank_hybrid, rerank
from rag_embed.evaluation.results import ArmResult, Evaluation, Example
from rag_embed.evaluation.sets import EvalSet, Slice
from rag_embed.evaluation.vectors import OnStep, Vectors, be_silent
from rag_embed.evaluation.verdict import Verdict, decide
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.rerank import DENSE_WEIGHT, HYBRID_WEIGHT

_EXAMPLES = 4
_FEW_QUERIES = 50


def evaluate(
    evalset: EvalSet,
    arms: Sequence[Arm],
    *,
    model: ContextualEmbedding,
    cache: VectorCache | None = None,
    settings: Mapping[str, Any] | None = None,
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
        on_step: Told of progress.
    """
    run = _Run(evalset, model, Vectors(evalset.documents, cache=cache or VectorCache(None), on_step=on_step))
    results = [run.measure(arm) for arm in arms]
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


class _Run:
    """What all arms of one run share."""

    def __init__(self, evalset: EvalSet, model: ContextualEmbedding, vectors: Vectors) -> None:
        self.evalset = evalset
        self.model = model
        self.vectors = vectors
        self.queries = list(evalset.queries.values())
        self.answers = evalset.answer_ids
        inside = evalset.competing("document")
        self.competing: dict[Slice, Bool[np.ndarray, "queries chunks"]] = {
            "corpus": evalset.competing("corpus"),
            "document": inside,
        }
        self.sliced: dict[Slice, Bool[np.ndarray, " queries"]] = {
            "corpus": np.ones(len(self.queries), dtype=bool),
        }
        # Where every competing chunk is an answer there is nothing to rank.
        golds = np.array([len(evalset.golds[query]) for query in evalset.queries])
        contested = inside.sum(axis=1) > golds
        if evalset.unit == "chunk" and contested.any():
            self.sliced["document"] = contested

    def measure(self, arm: Arm) -> ArmResult:
        """Rank and measure in each slice."""
        rankings = {where: self._rank(arm, where) for where in self.sliced}
        firsts = [
            int(found[0]) if len(found := rankings[self.evalset.main_slice].found(row)) else -1
            for row in range(len(self.queries))
        ]
        return ArmResult(
            arm,
            {
                where: measure(ranking, self.evalset.golds, self.answers)
                for where, ranking in rankings.items()
            },
            firsts,
        )

    def _dense(self, arm: Arm) -> Float[np.ndarray, "queries chunks"]:
        model = arm.make_model(self.model)
        chunks = self.vectors.chunks(model, with_title=arm.with_title)
        return (self.vectors.queries(model, self.queries) @ chunks.T).numpy()

    @lru_cache(maxsize=2)  # noqa: B019 - with and without titles, for all arms of one run
    def _lexical(self, with_title: bool) -> Float[np.ndarray, "queries chunks"]:
        """Scores of the words of each chunk, behind its title as LlamaIndex puts it there."""
        heads = [
            f"{doc.title_key}: {doc.title}\n\n" if with_title and doc.title else ""
            for doc in self.evalset.documents
            for _ in doc.spans
        ]
        texts = [head + text for head, text in zip(heads, self.evalset.chunk_texts, strict=True)]
        return score_bm25(self.queries, texts)

    def _find(self, arm: Arm, where: Slice) -> Ranking:
        """The first stage: by words, by vectors, or by both."""
        competing = self.competing[where]
        if arm.method == "bm25":
            return rank_found(self._lexical(arm.with_title), competing)
        if arm.method == "hybrid":
            lexical = self._lexical(arm.with_title)
            return rank_hybrid(self._dense(arm), lexical, competing, method=arm.fusion)
        return rank(self._dense(arm), competing)

    def _rank(self, arm: Arm, where: Slice) -> Ranking:
        first = self._find(arm, where)
        if not arm.is_reranked:
            return first
        model = arm.make_model(self.model)
        weight = HYBRID_WEIGHT if arm.method == "hybrid" else DENSE_WEIGHT
        chunks = self.vectors.tokens(model, with_title=arm.with_title)
        return rerank(first, self.vectors.query_tokens(model, self.queries), chunks, weight=weight)


def _decide(results: Sequence[ArmResult], where: Slice, chosen: Bool[np.ndarray, " queries"]) -> Verdict:
    scores = {result.arm.name: result.scores[where][MAIN_MEASURE][chosen] for result in results}
    contextual = [result.arm for result in results if result.arm.is_contextual and not result.arm.is_reranked]
    return decide(
        scores[ISOLATED],
        {arm.name: scores[arm.name] for arm in contextual},
        titled=scores.get(TITLED),
        default=next((arm.name for arm in contextual if arm.is_default), None),
    )


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


def _collect_warnings(evalset: EvalSet, results: Sequence[ArmResult], run: _Run) -> list[str]:
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
    if BM25 in names and names[BM25].scores[main][MAIN_MEASURE].mean() > max(vector_means):
        warnings.append("BM25 ranks better than every vector arm: consider it, or both together")
    return warnings
