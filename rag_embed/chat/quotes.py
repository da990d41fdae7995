"""Quote: the sentence of each passage that is nearest to a question, with its exact characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rag_embed.chat.passages import Passage
from rag_embed.chat.turns import Citation, Quote
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.qdrant import QdrantChunkStore

_SENTENCE = re.compile(r"\S.*?(?:[.!?:](?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)
_LEAST_NEARNESS = 0.5  # of the best sentence's


def quote_passages(
    store: QdrantChunkStore, embed_model: ContextualEmbedding, question: str, passages: Sequence[Passage]
) -> list[Quote | None]:
    """Find the sentence nearest to a question in each passage; None for one that holds no sentence."""
    sentences = [(row, match) for row, each in enumerate(passages) for match in _SENTENCE.finditer(each.text)]
    quotes: list[Quote | None] = [None] * len(passages)
    if not sentences:
        return quotes
    vectors = np.array(embed_model.get_text_embedding_batch([match.group() for _, match in sentences]))
    nearness = vectors @ np.array(embed_model.get_query_embedding(question))
    for (row, match), score in zip(sentences, nearness.tolist(), strict=True):
        best, passage = quotes[row], passages[row]
        if best is None or score > best.score:
            start, end = passage.start + match.start(), passage.start + match.end()
            quotes[row] = Quote(passage.document, start, end, match.group(), score)
    return quotes


def select_quotes(
    passages: Sequence[Passage], quotes: Sequence[Quote | None], *, most: int
) -> list[Citation]:
    """Choose the quotes that answer: those of the best passages, without what is far off, each once."""
    pairs = [(passage, quote) for passage, quote in zip(passages, quotes, strict=True) if quote is not None]
    pairs = pairs[:most]
    limit = _LEAST_NEARNESS * max((quote.score for _, quote in pairs), default=0.0)
    citations: list[Citation] = []
    seen: set[str] = set()
    for passage, quote in pairs:
        if quote.score >= limit and quote.place not in seen:
            seen.add(quote.place)
            citations.append(Citation(len(citations) + 1, passage, quote, is_quoted=True))
    return citations
