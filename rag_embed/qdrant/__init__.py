"""Chunks in Qdrant: a server, the client's memory, or a folder served by an engine in this process."""

from rag_embed.qdrant.cluster import ClusterOptions
from rag_embed.qdrant.copying import CopyReport
from rag_embed.qdrant.integrity import IntegrityReport
from rag_embed.qdrant.retry import RetryPolicy
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.qdrant.settings import CollectionSettings
from rag_embed.qdrant.storage import VectorStorage
from rag_embed.qdrant.store import QdrantChunkStore

__all__ = [
    "ClusterOptions",
    "CollectionSchema",
    "CollectionSettings",
    "CopyReport",
    "IntegrityReport",
    "QdrantChunkStore",
    "RetryPolicy",
    "VectorStorage",
]
