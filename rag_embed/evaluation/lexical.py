"""BM25 as the store searches by it, over a set: the rival that needs no model, and a leg of hybrid."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rag_embed.qdrant.lexical import LexicalForm

_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Words without case: runs of letters, digits and underscores, in any script; for proxies' questions."""
    return _WORD.findall(text.casefold())


class WordIndex:
    """The words of texts, weighed as a collection stores them.

    The inverse document frequency is the one that Qdrant computes: ln(1 + (n - n_t + 0.5) / (n_t + 0.5)).

    Args:
        texts: Each of them gets a score.
        form: How a text becomes terms; by default as `QdrantChunkStore(lexical=True)` does it.

    Raises:
        MissingExtraError: Qdrant's embedded engine, whose model this is, is not installed.
    """

    def __init__(self, texts: Sequence[str], form: LexicalForm | None = None) -> None:
        self._form = form or LexicalForm()
        self._count = len(texts)
        postings: dict[int, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for row, text in enumerate(texts):
            vector = self._form.to_document(text)
            for term, weight in zip(vector.indices, vector.values, strict=True):
                rows, weights = postings[term]
                rows.append(row)
                weights.append(weight)
        self._postings = {
            term: (np.array(rows), np.array(weights, dtype=np.float32))
            for term, (rows, weights) in postings.items()
        }

    @property
    def term_count(self) -> int:
        """Terms of all texts, each counted once for every text that has it."""
        return sum(len(rows) for rows, _ in self._postings.values())

    def score(self, query: str) -> Float[np.ndarray, " texts"]:
        """Score all texts by the words that they share with a query; 0 where it is none."""
        scores = np.zeros(self._count, dtype=np.float32)
        for term in self._form.to_query(query).indices:
            if term in self._postings:
                rows, weights = self._postings[term]
                idf = math.log(1 + (self._count - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[rows] += np.float32(idf) * weights
        return scores

    def score_all(self, queries: Sequence[str]) -> Float[np.ndarray, "queries texts"]:
        """Score all texts for each of several queries."""
        scores = np.zeros((len(queries), self._count), dtype=np.float32)
        for row, query in enumerate(queries):
            scores[row] = self.score(query)
        return scores
