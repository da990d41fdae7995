"""What documents of one sentence cost in their context, beside the same sentences as plain nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from llama_index.core import Document
from llama_index.core.schema import BaseNode, TextNode

from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser

DOCUMENTS = 300
ROUNDS = 2


def make_contestants(texts: Sequence[str]) -> Mapping[str, Callable[[], object]]:
    """Fresh nodes and the model that embeds them, by name."""
    parser = LateChunkingNodeParser()
    plain = ContextualEmbedding(dtype="float32", strategy="isolated", embed_batch_size=32)
    documents = [Document(text=text, id_=str(number)) for number, text in enumerate(texts)]

    def in_context(model: ContextualEmbedding, nodes: Sequence[BaseNode]) -> Callable[[], object]:
        return lambda: model([node.model_copy(deep=True) for node in nodes])

    nodes = parser(documents)
    contestants: dict[str, Callable[[], object]] = {
        "plain nodes, alone": lambda: plain([TextNode(text=text) for text in texts])
    }
    for strategy in ("isolated", "late", "blend"):
        model = ContextualEmbedding(dtype="float32", strategy=strategy)
        contestants[f"{strategy}, together"] = in_context(model, nodes)
        contestants[f"{strategy}, document by document"] = lambda model=model: [
            model([node.model_copy(deep=True)]) for node in nodes
        ]
    return contestants


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    count, rounds = (10, 1) if options.quick else (DOCUMENTS, ROUNDS)
    texts = [f"Bridge number {n} over the river was built in {1700 + n} by the city." for n in range(count)]
    contestants = make_contestants(texts)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():  # the first pass of a process is slower
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    best = {name: min(values) for name, values in seconds.items()}
    baseline = best["plain nodes, alone"]
    write_report(
        "short_documents",
        options,
        model="all-MiniLM-L6-v2 with its adapter in windows, float32",
        data=f"{count} documents of one made-up sentence",
        n=rounds,
        interval="none: the least processor time of the rounds",
        results={
            name: {"ms_per_document": round(1000 * value / count, 2), "speed": round(baseline / value, 2)}
            for name, value in best.items()
        },
    )


if __name__ == "__main__":
    main()
