"""Questions for texts that come without: their own headings, and sentences taken out (inverse cloze)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llama_index.core.node_parser import SentenceSplitter

from corpora.texts import Text
from rag_embed import CharSpan
from rag_embed.evaluation import EvalDocument, EvalSet, make_proxy_queries
from rag_embed.evaluation.chunking import cut_document
from rag_embed.evaluation.proxies import take_out
from rag_embed.training.documents import TrainingDocument

CHUNK_TOKENS = (64, 128, 200, 256)
"""Sizes to cut documents to, one drawn for each document: what people choose."""
_HEADINGS = 8
_SHORTEST_ANSWER = 160  # characters: a sentence may be taken out of it, and something is left


def ask(
    texts: Sequence[Text], *, source: str, clozes: float = 4, headed: float = 0.6
) -> list[TrainingDocument]:
    """Cut texts into chunks and ask for these.

    A heading that asks is taken out of its text, as a sentence is, so that words alone do not give the answer
    away.

    Args:
        texts: With titles.
        source: Name of the source.
        clozes: Sentences taken out of a document, on the average; every second names its document.
        headed: Share of the documents whose title stands before every window.
    """
    cut: list[EvalDocument] = []
    headings: dict[str, list[tuple[str, int]]] = {}
    for text in texts:
        generator = random.Random(text.doc_id)
        splitter = SentenceSplitter(chunk_size=generator.choice(CHUNK_TOKENS), chunk_overlap=0)
        document = cut_document(EvalDocument(text.doc_id, text.title, text.text, ()), splitter)
        document, headings[text.doc_id] = _ask_headings(document, text, generator)
        cut.append(document)
    plain = EvalSet(source, tuple(cut), {}, {}, has_titles=True)
    asked = make_proxy_queries(plain, round(clozes * len(cut)))
    clozed: dict[str, list[tuple[str, int]]] = {}
    for query_id, query in asked.queries.items():
        (gold,) = asked.golds[query_id]
        doc_id, _, chunk = gold.rpartition("#")
        clozed.setdefault(doc_id, []).append((query, int(chunk)))
    documents = []
    for document in asked.documents:
        pairs = headings[document.doc_id] + clozed.get(document.doc_id, [])
        head = f"title: {document.title}\n\n" if random.Random(document.title).random() < headed else ""
        if pairs:
            documents.append(
                TrainingDocument(document.doc_id, document.text, document.spans, tuple(pairs), head, source)
            )
    return documents


def _ask_headings(
    document: EvalDocument, text: Text, generator: random.Random
) -> tuple[EvalDocument, list[tuple[str, int]]]:
    """Some of the headings as questions; every second names the document."""
    pairs, taken = [], []
    chosen = generator.sample(text.headings, min(_HEADINGS, len(text.headings)))
    for number, (question, place, start) in enumerate(chosen):
        chunk = next((i for i, span in enumerate(document.spans) if span.start <= start < span.end), None)
        if chunk is None:
            continue
        heading, span = CharSpan(place.start, place.stop), document.spans[chunk]
        is_inside = span.start <= heading.start or heading.start == heading.end
        if not is_inside or span.end - start < _SHORTEST_ANSWER:
            continue
        if heading.end > heading.start:
            taken.append(heading)
        pairs.append((f"{question} {document.title}" if number % 2 else question, chunk))
    return take_out(document, taken), pairs
