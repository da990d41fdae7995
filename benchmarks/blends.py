"""How to mix a chunk's vector in context with its vector alone: as they are, or along the document's shift.

Halves of two passes are mixed half and half, the isolated half moved by so many times the mean difference of
both over its document, the shift. "Neighbours left out" is what the package does (`rag_embed.pooling.blend`):
moved once, without what only neighbours say. The default makes both halves in one pass. The last rows search
by words too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.context import SETS as CONTEXT_SETS
from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import Arm, EvalSet, VectorCache, evaluate
from rag_embed.evaluation.arms import ISOLATED
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import rank
from rag_embed.evaluation.vectors import Vectors, with_options
from rag_embed.pooling import blend

SETS: dict[str, int | None] = {"squad_half": 8, "obliqa_half": 1, **CONTEXT_SETS}
QUICK_SETS = ("cuad_small",)
TIMES = (0.0, 1.0, 2.0)
KINDS = {"untrained": None, "adapter of all layers": "minilm-context"}
IN_ONE_PASS = "default, one pass"
WITH_WORDS: dict[str, dict[str, Any]] = {
    "isolated + words": {"strategy": "isolated", "adapter": None},
    "adapter of all layers, in context + words": {"strategy": "late", "adapter": "minilm-context"},
    "default + words": {"strategy": "blend"},
}


def mix(
    alone: Float[Tensor, "chunks dim"], late: Float[Tensor, "chunks dim"], times: float
) -> Float[Tensor, "chunks dim"]:
    """Mix the unit vectors of one document half and half, the isolated moved."""
    return normalize(late + alone + times * (late - alone).mean(dim=0), dim=1)


def score(
    evalset: EvalSet, queries: Float[Tensor, "queries dim"], chunks: Float[Tensor, "chunks dim"]
) -> float:
    """Mean nDCG@10."""
    query_ids = list(evalset.queries)
    ranking = rank((queries @ chunks.T).numpy(), evalset.competing(evalset.main_slice, query_ids))
    golds = {query: evalset.golds[query] for query in query_ids}
    found = measure(ranking, golds, evalset.answer_ids, measures=[MAIN_MEASURE])
    return round(float(found[MAIN_MEASURE].mean()), 4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        vectors = Vectors(evalset.documents, cache=cache)
        sizes = [len(document.spans) for document in evalset.documents]
        alone = vectors.chunks(with_options(model, strategy="isolated", adapter=None), with_title=False)
        queries = vectors.queries(model, list(evalset.queries.values()))
        arms = {ISOLATED: alone}
        for kind, adapter in KINDS.items():
            late = vectors.chunks(
                with_options(model, strategy="late", adapter=adapter), with_title=evalset.has_titles
            )
            arms[f"{kind}, in context"] = late
            halves = list(zip(alone.split(sizes), late.split(sizes), strict=True))
            for times in TIMES:
                arms[f"{kind}, moved {times:g} times"] = torch.cat([mix(*each, times) for each in halves])
            spans = [document.spans for document in evalset.documents]
            pairs = zip(halves, spans, strict=True)
            kept = [blend(late, alone, model.alpha, spans=places) for (alone, late), places in pairs]
            arms[f"{kind}, neighbours left out"] = torch.cat(kept)
        arms[IN_ONE_PASS] = vectors.chunks(model, with_title=evalset.has_titles)
        scores = {arm: score(evalset, queries, chunks) for arm, chunks in arms.items()}
        words = [
            Arm(arm, options, method="hybrid", with_title=evalset.has_titles)
            for arm, options in WITH_WORDS.items()
        ]
        baseline = Arm(ISOLATED, WITH_WORDS["isolated + words"])
        found = evaluate(evalset, [baseline, *words], model=model, cache=cache)
        scores |= {result.arm.name: round(found.mean(result, MAIN_MEASURE), 4) for result in found.results}
        results[name] = {
            "documents": len(evalset.documents),
            "queries": len(evalset.queries),
            "rows": [{"arm": arm, MAIN_MEASURE: value} for arm, value in scores.items()],
        }
        print(f"{name}: {len(evalset.queries)} queries", flush=True)
    write_set_report("blends", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
