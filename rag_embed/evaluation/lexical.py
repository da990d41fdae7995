"""BM25 as the store searches by it, over a whole set: the rival that needs no model, and a leg of hybrid."""

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


def score_bm25(
    queries: Sequence[str], texts: Sequence[str], *, form: LexicalForm | None = None
) -> Float[np.ndarray, "queries texts"]:
    """Score texts by the words that they share with each query.

    Terms and weights are those that a collection stores; the inverse document frequency is the one that
    Qdrant computes: ln(1 + (n - n_t + 0.5) / (n_t + 0.5)).

    Returns:
        0 where no word is shared.

    Raises:
        MissingExtraError: Qdrant's embedded engine, whose model this is, is not installed.
    """
    form = form or LexicalForm()
    postings: dict[int, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for row, text in enumerate(texts):
        vector = form.to_document(text)
        for term, weight in zip(vector.indices, vector.values, strict=True):
            rows, weights = postings[term]
            rows.append(row)
            weights.append(weight)
    scores = np.zeros((len(queries), len(texts)), dtype=np.float32)
    for number, query in enumerate(queries):
        for term in form.to_query(query).indices:
            if term in postings:
                rows, weights = postings[term]
                idf = math.log(1 + (len(texts) - len(rows) + 0.5) / (len(rows) + 0.5))
                scores[number, rows] += np.float32(idf) * np.array(weights, dtype=np.float32)
    return scores
