"""Ingestion on Ray: chunks per second of two workers with a thread each, beside one such worker.

Documents go into an embedded folder through its one writer. The rate counts from the first document stored to
the last, so that the start of the workers is not in it; the whole time is shown beside it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode

from benchmarks.corpus import read_documents
from benchmarks.report import ROOT, describe_model, make_parser, write_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore

WORKERS = (1, 2)
LOG = "written.txt"


class TimedStore(QdrantChunkStore):
    """Notes when it has stored how many chunks."""

    def replace_document(self, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        """Store, and note it."""
        ids = super().replace_document(ref_doc_id, nodes)
        with (Path(str(self.path)).parent / LOG).open("a") as log:
            log.write(f"{time.time()} {len(nodes)}\n")
        return ids


def rate_of(log: Path) -> float:
    """Chunks per second behind the first document."""
    rows = [line.split() for line in log.read_text().splitlines()]
    return sum(int(chunks) for _, chunks in rows[1:]) / (float(rows[-1][0]) - float(rows[0][0]))


def run_once(workers: int, count: int, model: ContextualEmbedding) -> dict[str, float]:
    """Fill a fresh folder."""
    from rag_embed.llamaindex.ray_corpus import RayCorpus

    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=256, chunk_overlap=0))
    with TemporaryDirectory() as folder:
        open_store = partial(TimedStore, "docs", path=Path(folder) / "store", lexical=True)
        corpus = RayCorpus(
            open_store, embed_model=model, node_parser=parser, workers=workers, batch_documents=2
        )
        begin = time.perf_counter()
        done = corpus.update(read_documents(count))
        seconds = time.perf_counter() - begin
        return {"chunks": done.sync.chunks, "seconds": seconds, "rate": rate_of(Path(folder) / LOG)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    count, rounds = (6, 1) if options.quick else (options.documents, options.rounds)
    # Ray's workers give way to everybody else by default, and find no module that only we can see.
    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    import ray

    ray.init(num_cpus=max(WORKERS), include_dashboard=False, log_to_driver=False)
    model = ContextualEmbedding(strategy="late", dtype="float32", device="cpu")
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    for number in range(rounds):
        for workers in WORKERS[:: 1 if number % 2 == 0 else -1]:
            found[workers].append(run_once(workers, count, model))
    ray.shutdown()
    ratios = [two["rate"] / one["rate"] for one, two in zip(found[1], found[2], strict=True)]
    write_report(
        "ray_ingestion",
        options,
        model=describe_model(model),
        data=f"{count} documents of pydoc_data.topics (CPython), chunks of at most 256 tokens",
        n=rounds,
        interval="smallest and largest ratio over the rounds",
        results={
            "chunks": int(found[1][0]["chunks"]),
            "rows": {
                str(workers): {
                    "chunks_per_s": round(statistics.median(run["rate"] for run in runs), 2),
                    "seconds": round(statistics.median(run["seconds"] for run in runs), 1),
                }
                for workers, runs in found.items()
            },
            "speed_up": [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))],
        },
    )


if __name__ == "__main__":
    main()
