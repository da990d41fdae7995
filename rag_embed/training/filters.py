"""Leave out pairs that teach the wrong thing: questions that their chunk does not answer, foreign languages.

Günther et al. 2023, "Jina Embeddings", arXiv:2307.11224, section 3: a language filter, and a consistency
filter that keeps a pair only if the question finds its text among the first two of a million others by a
small encoder (after Dai et al. 2022, "Promptagator", arXiv:2209.11755). Differences: the corpus is the
training documents' own chunks, and a chunk stands behind its head, because a chunk that only its title
explains is what an adapter is trained for; filter before names are taken out of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rag_embed.encoder import Encoder
from rag_embed.errors import MissingExtraError
from rag_embed.late_chunking import embed_isolated
from rag_embed.training.documents import TrainingDocument

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter left.

    Attributes:
        documents: Those with a pair left.
        kept: Pairs left.
        dropped: Pairs left out.
    """

    documents: list[TrainingDocument]
    kept: int
    dropped: int


def drop_inconsistent(documents: Sequence[TrainingDocument], encoder: Encoder, *, top_k: int = 2) -> Filtered:
    """Keep pairs whose question finds its chunk among the first `top_k` of all chunks.

    Args:
        documents: Their chunks are the corpus; of a document with local questions only its own compete.
        encoder: Small and untouched.
        top_k: Two in the source.
    """
    texts = [doc.head + doc.text[span.start : span.end] for doc in documents for span in doc.spans]
    owners = torch.tensor([row for row, doc in enumerate(documents) for _ in doc.spans])
    first_rows = torch.tensor([0, *(len(doc.spans) for doc in documents)]).cumsum(0).tolist()
    asked = [(row, question, chunk) for row, doc in enumerate(documents) for question, chunk in doc.pairs]
    prefix = encoder.profile.query_prefix
    chunks = embed_isolated(encoder, texts)
    queries = embed_isolated(encoder, [prefix + question for _, question, _ in asked])
    is_kept: list[bool] = []
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        scores = queries[start : start + _BLOCK] @ chunks.T
        for place, (row, _, _) in enumerate(block):
            if documents[row].is_question_local:
                scores[place, owners != row] = -torch.inf
        golds = torch.tensor([first_rows[row] + chunk for row, _, chunk in block])
        better = (scores > scores.gather(1, golds[:, None])).sum(dim=1)
        is_kept += (better < top_k).tolist()
    return _keep(documents, is_kept)


def drop_foreign(
    documents: Sequence[TrainingDocument], *, language: str = "en", confidence: float = 0.8
) -> Filtered:
    """Keep pairs unless question or chunk is surely in another language.

    Args:
        documents: With questions.
        language: ISO 639-1 code.
        confidence: Only a text that is in another language with at least this probability is foreign: short
            questions and code are never sure.

    Raises:
        MissingExtraError: py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError(
            "the language filter needs py3langid; run pip install 'rag-embed[train]'"
        ) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def is_foreign(text: str) -> bool:
        found, probability = identifier.classify(text)
        return bool(found != language and probability >= confidence)

    is_kept = [
        not is_foreign(question) and not is_foreign(doc.text[doc.spans[chunk].start : doc.spans[chunk].end])
        for doc in documents
        for question, chunk in doc.pairs
    ]
    return _keep(documents, is_kept)


def _keep(documents: Sequence[TrainingDocument], is_kept: Sequence[bool]) -> Filtered:
    """Documents with those of their pairs that are kept, in the order in which they were judged."""
    verdicts = iter(is_kept)
    thinned = [replace(doc, pairs=tuple(pair for pair in doc.pairs if next(verdicts))) for doc in documents]
    kept = sum(is_kept)
    return Filtered([doc for doc in thinned if doc.pairs], kept, len(is_kept) - kept)
