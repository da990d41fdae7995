"""Retrieval quality of every strategy and reranker: nDCG@10 and Recall@10 with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.bootstrap import RESAMPLES, mean_interval
from benchmarks.evalsets import DEFAULT_DOCUMENTS, find_sets, load_set
from benchmarks.report import CACHE, make_parser, write_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import EvalSet, VectorCache
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import Ranking, list_candidates, rank, rerank
from rag_embed.evaluation.vectors import Vectors, with_options
from rag_embed.listwise import move_to_feedback
from rag_embed.pooling import blend
from rag_embed.prompts import E2RANK_LIST, QUERY_IN_CONTEXT

MEASURES = {"ndcg_10": "nDCG@10", "recall_10": "R@10"}
PROMPTS = {"E2Rank prompt": E2RANK_LIST, "query in context": QUERY_IN_CONTEXT}
PROMPT_CANDIDATES = 20
LIST_WEIGHTS = (0.25, 0.5, 1.0)
FEEDBACK = ((3, 0.3), (3, 0.6), (5, 0.3), (10, 0.5))
"""How many candidates are taken as relevant, and how far they draw the query."""
ALPHAS = (0.25, 0.5, 0.75)
QUICK_SETS = ("anthropic_codebase", "medquad_train", "qmsum_train")


def embed_arms(
    evalset: EvalSet, vectors: Vectors, model: ContextualEmbedding
) -> dict[str, Float[Tensor, "chunks dim"]]:
    """Chunk vectors of each strategy."""
    by_itself, in_context = with_options(model, strategy="isolated"), with_options(model, strategy="late")
    arms: dict[str, Float[Tensor, "chunks dim"]] = {}
    for prefix, with_title in {"": False, "title + ": True}.items() if evalset.has_titles else [("", False)]:
        isolated = vectors.chunks(by_itself, with_title=with_title)
        late = vectors.chunks(in_context, with_title=with_title)
        arms |= {f"{prefix}isolated": isolated, f"{prefix}late": late}
        arms |= {f"{prefix}blend {alpha}": blend(late, isolated, alpha) for alpha in ALPHAS}
    return arms


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the table: a ranking, what it is compared with, and over which queries."""

    name: str
    ranking: Ranking
    baseline: str
    queries: Int[np.ndarray, " queries"]


def compare(
    evalset: EvalSet, vectors: Vectors, model: ContextualEmbedding, *, rerank_queries: int
) -> list[dict[str, object]]:
    """All arms of one set; strategies against isolated, rerankers against their first stage."""
    questions = list(evalset.queries.values())
    queries, competing = vectors.queries(model, questions), evalset.competing()
    everyone = np.arange(len(queries))
    strategies = embed_arms(evalset, vectors, model)
    firsts = {name: rank((queries @ chunks.T).numpy(), competing) for name, chunks in strategies.items()}
    arms = [Arm(name, ranking, "isolated", everyone) for name, ranking in firsts.items()]
    best = "title + blend 0.5" if evalset.has_titles else "blend 0.5"
    for first_name in ("isolated", best):
        first, chunks = firsts[first_name], strategies[first_name]
        for count, weight in FEEDBACK:
            moved = torch.stack(
                [
                    move_to_feedback(query, chunks[first.found(row)[:count]], weight=weight)
                    for row, query in enumerate(queries)
                ]
            )
            name = f"{first_name} → feedback {count} x {weight}"
            arms.append(Arm(name, rerank(first, moved, chunks), first_name, everyone))
    drawn = np.sort(np.random.default_rng(0).permutation(len(queries))[:rerank_queries])
    pairs = list_candidates(first, questions, evalset.chunk_texts, count=PROMPT_CANDIDATES)
    for prompt_name, prompt in PROMPTS.items():
        moved = queries.clone()
        moved[drawn] = vectors.lists(model, prompt, [pairs[row] for row in drawn])
        for weight in LIST_WEIGHTS:
            name = f"{best} → {prompt_name}, weight {weight}"
            arms.append(Arm(name, rerank(first, moved, chunks, weight=weight), best, drawn))
    scores = {arm.name: _measure(evalset, arm.ranking) for arm in arms}
    return [_row(arm, scores[arm.name], scores[arm.baseline]) for arm in arms]


def _measure(evalset: EvalSet, ranking: Ranking) -> dict[str, Float[np.ndarray, " queries"]]:
    found = measure(ranking, evalset.golds, evalset.answer_ids, measures=list(MEASURES.values()))
    return {name: found[parsed] for name, parsed in MEASURES.items()}


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
    model = ContextualEmbedding(dtype="float32", adapter=None)
    # Windows as long as the model can read, longer than the default.
    model = with_options(model, window_tokens=model.profile.max_tokens)
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, object] = {}
    rerank_queries = 5 if options.quick else options.rerank_queries
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else DEFAULT_DOCUMENTS)):
        wanted = DEFAULT_DOCUMENTS.get(name) if options.documents is None else options.documents or None
        evalset = load_set(name, documents=2 if options.quick else wanted)
        rows = compare(evalset, Vectors(evalset.documents, cache=cache), model, rerank_queries=rerank_queries)
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
