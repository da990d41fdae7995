"""Which way to search pays? Words, vectors, both, and late interaction on top; nothing chosen per set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.context import summarise
from benchmarks.evalsets import ANONYMISED, find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import Arm, VectorCache, evaluate
from rag_embed.evaluation.arms import BM25, ISOLATED, TITLED

SETS = {
    "anthropic_codebase": None,
    "chroma_chunking": None,
    "covidqa": 30,
    "cuad_small": 30,
    ANONYMISED: 200,
    "medquad_train": 120,
    "obliqa_half": None,
    "qmsum_train": 8,
    "scifact": 500,
    "squad_half": None,
}
"""Sets, and how many of their documents; None is all."""
QUICK_SETS = ("anthropic_codebase",)
DENSE, HYBRID = "dense default (two passes)", "hybrid (one pass)"


def make_arms(*, has_titles: bool) -> list[Arm]:
    """Baselines, the dense default, one pass and words, how they are mixed, and late interaction."""
    alone: dict[str, Any] = {"adapter": None, "strategy": "isolated"}
    late, blend = {"strategy": "late"}, {"strategy": "blend"}
    arms = [Arm(ISOLATED, alone), Arm(BM25, alone, method="bm25")]
    if has_titles:
        arms.append(Arm(TITLED, alone, with_title=True))
        arms.append(Arm(f"title + {BM25}", alone, method="bm25", with_title=True))
    return [
        *arms,
        Arm(DENSE, blend, with_title=has_titles),
        Arm("one pass", late, with_title=has_titles),
        Arm(HYBRID, late, method="hybrid", with_title=has_titles, is_default=True),
        Arm("hybrid (two passes)", blend, method="hybrid", with_title=has_titles),
        Arm("hybrid, isolated", alone, method="hybrid", with_title=has_titles),
        Arm("hybrid by RRF", late, method="hybrid", with_title=has_titles, fusion="rrf"),
        Arm("hybrid by DBSF", late, method="hybrid", with_title=has_titles, fusion="dbsf"),
        Arm("one pass + late interaction", late, with_title=has_titles, is_reranked=True),
        Arm("hybrid + late interaction", late, method="hybrid", with_title=has_titles, is_reranked=True),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", default="float32", help="bfloat16 is faster where the processor has it")
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype=options.dtype)
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        arms = make_arms(has_titles=evalset.has_titles)
        results[name] = summarise(
            evaluate(evalset, arms, model=model, cache=cache), (ISOLATED, DENSE, HYBRID)
        )
        print(f"{name}: {len(arms)} arms, {len(evalset.queries)} queries", flush=True)
    write_set_report("hybrid", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
