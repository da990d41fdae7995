"""What bfloat16 costs against float32: nDCG@10, the vectors' angles and the processor's time.

An index may be made in one precision and asked in the other, so all four pairs are measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.bootstrap import mean_interval
from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import EvalSet
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import rank
from rag_embed.evaluation.vectors import embed_document, with_options

SETS = {"anthropic_codebase": None, "cuad_small": 12, "chroma_chunking": 2, "squad_half": 6}
"""Sets, and how many of their documents; None is all."""
QUICK_SETS = ("anthropic_codebase",)
PRECISIONS = ("float32", "bfloat16")
ARMS: Mapping[str, Mapping[str, object]] = {
    "isolated": {"strategy": "isolated", "adapter": None},
    "default": {},
}
MEASURE = "nDCG@10"


def compare(evalset: EvalSet, options: Mapping[str, object]) -> dict[str, object]:
    """One arm in both precisions, documents taking turns so that other work on the machine hits both."""
    models = {dtype: ContextualEmbedding(dtype=dtype, **options) for dtype in PRECISIONS}
    seconds = dict.fromkeys(PRECISIONS, 0.0)
    chunks: dict[str, list[Float[Tensor, "_ dim"]]] = {dtype: [] for dtype in PRECISIONS}
    for model in models.values():  # the first pass of a process is slower
        embed_document(model, evalset.documents[0], with_title=evalset.has_titles)
    for document in evalset.documents:
        for dtype, model in models.items():
            start = time.process_time()
            chunks[dtype].append(embed_document(model, document, with_title=evalset.has_titles))
            seconds[dtype] += time.process_time() - start
    rows = {dtype: torch.cat(parts) for dtype, parts in chunks.items()}
    queries = {
        dtype: torch.stack([model.embed_query(query) for query in evalset.queries.values()])
        for dtype, model in models.items()
    }
    scores = {
        (index, query): measure(
            rank((queries[query] @ rows[index].T).numpy(), evalset.competing()),
            evalset.golds,
            evalset.answer_ids,
            measures=[MEASURE],
        )[MEASURE]
        for index, query in product(PRECISIONS, PRECISIONS)
    }
    whole = scores["float32", "float32"]
    cosines = torch.nn.functional.cosine_similarity(rows["float32"], rows["bfloat16"])
    return {
        "ndcg_10": round(float(whole.mean()), 4),
        "differences": {
            f"{index} asked in {query}": [round(x, 4) for x in mean_interval(found - whole)]
            for (index, query), found in scores.items()
            if found is not whole
        },
        "cosine": [round(float(cosines.mean()), 6), round(float(cosines.min()), 6)],
        "largest_difference": round(float((rows["float32"] - rows["bfloat16"]).abs().max()), 5),
        "speed_up": round(seconds["float32"] / seconds["bfloat16"], 2),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    options = parser.parse_args(argv)
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        results[name] = {
            "queries": len(evalset.queries),
            "chunks": len(evalset.chunk_ids),
            "arms": {arm: compare(evalset, of_arm) for arm, of_arm in ARMS.items()},
        }
        print(f"{name}: {len(evalset.queries)} queries", flush=True)
    model = with_options(ContextualEmbedding(), dtype="float32")
    checkpoint = f"{model.profile.name}, sha256 {model.profile.weights_sha256[:12]}"
    write_set_report("precision", options, model=f"{checkpoint}, float32 and bfloat16", results=results)


if __name__ == "__main__":
    main()
