"""What may be left out of token vectors? Bytes against nDCG, through the embedded engine itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding, QdrantChunkStore
from rag_embed.evaluation import EvalSet, sample_set
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import Ranking
from rag_embed.evaluation.vectors import embed_nodes
from rag_embed.fusion import TOKEN_WEIGHT
from rag_embed.llamaindex.context import stamp_node
from rag_embed.max_sim import TokenForm, to_units
from rag_embed.qdrant.legs import TokenStorage
from rag_embed.stamp import ChunkStamp, tokens_of

SETS = {"anthropic_codebase": 60, "covidqa": 15, "cuad_small": 12, "squad_half": 12}
QUICK_SETS = ("anthropic_codebase",)
QUERIES = 150
FORMS: tuple[tuple[TokenStorage, int], ...] = (
    ("float16", 1),
    ("float16", 2),
    ("float16", 4),
    ("int8", 1),
    ("int8", 2),
    ("int8", 4),
    ("int4", 1),
    ("int4", 2),
    ("int4", 4),
    ("int4", 8),
)
BYTES = {"float16": 2.0, "int8": 1.0, "int4": 0.5}


def rank_by_store(
    nodes: Sequence[TextNode], evalset: EvalSet, model: ContextualEmbedding, tokens: TokenStorage | None
) -> Ranking:
    """Search a folder for every question, with late interaction where tokens are kept."""
    places = {node.node_id: row for row, node in enumerate(nodes)}
    order = np.zeros((len(evalset.queries), 10), dtype=np.int64)
    scores = np.full(order.shape, -np.inf)
    with (
        tempfile.TemporaryDirectory() as folder,
        QdrantChunkStore("docs", path=folder, lexical=True, tokens=tokens) as store,
    ):
        store.add(nodes)
        for row, text in enumerate(evalset.queries.values()):
            query = VectorStoreQuery(
                query_embedding=model.get_query_embedding(text),
                query_str=text,
                mode=VectorStoreQueryMode.HYBRID,
                similarity_top_k=10,
            )
            options = {"query_tokens": model.embed_query_tokens(text), "token_weight": TOKEN_WEIGHT}
            found = store.query(query, **(options if tokens else {}))
            order[row, : len(found.ids)] = [places[id_] for id_ in found.ids]
            scores[row, : len(found.ids)] = found.similarities
    return Ranking(order, scores)


def pool(nodes: Sequence[TextNode], neighbours: int) -> list[TextNode]:
    """The same chunks with so many of their token vectors averaged into one."""
    form = TokenForm("float16", neighbours)
    pooled = []
    for node in nodes:
        kept, stamp = tokens_of(node), ChunkStamp.from_node(node)
        assert kept is not None
        assert stamp is not None
        copy = node.model_copy()
        stamp_node(copy, stamp, tokens=form.keep(torch.from_numpy(to_units(kept))).numpy())
        pooled.append(copy)
    return pooled


def measure_set(name: str, documents: int | None, queries: int) -> dict[str, object]:
    """nDCG@10 and bytes of every form."""
    evalset = sample_set(load_set(name, documents=documents), queries=queries)
    model = ContextualEmbedding(strategy="late", token_neighbours=1, dtype="float32")
    nodes = [
        node
        for document in evalset.documents
        for node in embed_nodes(model, document, with_title=evalset.has_titles)
    ]
    chunk_tokens = float(np.mean([len(kept) for node in nodes if (kept := tokens_of(node)) is not None]))

    def score(ranking: Ranking) -> float:
        return round(100 * float(measure(ranking, evalset.golds, evalset.answer_ids)[MAIN_MEASURE].mean()), 2)

    rows: list[dict[str, object]] = [
        {"form": "none", MAIN_MEASURE: score(rank_by_store(nodes, evalset, model, None)), "bytes": 0}
    ]
    for storage, neighbours in FORMS:
        ranking = rank_by_store(pool(nodes, neighbours), evalset, model, storage)
        size_bytes = 200 / neighbours * model.profile.dim * BYTES[storage]
        rows.append(
            {"form": f"{storage} x{neighbours}", MAIN_MEASURE: score(ranking), "bytes": round(size_bytes)}
        )
    counts = {"documents": len(evalset.documents), "chunks": len(nodes), "queries": len(evalset.queries)}
    return {**counts, "tokens per chunk": round(chunk_tokens, 1), "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args(argv)
    results = {}
    for name in find_sets(QUICK_SETS if options.quick else SETS):
        documents, queries = (2, 5) if options.quick else (SETS[name], QUERIES)
        results[name] = measure_set(name, documents, queries)
        print(f"{name}: {len(FORMS)} forms", flush=True)
    if not results:
        print("token_forms: nothing measured, no set was found")
        return
    write_report(
        "token_forms",
        options,
        model="all-MiniLM-L6-v2, adapter minilm-context, float32",
        data=f"{', '.join(results)}; bytes of 200 tokens",
        n=sum(int(entry["queries"]) for entry in results.values()),  # type: ignore[call-overload]
        interval="none",
        results=results,
    )


if __name__ == "__main__":
    main()
