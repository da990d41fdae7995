"""Throughput on an accelerator: defaults and other pass sizes against sentence-transformers, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llama_index.core.schema import BaseNode, Document
from sentence_transformers import SentenceTransformer

from benchmarks.corpus import read_documents
from benchmarks.race import Race
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser

CHUNK_TOKENS = 128
SHORT_CHARACTERS = 200
SBERT = "sentence-transformers, batches of {}"
OURS: dict[str, dict[str, Any]] = {
    "late": {},
    "late, no token vectors": {"token_neighbours": None},
    "blend": {"strategy": "blend"},
    "late, passes of 1024": {"batch_tokens": 1024},
    "late, passes of 65536": {"batch_tokens": 65536},
}
"""Contestants, and what they set beside strategy late."""


def embed(model: ContextualEmbedding, nodes: Sequence[BaseNode]) -> None:
    """Embed nodes anew."""
    for node in nodes:
        node.embedding = None
    model(nodes)


def make_nodes(*, count: int, is_short: bool) -> list[BaseNode]:
    """Whole documents in chunks that every contestant reads whole; or documents of a sentence or two."""
    parser = LateChunkingNodeParser(chunk_size=CHUNK_TOKENS, chunk_overlap=0)
    documents = read_documents(count)
    if not is_short:
        return parser.get_nodes_from_documents(documents)
    pieces = [
        Document(text=text, id_=f"{document.node_id}:{at}")
        for document in documents
        for at in range(0, len(document.text), SHORT_CHARACTERS)
        if (text := document.text[at : at + SHORT_CHARACTERS]).strip()
    ]
    return parser.get_nodes_from_documents(pieces)


def race(nodes: Sequence[BaseNode], peer: SentenceTransformer, *, rounds: int) -> dict[str, object]:
    """Chunks and tokens a second of everybody."""
    texts = [node.get_content() for node in nodes]
    contestants: dict[str, Callable[[], object]] = {
        SBERT.format(size): partial(peer.encode, texts, batch_size=size) for size in (32, 256)
    }
    for name, options in OURS.items():
        contestants[name] = partial(embed, ContextualEmbedding(**{"strategy": "late", **options}), nodes)
    for name, run in contestants.items():  # kernels are chosen at the first sight of a shape
        run()
        print(f"accelerator: {name} is warm", flush=True)
    result = Race.run(contestants, rounds=rounds)
    best = result.fastest("sentence-transformers")
    tokens = sum(len(each.ids) for each in ContextualEmbedding().encoder.tokenize_all(texts))
    rows = [
        {
            "contestant": name,
            "tokens per second": round(tokens / result.median_s(name)),
            "speed over the peer": [round(value, 2) for value in result.speed_up(name, best)],
        }
        for name in contestants
    ]
    return {"chunks": len(nodes), "tokens": tokens, "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    model = ContextualEmbedding()
    if model.encoder.device.type == "cpu" and not options.quick:
        print("accelerator: nothing measured, this machine has none")
        return
    peer = SentenceTransformer(
        str(model.profile.folder),
        device=model.encoder.device.type,
        model_kwargs={"dtype": model.encoder.dtype},
    )
    results: dict[str, object] = {
        label: race(
            make_nodes(count=2 if options.quick else 79, is_short=is_short), peer, rounds=options.rounds
        )
        for label, is_short in (("documents", False), ("short documents", True))
    }
    write_report(
        "accelerator",
        options,
        model=f"all-MiniLM-L6-v2, adapter minilm-context in windows, {model.encoder.dtype} for all",
        data=f"pydoc_data.topics (CPython), chunks of {CHUNK_TOKENS} tokens of cl100k; and cut every "
        f"{SHORT_CHARACTERS} characters into documents of their own",
        n=options.rounds,
        interval="smallest and largest ratio over the rounds",
        results=results,
    )


if __name__ == "__main__":
    main()
