"""What maps of queries save of an old index: nDCG@10 asked raw, shifted and rotated, and re-indexed.

Chunks alone, no titles. A map is learned from chunks of documents that are not searched, never from queries.
The new encoders: the old one trained on, which is what a shift is meant for; multilingual-e5-small, of the
same size, in the folder $RAG_EMBED_E5 as `benchmarks.e5_checkpoint` makes it; and all-mpnet-base-v2, of
twice the size, in $RAG_EMBED_MPNET (docs/migration.md). Those for which no folder is named are left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from rag_embed.evaluation.sets import EvalDocument
from rag_embed.evaluation.vectors import Vectors
from rag_embed.query_map import learn_map

SETS = {"squad_half": 4, "anthropic_codebase": 20}
"""Sets, and how many of their documents are searched."""
QUICK_SETS = ("squad_half",)
CHUNKS_APART = 800
"""Chunks of other documents that maps are learned from: twice the dimensions of the smaller encoders."""
QUERIES = 80
MEASURE = "nDCG@10"
MINILM, TRAINED_ON = "all-MiniLM-L6-v2", "all-MiniLM-L6-v2, trained on"
E5, MPNET = "multilingual-e5-small (4 bits)", "all-mpnet-base-v2"
FOLDERS = {E5: "RAG_EMBED_E5", MPNET: "RAG_EMBED_MPNET"}
"""Environment variables that name the folders of encoders."""
PAIRS = ((MINILM, E5), (E5, MINILM), (MINILM, MPNET), (MPNET, MINILM), (MINILM, TRAINED_ON))
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
    for name, variable in FOLDERS.items():
        if found := os.environ.get(variable):
            yield name, ContextualEmbedding(model=found, strategy="isolated", dtype="float32")
        else:
            print(f"{name}: skipped, ${variable} names no folder")


def find_apart(evalset: EvalSet, searched: EvalSet, chunks: int) -> tuple[EvalDocument, ...]:
    """Draw documents that are not searched until they have so many chunks, or there are no more."""
    names = {document.doc_id for document in searched.documents}
    others = [document for document in evalset.documents if document.doc_id not in names]
    drawn: list[EvalDocument] = []
    for place in np.random.default_rng(0).permutation(len(others)):
        if sum(len(document.chunks) for document in drawn) >= chunks:
            break
        drawn.append(others[place])
    return tuple(drawn)


@dataclass(frozen=True, slots=True)
class Side:
    """What one encoder makes of a set.

    Attributes:
        chunks: Those that are searched.
        queries: Of the set.
        apart: Chunks of documents that are not searched.
    """

    chunks: Matrix
    queries: Matrix
    apart: Matrix


def measure_pair(evalset: EvalSet, old: Side, new: Side) -> list[dict[str, object]]:
    """Every way to ask, each compared with the old index asked by the old encoder.

    Args:
        evalset: Documents, queries and answers.
        old: By the old encoder.
        new: By the new one.
    """

    def score(queries: Matrix, chunks: Matrix) -> Float[np.ndarray, " queries"]:
        ranking = rank(np.asarray(queries @ chunks.T, dtype=np.float32), evalset.competing())
        return measure(ranking, evalset.golds, evalset.answer_ids, measures=[MEASURE])[MEASURE]

    order = np.random.default_rng(0).permutation(len(new.apart))
    found = {("old queries, old vectors", 0): score(old.queries, old.chunks)}
    if old.chunks.shape[1] == new.chunks.shape[1]:
        found["raw", 0] = score(new.queries, old.chunks)
        shift = learn_map("shift", new.apart, old.apart)
        found["shift", shift.pairs] = score(shift.apply(new.queries), old.chunks)
    for share in SHARES:
        some = order[: max(2, round(share * len(order)))]
        rotation = learn_map("procrustes", new.apart[some], old.apart[some])
        found["Procrustes", rotation.pairs] = score(rotation.apply(new.queries), old.chunks)
    found["re-indexed", 0] = score(new.queries, new.chunks)
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
    evalset: EvalSet,
    apart: Sequence[EvalDocument],
    models: Mapping[str, ContextualEmbedding],
    cache: VectorCache,
) -> dict[str, object]:
    """All pairs of encoders that are here on one set."""
    vectors, others = Vectors(evalset.documents, cache=cache), Vectors(apart, cache=cache)
    texts = list(evalset.queries.values())
    sides = {
        name: Side(
            vectors.chunks(model, with_title=False).numpy(),
            np.stack([model.embed_query(text).numpy() for text in texts]),
            others.chunks(model, with_title=False).numpy(),
        )
        for name, model in models.items()
    }
    return {
        "documents": len(evalset.documents),
        "documents apart": len(apart),
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
            everything = load_set(name, documents=None)
            evalset = sample_set(
                everything,
                documents=2 if options.quick else SETS[name],
                queries=3 if options.quick else QUERIES,
            )
            apart = find_apart(everything, evalset, 4 if options.quick else CHUNKS_APART)
            results[name] = measure_set(evalset, apart, models, cache)
            print(f"{name}: done", flush=True)
    write_set_report("migration", options, model=f"{'; '.join(digests)}; float32", results=results)


if __name__ == "__main__":
    main()
