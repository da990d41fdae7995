"""Drop-in components for LlamaIndex."""

from rag_embed.llamaindex.corpus import Corpus
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.given_spans import SpanNodeParser
from rag_embed.llamaindex.neighbours import NeighbourExpansion
from rag_embed.llamaindex.node_parser import LateChunkingNodeParser
from rag_embed.llamaindex.pages import join_pages
from rag_embed.llamaindex.rerank import ListwiseRerank
from rag_embed.llamaindex.sync_report import SyncReport

__all__ = [
    "ContextualEmbedding",
    "Corpus",
    "LateChunkingNodeParser",
    "ListwiseRerank",
    "NeighbourExpansion",
    "SpanNodeParser",
    "SyncReport",
    "join_pages",
]
