"""What do words and token vectors cost? Ingestion with the encoder, and a question without it."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import QdrantClient

from benchmarks.corpus import read_documents
from benchmarks.race import Race
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.llamaindex.context import stamp_node
from rag_embed.max_sim import TokenForm, to_units
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.stamp import ChunkStamp

DIM, TOKENS, WORDS = 384, 140, 20_000
PLAIN, LEXICAL, ALL = "vectors alone", "with words", "with words and token vectors"
PEER = "LlamaIndex HuggingFaceEmbedding, its own store with enable_hybrid"
LEGS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    LEXICAL: {"lexical": True},
    ALL: {"lexical": True, "tokens": True},
}


def time_ingestion(*, documents: int, rounds: int) -> dict[str, object]:
    """Embed and store the same chunks in every way, in turns."""
    read = read_documents(documents)
    model = ContextualEmbedding(strategy="late", dtype="float32")
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    nodes = splitter(read)
    contestants: dict[str, Callable[[], object]] = {
        name: _ingest_ours(model, nodes, read, LEGS[name]) for name in LEGS
    }
    if (peer := _ingest_peer(nodes)) is not None:
        contestants[PEER] = peer
    for run in contestants.values():
        run()
    race = Race.run(contestants, rounds=rounds)
    rows = {}
    for name in contestants:
        row: dict[str, object] = {"seconds": round(race.median_s(name), 3)}
        row["x vectors alone"] = [round(1 / ratio, 3) for ratio in race.speed_up(name, PLAIN)]
        if PEER in contestants:
            row["speed x peer"] = [round(ratio, 3) for ratio in race.speed_up(name, PEER)]
        rows[name] = row
    return {"documents": documents, "chunks": len(nodes), "rounds": rounds, "rows": rows}


def _ingest_ours(
    model: ContextualEmbedding, nodes: Sequence[Any], documents: Sequence[Any], legs: dict[str, Any]
) -> Callable[[], object]:
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    options = model if "tokens" in legs else model.model_copy(update={"token_neighbours": None})

    def run() -> None:
        parser = LateChunkingNodeParser(node_parser=splitter, embed_model=options)
        with tempfile.TemporaryDirectory() as folder, QdrantChunkStore("docs", path=folder, **legs) as store:
            store.add(parser(list(documents)))

    return run


def _ingest_peer(nodes: Sequence[Any]) -> Callable[[], object] | None:
    try:
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    except ImportError:
        return None
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    from rag_embed.profiles import locate_checkpoint

    peer = HuggingFaceEmbedding(model_name=str(locate_checkpoint().folder), device="cpu")
    words = LexicalForm()  # the same words, so that only the way differs

    def to_sparse(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        vectors = [words.to_document(text) for text in texts]
        return [v.indices for v in vectors], [v.values for v in vectors]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = QdrantClient(location=":memory:")
            store = QdrantVectorStore(
                "docs", client=client, enable_hybrid=True, sparse_doc_fn=to_sparse, sparse_query_fn=to_sparse
            )
            copies = [node.model_copy() for node in nodes]
            store.add(list(peer(copies)))
            client.close()

    return run


def make_chunks(first: int, last: int, rng: np.random.Generator) -> list[TextNode]:
    """Chunks with clustered vectors, token vectors around them, and words as rare as words are."""
    shares = 1 / np.arange(1, WORDS + 1)
    words = [f"w{number}" for number in range(WORDS)]
    centres = rng.normal(size=(200, DIM))
    nodes = []
    for number in range(first, last):
        centre = centres[number % len(centres)]
        text = " ".join(rng.choice(words, size=100, p=shares / shares.sum()))
        vector = centre + 0.7 * rng.normal(size=DIM)
        node = TextNode(id_=f"n{number}", text=text, embedding=vector.tolist())
        states = (centre + rng.normal(size=(TOKENS, DIM))).astype(np.float32)
        stamp = ChunkStamp(f"{number:032x}", 0, len(text), fingerprint="f")
        stamp_node(node, stamp, tokens=TokenForm().keep(torch.from_numpy(states)).numpy())
        nodes.append(node)
    return nodes


def time_queries(*, points: int, queries: int) -> dict[str, object]:
    """Ask one folder in every way; the encoder is left out."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        with QdrantChunkStore("docs", path=folder, **LEGS[ALL]) as new:
            for begin in range(0, points, 1_000):
                new.add(make_chunks(begin, min(begin + 1_000, points), rng))
        sizes = {name: _size_of(Path(folder), name) / points for name in ("dense", "lexical", "tokens")}
        store = stack.enter_context(QdrantChunkStore("docs", path=folder))
        texts = [node.text.split()[:8] for node in store.get_nodes(limit=queries)]
        vectors = rng.normal(size=(queries, DIM)).tolist()
        tokens = [to_units(rng.normal(size=(12, DIM))) for _ in range(queries)]

        def ask(row: int, mode: VectorStoreQueryMode, top_k: int, **options: object) -> list[str]:
            question = VectorStoreQuery(
                query_embedding=vectors[row],
                query_str=" ".join(texts[row]),
                similarity_top_k=top_k,
                mode=mode,
            )
            return store.query(question, **options).ids or []

        ways: dict[str, Callable[[int], object]] = {
            "dense, 10": lambda row: ask(row, VectorStoreQueryMode.DEFAULT, 10),
            "dense, 50": lambda row: ask(row, VectorStoreQueryMode.DEFAULT, 50),
            "words, 10": lambda row: ask(row, VectorStoreQueryMode.SPARSE, 10),
            "hybrid, 10": lambda row: ask(row, VectorStoreQueryMode.HYBRID, 10),
            "hybrid, 50, then late interaction of 50": lambda row: store.score_tokens(
                ask(row, VectorStoreQueryMode.HYBRID, 50), tokens[row]
            ),
            "hybrid with late interaction in one request, 10": lambda row: ask(
                row, VectorStoreQueryMode.HYBRID, 10, query_tokens=tokens[row]
            ),
        }
        rows = {}
        for name, way in ways.items():
            seconds = []
            for row in range(queries):
                begin_s = time.perf_counter()
                way(row)
                seconds.append(time.perf_counter() - begin_s)
            rows[name] = round(1_000 * statistics.median(seconds), 2)
    return {"chunks": points, "bytes per chunk": {k: round(v) for k, v in sizes.items()}, "ms": rows}


