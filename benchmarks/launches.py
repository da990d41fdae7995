"""What is launched for thirty documents, document by document and batched as on an accelerator.

Counted on a processor that goes an accelerator's way: forward passes, and operators of torch, each of which
is a kernel or several there. No time is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.corpus import read_documents
from benchmarks.report import describe_model, make_parser, write_report
from rag_embed import CharSpan, ContextualEmbedding, Recipe, load_embedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.encoder import Encoder
from rag_embed.pooling import SpanPool

CHUNK_CHARACTERS, PASS_TOKENS = 500, 16384
APART, BATCHED = "document by document", "batched across documents"


class OperatorCount(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and do it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def cut(text: str) -> ChunkedText:
    """Chunks of one size."""
    starts = range(0, len(text), CHUNK_CHARACTERS)
    spans = [CharSpan(start, min(start + CHUNK_CHARACTERS, len(text))) for start in starts]
    return ChunkedText(text, [span for span in spans if text[span.start : span.end].strip()])


def count_launches(documents: Sequence[ChunkedText], strategy: str) -> dict[str, int]:
    """Embed all documents once."""
    recipe = Recipe(strategy=strategy, dtype="float32")  # type: ignore[arg-type]
    embedder = load_embedder(recipe, device="cpu", batch_tokens=PASS_TOKENS)
    encoders = {embedder.encoder, embedder.context_encoder}
    before = [(encoder.forward_count, encoder.token_count) for encoder in encoders]
    with OperatorCount() as operators:
        chunks = sum(len(vectors) for vectors in embedder.embed_documents(documents))
    done = [
        (encoder.forward_count - passes, encoder.token_count - tokens)
        for encoder, (passes, tokens) in zip(encoders, before, strict=True)
    ]
    return {
        "passes": sum(passes for passes, _ in done),
        "tokens": sum(tokens for _, tokens in done),
        "operators": operators.count,
        "chunks": chunks,
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser(__doc__).parse_args(argv)
    documents = [cut(document.text) for document in read_documents(2 if options.quick else 30)]
    results: dict[str, dict[str, dict[str, int]]] = {}
    for strategy in ("late", "blend"):
        apart = count_launches(documents, strategy)
        with (
            patch.object(Encoder, "batches_documents", True),
            patch.object(SpanPool, "add", lambda pool, states, start: pool._add_at_once(states, start)),
        ):
            results[strategy] = {APART: apart, BATCHED: count_launches(documents, strategy)}
    write_report(
        "launches",
        options,
        model=describe_model(ContextualEmbedding(dtype="float32")),
        data="Python's language reference and library",
        n=len(documents),
        interval="none: counts",
        results=results,
    )


if __name__ == "__main__":
    main()
