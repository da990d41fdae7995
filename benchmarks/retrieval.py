"""Retrieval quality of every strategy and reranker: nDCG@10 and Recall@10 with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import torch
from ir_measures import R, ScoredDoc, nDCG
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.bootstrap import RESAMPLES, mean_interval
from benchmarks.evalsets import DEFAULT_DOCUMENTS, EvalSet, load_set, sets_folder
from benchmarks.report import make_parser, write_report
from benchmarks.vectors import VectorCache
from rag_embed import ContextualEmbedding
from rag_embed.listwise import cosine_scores, fuse_scores, move_to_feedback
from rag_embed.pooling import blend
from rag_embed.prompts import E2RANK_LIST, QUERY_IN_CONTEXT

MEASURES = {"ndcg_10": nDCG @ 10, "recall_10": R @ 10}
CANDIDATES = 100
PROMPTS = {"E2Rank prompt": E2RANK_LIST, "query in context": QUERY_IN_CONTEXT}
PROMPT_CANDIDATES = 20
LIST_WEIGHTS = (0.25, 0.5, 1.0)
FEEDBACK = ((3, 0.3), (3, 0.6), (5, 0.3), (10, 0.5))
"""How many candidates are taken as relevant, and how far they draw the query."""
ALPHAS = (0.25, 0.5, 0.75)
QUICK_SETS = ("anthropic_codebase", "medquad_train", "qmsum_train")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Chunks of each query, best first, with their scores."""

    order: Int[np.ndarray, "queries candidates"]
    scores: Float[np.ndarray, "queries candidates"]


def rank(
    evalset: EvalSet, queries: Float[Tensor, "queries dim"], chunks: Float[Tensor, "chunks dim"]
) -> Ranking:
    """First stage: the nearest chunks by cosine."""
    scores = (queries @ chunks.T).numpy()
    scores[~evalset.competing()] = -2
    order = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
    return Ranking(order, np.take_along_axis(scores, order, axis=1))


def rerank(
    first: Ranking,
    moved: Float[Tensor, "queries dim"],
    chunks: Float[Tensor, "chunks dim"],
    *,
    weight: float = 1.0,
) -> Ranking:
    """Second stage: cosine of the better query vectors with the stored ones, mixed with the first stage."""
    scores = np.full_like(first.scores, -2)
    for row, vector in enumerate(moved):
        competing = first.scores[row] > -2
        stored = chunks[first.order[row, competing]]
        scores[row, competing] = fuse_scores(
            torch.from_numpy(first.scores[row, competing]), cosine_scores(vector, stored), weight=weight
        )
    inner = np.argsort(-scores, axis=1, kind="stable")
    return Ranking(np.take_along_axis(first.order, inner, axis=1), np.take_along_axis(scores, inner, axis=1))


def measure(evalset: EvalSet, ranking: Ranking) -> dict[str, Float[np.ndarray, " queries"]]:
    """Each measure of each query."""
    ids = evalset.chunk_ids
    run = [
        ScoredDoc(query, ids[chunk], -float(place))
        for query, order, scores in zip(evalset.queries, ranking.order, ranking.scores, strict=True)
        for place, (chunk, score) in enumerate(zip(order, scores, strict=True))
        if score > -2
    ]
    found = {
        (str(m.measure), m.query_id): m.value
        for m in ir_measures.iter_calc(list(MEASURES.values()), evalset.golds, run)
    }
    return {
        name: np.array([found[str(measure), query] for query in evalset.queries])
        for name, measure in MEASURES.items()
    }


