"""What maps of queries save of an old index: nDCG@10 asked raw, shifted and rotated, and re-indexed.

Chunks alone, no titles. A map is learned from chunks of the searched corpus, never from queries. Two encoders
are other models of other sizes; the third is the first one trained on, which is what a shift is meant for.
The real all-mpnet-base-v2 is taken from the folder $RAG_EMBED_MPNET (docs/migration.md), or left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float
from transformers import AutoModel

from benchmarks.bootstrap import mean_interval
from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import CACHE, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.adapter import locate_adapter, merge_adapter
from rag_embed.evaluation import EvalSet, VectorCache, sample_set
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import rank
from rag_embed.evaluation.vectors import Vectors
from rag_embed.query_map import learn_map

SETS = {"squad_half": 3}
"""Sets, and how many of their documents: few, because all-mpnet-base-v2 costs nine times what MiniLM does."""
QUICK_SETS = ("squad_half",)
QUERIES = 80
MEASURE = "nDCG@10"
MINILM, MPNET, TRAINED_ON = "all-MiniLM-L6-v2", "all-mpnet-base-v2", "all-MiniLM-L6-v2, trained on"
PAIRS = ((MINILM, MPNET), (MPNET, MINILM), (MINILM, TRAINED_ON))
"""Old encoder, new encoder."""
SHARES = (0.25, 0.5, 1.0)
"""How much of the chunks a rotation is learned from."""

Matrix = Float[np.ndarray, "rows dim"]


def find_models(folder: Path) -> Iterator[tuple[str, ContextualEmbedding]]:
    """The encoders that are here, by name; the trained one is merged into a folder of its own."""
    minilm = ContextualEmbedding(strategy="isolated", dtype="float32")
    yield MINILM, minilm
    source, target = minilm.profile.folder, folder / "trained-on"
    shutil.copytree(source, target)
    model = AutoModel.from_pretrained(source)
    merge_adapter(model, locate_adapter("minilm-context"), weights_sha256=minilm.profile.weights_sha256)
    model.save_pretrained(target)
    yield TRAINED_ON, ContextualEmbedding(model=str(target), strategy="isolated", dtype="float32")
    if mpnet := os.environ.get("RAG_EMBED_MPNET"):
        yield MPNET, ContextualEmbedding(model=mpnet, strategy="isolated", dtype="float32")
    else:
        print(f"{MPNET}: skipped, $RAG_EMBED_MPNET names no folder")


def embed_queries(model: ContextualEmbedding, texts: Sequence[str]) -> Matrix:
    """Embed queries in passes that they share, where a query is a text like any other."""
    prefixes = {model.recipe.prefix("query"), model.recipe.prefix("document")}
    if prefixes != {""}:
        raise ValueError(f"{model.model} puts {prefixes} before texts; expected a model without prefixes")
    return model.embedder.embed_texts(list(texts)).numpy()


def measure_pair(
    evalset: EvalSet, old: tuple[Matrix, Matrix], new: tuple[Matrix, Matrix]
) -> list[dict[str, object]]:
    """Every way to ask, each compared with the old index asked by the old encoder.

    Args:
        evalset: Documents, queries and answers.
        old: Chunks and queries by the old encoder.
        new: By the new one.
    """
    (old_chunks, old_queries), (new_chunks, new_queries) = old, new

    def score(queries: Matrix, chunks: Matrix) -> Float[np.ndarray, " queries"]:
        ranking = rank(np.asarray(queries @ chunks.T, dtype=np.float32), evalset.competing())
        return measure(ranking, evalset.golds, evalset.answer_ids, measures=[MEASURE])[MEASURE]

    order = np.random.default_rng(0).permutation(len(new_chunks))
    found = {("old queries, old vectors", 0): score(old_queries, old_chunks)}
    if old_chunks.shape[1] == new_chunks.shape[1]:
        found["raw", 0] = score(new_queries, old_chunks)
        shift = learn_map("shift", new_chunks, old_chunks)
        found["shift", shift.pairs] = score(shift.apply(new_queries), old_chunks)
    for share in SHARES:
        some = order[: max(2, round(share * len(order)))]
        rotation = learn_map("procrustes", new_chunks[some], old_chunks[some])
        found["Procrustes", rotation.pairs] = score(rotation.apply(new_queries), old_chunks)
    found["re-indexed", 0] = score(new_queries, new_chunks)
    baseline = found["old queries, old vectors", 0]
    return [
        {
            "method": method,
            "pairs": pairs,
            MEASURE: round(float(values.mean()), 4),
            "difference": [round(100 * value, 2) for value in mean_interval(values - baseline)],
        }
        for (method, pairs), values in found.items()
    ]


def measure_set(
    evalset: EvalSet, models: Mapping[str, ContextualEmbedding], cache: VectorCache
) -> dict[str, object]:
    """All pairs of encoders that are here on one set."""
    vectors = Vectors(evalset.documents, cache=cache)
    texts = list(evalset.queries.values())
    sides = {
        name: (vectors.chunks(model, with_title=False).numpy(), embed_queries(model, texts))
        for name, model in models.items()
    }
    return {
        "documents": len(evalset.documents),
        "chunks": len(evalset.chunk_ids),
        "queries": len(texts),
        "pairs": {
            f"{old} → {new}": measure_pair(evalset, sides[old], sides[new])
            for old, new in PAIRS
            if {old, new} <= sides.keys()
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args(argv)
    cache = VectorCache(CACHE / "vectors")
    results = {}
    with TemporaryDirectory() as folder:
        models = dict(find_models(Path(folder)))
        digests = [f"{name} {model.profile.weights_sha256[:12]}" for name, model in models.items()]
        for name in find_sets(QUICK_SETS if options.quick else SETS):
            evalset = load_set(name, documents=2 if options.quick else SETS[name])
            evalset = sample_set(evalset, queries=3 if options.quick else QUERIES)
            results[name] = measure_set(evalset, models, cache)
            print(f"{name}: done", flush=True)
    write_set_report("migration", options, model=f"{'; '.join(digests)}; float32", results=results)


if __name__ == "__main__":
    main()
