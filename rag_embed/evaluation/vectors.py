"""The vectors that arms are made of, each computed once.

All of them come out of `ContextualEmbedding` itself, from nodes as its parser makes them, so an arm is what a
user gets who sets the same options: prefixes, context head, windows and chunks without tokens included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from llama_index.core.schema import TextNode
from torch import Tensor

from rag_embed.errors import ContextOverflowError
from rag_embed.evaluation.cache import VectorCache, make_key
from rag_embed.evaluation.sets import EvalDocument, name_chunk
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.context import make_stamps, stamp_node
from rag_embed.max_sim import KeptTokens, to_units
from rag_embed.pooling import blend
from rag_embed.stamp import tokens_of

_BATCH_CHUNKS = 64
_BATCH_QUERIES = 32


class OnStep(Protocol):
    """Told of progress."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """So many of so many documents or queries are done."""


def be_silent(what: str, done: int, total: int) -> None:
    """Tell nobody of progress."""


class Vectors:
    """Chunk, query and list vectors of one set of documents, out of the cache or computed into it.

    Computed document by document; an interrupt loses the documents since the last batch of 64 chunks.

    Args:
        documents: In a fixed order, which the rows follow.
        cache: Where vectors are kept.
        on_step: Told of each document or query that is computed.
    """

    def __init__(
        self, documents: Sequence[EvalDocument], *, cache: VectorCache, on_step: OnStep = be_silent
    ) -> None:
        self._documents = documents
        self._cache = cache
        self._on_step = on_step
        self._tokens: dict[bytes, list[KeptTokens]] = {}

    def chunks(self, model: ContextualEmbedding, *, with_title: bool) -> Float[Tensor, "chunks dim"]:
        """One unit vector per chunk; a blend is mixed from its two parts, which other arms share."""
        if model.strategy == "blend":
            late = self.chunks(in_context_half(model), with_title=with_title)
            # A title in the head of every window is not repeated before the chunk alone.
            is_repeated = with_title and model.head == "none"
            isolated = self.chunks(as_isolated(model), with_title=is_repeated)
            sizes = [len(document.spans) for document in self._documents]
            halves = zip(self._documents, late.split(sizes), isolated.split(sizes), strict=True)
            mixed = [blend(a, b, model.alpha, spans=doc.spans) for doc, a, b in halves if doc.spans]
            return torch.cat(mixed) if mixed else late
        model = as_isolated(model) if model.strategy == "isolated" else model
        name = f"{model.strategy}{' with titles' if with_title else ''}"
        keys = [self._document_key(model, doc, with_title) for doc in self._documents]

        def compute(batch: Sequence[int]) -> Iterator[Float[Tensor, "chunks dim"]]:
            return (self._embed(model, self._documents[index], with_title) for index in batch)

        sizes = [len(doc.spans) for doc in self._documents]
        return self._fill(name, keys, _group(sizes, _BATCH_CHUNKS), compute)

    def queries(self, model: ContextualEmbedding, texts: Sequence[str]) -> Float[Tensor, "queries dim"]:
        """One unit vector per query; the same for all strategies and adapters of one encoder."""
        model = as_isolated(model)
        keys = [make_key("query", _space(model), text) for text in texts]

        def compute(batch: Sequence[int]) -> Iterator[Float[Tensor, "one dim"]]:
            return (model.embed_query(texts[index])[None] for index in batch)

        return self._fill("queries", keys, _group([1] * len(texts), _BATCH_QUERIES), compute)

    def tokens(self, model: ContextualEmbedding, *, with_title: bool) -> list[TokenVectors]:
        """Token vectors of every chunk, as a store is handed them.

        They come out of the pass that makes the late vectors, and are made anew only where those were in the
        cache. A chunk that no window has read has one vector that is similar to nothing.
        """
        model = in_context_half(model) if model.strategy == "blend" else model
        for number, document in enumerate(self._documents, start=1):
            key = self._document_key(model, document, with_title)
            if key not in self._tokens:
                self._embed(model, document, with_title)
                self._on_step("token vectors", number, len(self._documents))
        keys = [self._document_key(model, document, with_title) for document in self._documents]
        return [to_units(kept) for key in keys for kept in self._tokens[key]]

    def _embed(
        self, model: ContextualEmbedding, document: EvalDocument, with_title: bool
    ) -> Float[Tensor, "chunks dim"]:
        nodes = embed_nodes(model, document, with_title=with_title)
        nothing = np.zeros((1, model.profile.dim), dtype=np.int8)
        kept = [tokens_of(node) for node in nodes]
        key = self._document_key(model, document, with_title)
        self._tokens[key] = [nothing if each is None else each for each in kept]
        return torch.tensor([node.embedding for node in nodes], dtype=torch.float32)

    def query_tokens(self, model: ContextualEmbedding, texts: Sequence[str]) -> list[TokenVectors | None]:
        """Token vectors of every query; None for one that is longer than the encoder reads."""
        found: list[TokenVectors | None] = []
        for text in texts:
            try:
                found.append(model.embed_query_tokens(text))
            except ContextOverflowError:
                found.append(None)
        return found

    def _document_key(self, model: ContextualEmbedding, doc: EvalDocument, with_title: bool) -> bytes:
        title = [doc.title_key, doc.title] if with_title and doc.title else None
        spans = [[span.start, span.end] for span in doc.spans]
        return make_key("chunks", _space(model), title, doc.text, spans)

    def _fill(
        self,
        name: str,
        keys: Sequence[bytes],
        batches: Iterable[Sequence[int]],
        compute: Callable[[Sequence[int]], Iterator[Float[Tensor, "_ dim"]]],
    ) -> Float[Tensor, "rows dim"]:
        """Take from the cache what it has, and compute the rest into it batch by batch."""
        found = self._cache.get(keys)
        done = sum(key in found for key in keys)
        for batch in batches:
            missing = [index for index in batch if keys[index] not in found]
            computed = {}
            for index, matrix in zip(missing, compute(missing)):
                computed[keys[index]] = matrix
                done += 1
                self._on_step(name, done, len(keys))
            if computed:
                self._cache.put(computed)
                found |= computed
        return torch.cat([found[key] for key in keys])


def embed_document(
    model: ContextualEmbedding, document: EvalDocument, *, with_title: bool
) -> Float[Tensor, "chunks dim"]:
    """Embed a document's chunks as an index would.

    Args:
        model: Any strategy.
        document: With its chunks.
        with_title: Whether the title is metadata of the chunks, which LlamaIndex puts in front of them and
            the model in front of its windows.
    """
    nodes = embed_nodes(model, document, with_title=with_title)
    return torch.tensor([node.embedding for node in nodes], dtype=torch.float32)


def embed_nodes(model: ContextualEmbedding, document: EvalDocument, *, with_title: bool) -> list[TextNode]:
    """Make a document's nodes as a parser does, and embed them."""
    metadata = {document.title_key: document.title} if with_title and document.title else {}
    nodes = [
        TextNode(text=text, id_=name_chunk(document.doc_id, index), metadata=dict(metadata))
        for index, text in enumerate(document.chunks)
    ]
    stamps = make_stamps(document.text, [(0, span) for span in document.spans], owner=document.doc_id)
    for node, stamp in zip(nodes, stamps, strict=True):
        stamp_node(node, stamp)
    model(nodes)
    return nodes


