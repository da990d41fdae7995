"""BM25, the rival that needs no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rag_embed.errors import MissingExtraError

_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Words without case: runs of letters, digits and underscores, in any script."""
    return _WORD.findall(text.casefold())


def score_bm25(queries: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, "queries texts"]:
    """Score texts by the words that they share with each query.

    By `bm25s` with Lucene's formula, k1 1.5 and b 0.75. No stemming and no stop words, so that every language
    is treated alike.

    Returns:
        Minus infinity where no word is shared: such a text is not found.

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError(
            "BM25 needs bm25s, which is not installed; run pip install 'rag-embed[eval]'"
        ) from error
    index = bm25s.BM25()
    index.index([split_words(text) for text in texts], show_progress=False)
    scores = np.full((len(queries), len(texts)), -np.inf, dtype=np.float32)
    for row, query in enumerate(queries):
        words = [word for word in split_words(query) if word in index.vocab_dict]
        if words:
            found = index.get_scores(words)
            scores[row] = np.where(found > 0, found, -np.inf)
    return scores
