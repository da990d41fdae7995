"""Other libraries, brought to the same chunk borders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from chonkie import LateChunker
from chonkie.embeddings import SentenceTransformerEmbeddings
from chonkie.types import Chunk
from sentence_transformers import SentenceTransformer

from rag_embed import CharSpan


class GivenBorders(LateChunker):
    """Chonkie's late chunker with given chunks in the place of its own recursive ones."""

    def __init__(self, model: SentenceTransformer) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            super().__init__(embedding_model=SentenceTransformerEmbeddings(model=model))
        self._borders: Sequence[Chunk] = ()

    def embed(self, text: str, borders: Sequence[Chunk]) -> list[Chunk]:
        """Chunk vectors of one document."""
        self._borders = borders
        return self.chunk(text)

    def _recursive_chunk(self, text: str, level: int = 0, start_offset: int = 0) -> list[Chunk]:
        return list(self._borders)


def as_chunks(text: str, spans: Sequence[CharSpan], token_counts: Sequence[int]) -> list[Chunk]:
    """Spans as chonkie's chunks, which name the number of tokens of each."""
    return [
        Chunk(text=text[span.start : span.end], start_index=span.start, end_index=span.end, token_count=count)
        for span, count in zip(spans, token_counts, strict=True)
    ]