def embed_arms(cache: VectorCache) -> dict[str, Float[Tensor, "chunks dim"]]:
    """Chunk vectors of each strategy."""
    isolated = cache.chunks("isolated", with_title=False)
    late = cache.chunks("late", with_title=False)
    arms = {"isolated": isolated, "late": late}
    arms |= {f"blend {alpha}": blend(late, isolated, alpha) for alpha in ALPHAS}
    if cache.evalset.has_titles:
        titled = cache.chunks("isolated", with_title=True)
        headed = cache.chunks("late", with_title=True)
        arms |= {"title + isolated": titled, "title + late": headed}
        arms |= {f"title + blend {alpha}": blend(headed, titled, alpha) for alpha in ALPHAS}
    return arms


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the table: a ranking, what it is compared with, and over which queries."""

    name: str
    ranking: Ranking
    baseline: str
    queries: Int[np.ndarray, " queries"]


def compare(evalset: EvalSet, cache: VectorCache, *, rerank_queries: int) -> list[dict[str, object]]:
    """All arms of one set; strategies against isolated, rerankers against their first stage."""
    queries = cache.queries()
    everyone = np.arange(len(queries))
    strategies = embed_arms(cache)
    arms = [Arm(n, rank(evalset, queries, chunks), "isolated", everyone) for n, chunks in strategies.items()]
    firsts = {arm.name: arm.ranking for arm in arms}
    best = "title + blend 0.5" if evalset.has_titles else "blend 0.5"
    for first_name in ("isolated", best):
        first, chunks = firsts[first_name], strategies[first_name]
        for count, weight in FEEDBACK:
            moved = torch.stack(
                [
                    move_to_feedback(query, chunks[order[scores > -2][:count]], weight=weight)
                    for query, order, scores in zip(queries, first.order, first.scores, strict=True)
                ]
            )
            name = f"{first_name} → feedback {count} x {weight}"
            arms.append(Arm(name, rerank(first, moved, chunks), first_name, everyone))
    drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:rerank_queries])
    for prompt_name, prompt in PROMPTS.items():
        moved = queries.clone()
        moved[drawn] = cache.lists(prompt, list_pairs(evalset, first, drawn))
        for weight in LIST_WEIGHTS:
            name = f"{best} → {prompt_name}, weight {weight}"
            arms.append(Arm(name, rerank(first, moved, chunks, weight=weight), best, drawn))
    scores = {arm.name: measure(evalset, arm.ranking) for arm in arms}
    return [_row(arm, scores[arm.name], scores[arm.baseline]) for arm in arms]


def list_pairs(
    evalset: EvalSet, first: Ranking, drawn: Int[np.ndarray, " drawn"]
) -> list[tuple[str, list[str]]]:
    """Each drawn query with the texts of its first candidates."""
    texts, questions = evalset.chunk_texts, list(evalset.queries.values())
    return [
        (
            questions[query],
            [texts[chunk] for chunk in first.order[query][first.scores[query] > -2][:PROMPT_CANDIDATES]],
        )
        for query in drawn
    ]


def _row(
    arm: Arm,
    scores: Mapping[str, Float[np.ndarray, " queries"]],
    baseline: Mapping[str, Float[np.ndarray, " queries"]],
) -> dict[str, object]:
    row: dict[str, object] = {"arm": arm.name, "baseline": arm.baseline, "n": len(arm.queries)}
    for name in MEASURES:
        differences = scores[name][arm.queries] - baseline[name][arm.queries]
        row[name] = round(float(scores[name][arm.queries].mean()), 4)
        row[f"{name}_difference"] = [round(x, 4) for x in mean_interval(differences)]
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    parser.add_argument("--documents", type=int, default=None, help="of each set; 0 is all")
    parser.add_argument("--rerank-queries", type=int, default=60, help="of each set, for the list prompts")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    results: dict[str, object] = {}
    rerank_queries = 5 if options.quick else options.rerank_queries
    for name in options.sets or (QUICK_SETS if options.quick else DEFAULT_DOCUMENTS):
        if not (sets_folder() / name / "corpus.jsonl").is_file():
            print(f"{name}: skipped, it is not in $RAG_EMBED_EVAL nor in ../shared/eval")
            continue
        wanted = DEFAULT_DOCUMENTS.get(name) if options.documents is None else options.documents or None
        evalset = load_set(name, documents=2 if options.quick else wanted)
        rows = compare(evalset, VectorCache(evalset, model), rerank_queries=rerank_queries)
        results[name] = {
            "documents": len(evalset.documents),
            "chunks": len(evalset.chunk_ids),
            "queries": len(evalset.queries),
            "is_within_document": evalset.is_within_document,
            "rows": rows,
        }
        print(f"{name}: {len(rows)} arms, {len(evalset.queries)} queries")
    if not results:
        print("retrieval: nothing measured, no set was found")
        return
    profile = model.encoder.profile
    write_report(
        "retrieval",
        options,
        model=f"{profile.name}, sha256 {profile.weights_sha256[:12]}, float32",
        data=", ".join(results),
        n=sum(entry["queries"] for entry in results.values()),
        interval=f"95 % paired bootstrap over queries, {RESAMPLES} resamples",
        results=results,
    )


if __name__ == "__main__":
    main()
