"""A chunk vector that has the token vectors it was pooled from with it.

LlamaIndex knows one field for what an embedding model makes of a node: a list of numbers. This list carries
more for those who know: it goes through pipelines, indexes and worker processes like any other, and is an
ordinary list again where it was written as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable

from rag_embed.max_sim import KeptTokens


class ChunkVector(list[float]):
    """The numbers of a chunk vector.

    Attributes:
        tokens: What is kept of the chunk's token states, a row per token vector.
    """

    def __init__(self, numbers: Iterable[float] = (), tokens: KeptTokens | None = None) -> None:
        super().__init__(numbers)
        self.tokens = tokens


def tokens_of(vector: object) -> KeptTokens | None:
    """The token vectors that a chunk vector has with it; None if it is any other list."""
    return vector.tokens if isinstance(vector, ChunkVector) else None
