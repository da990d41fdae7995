"""Contextual chunk embeddings and listwise reranking with one encoder, for LlamaIndex on Qdrant.

Names are loaded at first use: importing the package loads neither torch nor LlamaIndex.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_embed.chunk_embedder import ChunkEmbedder
    from rag_embed.encoder import Encoder
    from rag_embed.errors import RagEmbedError
    from rag_embed.late_chunking import embed_chunks, embed_isolated, embed_late
    from rag_embed.llamaindex import (
        ContextualEmbedding,
        Corpus,
        LateChunkingNodeParser,
        ListwiseRerank,
        NeighbourExpansion,
        SpanNodeParser,
        join_pages,
    )
    from rag_embed.loading import load_embedder, load_encoder
    from rag_embed.qdrant import QdrantChunkStore
    from rag_embed.recipe import Recipe
    from rag_embed.spans import CharSpan

__version__ = "0.1.0"

_HOMES = {
    "CharSpan": "rag_embed.spans",
    "ChunkEmbedder": "rag_embed.chunk_embedder",
    "ContextualEmbedding": "rag_embed.llamaindex",
    "Corpus": "rag_embed.llamaindex",
    "Encoder": "rag_embed.encoder",
    "LateChunkingNodeParser": "rag_embed.llamaindex",
    "ListwiseRerank": "rag_embed.llamaindex",
    "QdrantChunkStore": "rag_embed.qdrant",
    "RagEmbedError": "rag_embed.errors",
    "NeighbourExpansion": "rag_embed.llamaindex",
    "Recipe": "rag_embed.recipe",
    "SpanNodeParser": "rag_embed.llamaindex",
    "embed_chunks": "rag_embed.late_chunking",
    "embed_isolated": "rag_embed.late_chunking",
    "embed_late": "rag_embed.late_chunking",
    "join_pages": "rag_embed.llamaindex",
    "load_embedder": "rag_embed.loading",
    "load_encoder": "rag_embed.loading",
}

__all__ = [
    "CharSpan",
    "ChunkEmbedder",
    "ContextualEmbedding",
    "Corpus",
    "Encoder",
    "LateChunkingNodeParser",
    "ListwiseRerank",
    "NeighbourExpansion",
    "QdrantChunkStore",
    "RagEmbedError",
    "Recipe",
    "SpanNodeParser",
    "embed_chunks",
    "embed_isolated",
    "embed_late",
    "join_pages",
    "load_embedder",
    "load_encoder",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