def _size_of(folder: Path, vector_name: str) -> int:
    """Bytes on disk of one kind of vectors; the engine's files are larger than what is in them."""
    return sum(
        path.stat().st_blocks * 512
        for storage in folder.rglob(f"vector_storage-{vector_name}")
        for path in storage.rglob("*")
        if path.is_file()
    )


def time_cross_encoder(*, pairs: int, tokens: int, rounds: int) -> float:
    """Milliseconds of a cross-encoder of MiniLM's size over a question and its candidates; random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=DIM, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=1
    )
    network = BertForSequenceClassification(config).eval()
    ids = torch.randint(1_000, 30_000, (pairs, tokens))
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            begin_s = time.perf_counter()
            network(input_ids=ids)
            seconds.append(time.perf_counter() - begin_s)
    return round(1_000 * statistics.median(seconds[1:]), 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    options = parser.parse_args(argv)
    quick = bool(options.quick)
    points, queries = (200, 5) if quick else (20_000, 40)
    results = {
        "ingestion": time_ingestion(documents=2 if quick else 12, rounds=1 if quick else 5),
        "queries": time_queries(points=points, queries=queries),
        "cross-encoder of 50 candidates, ms": time_cross_encoder(
            pairs=5 if quick else 50, tokens=TOKENS + 12, rounds=1 if quick else 5
        ),
    }
    write_report(
        "legs",
        options,
        model="all-MiniLM-L6-v2, adapter minilm-context, float32; none for the questions",
        data=f"pydoc_data.topics for ingestion; {points} chunks of {TOKENS} tokens, clustered, for questions",
        n=queries,
        interval="smallest and largest ratio over the rounds; medians of questions",
        results=results,
    )


if __name__ == "__main__":
    main()