def with_options(model: ContextualEmbedding, **options: Any) -> ContextualEmbedding:
    """Make the same model with other options, checked like a new one's."""
    fields = {name: getattr(model, name) for name in model.model_fields_set if name in _OPTIONS}
    return ContextualEmbedding(**{**fields, **options})


def in_context_half(model: ContextualEmbedding) -> ContextualEmbedding:
    """Make the model of that half of a blend which is read in context, by the blend's own adapter."""
    adapter = model.located_adapter
    return with_options(model, strategy="late", adapter=adapter and str(adapter.folder))


def as_isolated(model: ContextualEmbedding) -> ContextualEmbedding:
    """Make the model that embeds chunks alone, which no adapter touches, and all queries."""
    return with_options(model, strategy="isolated", adapter=None)


_OPTIONS = frozenset(ContextualEmbedding.model_fields) - {
    "callback_manager",
    "rate_limiter",
    "embeddings_cache",
    "model_name",
}


def _space(model: ContextualEmbedding) -> list[str]:
    """List all that changes a vector; unlike an index, the cache is exact about rounding."""
    return [model.fingerprint(), str(model.encoder.dtype), model.encoder.device.type]


def _group(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Cut consecutive items into batches of about so much."""
    batch: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        batch.append(index)
        total += size
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
