"""One share of context for every chunk, or a share by how far context moved it: an experiment on the blend.

The default blends a chunk's vector in context and its vector alone half and half. Their cosine says how far
context moved the chunk: where little, it may speak for itself; where far, alone it was about something else.
The gate gives context the share `low + (high - low) · σ((threshold - cosine) / width)`. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.evalsets import ANONYMISED, find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import EvalSet, VectorCache
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import rank
from rag_embed.evaluation.vectors import Vectors, with_options

SETS = {"squad_half": 8, ANONYMISED: 60, "cuad_small": 8, "obliqa_half": 1}
QUICK_SETS = ("cuad_small",)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)
LOW, HIGH, WIDTH = 0.15, 0.85, 0.08


def gate(
    alone: Float[Tensor, "chunks dim"], in_context: Float[Tensor, "chunks dim"], threshold: float
) -> Float[Tensor, "chunks dim"]:
    """Blend unit vectors, each chunk with its own share of context."""
    cosines = (alone * in_context).sum(dim=1, keepdim=True)
    share = LOW + (HIGH - LOW) * torch.sigmoid((threshold - cosines) / WIDTH)
    return normalize((1 - share) * alone + share * in_context, dim=1)


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
        alone = vectors.chunks(with_options(model, strategy="isolated", adapter=None), with_title=False)
        late, blend = (
            vectors.chunks(with_options(model, strategy=strategy), with_title=evalset.has_titles)
            for strategy in ("late", "blend")
        )
        queries = torch.stack([model.embed_query(query) for query in evalset.queries.values()])
        arms = {"isolated": alone, "adapter alone": late, "default": blend}
        arms |= {f"gate at {threshold:g}": gate(alone, late, threshold) for threshold in THRESHOLDS}
        cosines = torch.quantile((alone * late).sum(dim=1), torch.tensor([0.1, 0.5, 0.9]))
        results[name] = {
            "documents": len(evalset.documents),
            "queries": len(evalset.queries),
            "cosines": [round(float(value), 3) for value in cosines],
            "rows": [
                {"arm": arm, MAIN_MEASURE: score(evalset, queries, chunks)} for arm, chunks in arms.items()
            ],
        }
        print(f"{name}: {len(evalset.queries)} queries", flush=True)
    write_set_report("gate", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
