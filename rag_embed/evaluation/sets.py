"""Retrieval sets: documents cut into chunks, queries, and what answers them."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool

from rag_embed.errors import InputError
from rag_embed.spans import CharSpan

Slice = Literal["corpus", "document"]
"""Which chunks compete: those of the whole corpus, or those of the right documents only."""


@dataclass(frozen=True, slots=True)
class EvalDocument:
    """A document and the borders of its chunks.

    Attributes:
        doc_id: Names it.
        title: What it is called; may be empty.
        text: All of it.
        spans: Characters of each chunk, in reading order.
        title_key: Metadata key under which the title is embedded, as in "title: Harbour café".
    """

    doc_id: str
    title: str
    text: str
    spans: tuple[CharSpan, ...]
    title_key: str = "title"

    @property
    def chunks(self) -> list[str]:
        """Text of each chunk."""
        return [self.text[span.start : span.end] for span in self.spans]


@dataclass(frozen=True, slots=True)
class GoldSpan:
    """Characters of a document that answer a query."""

    doc_id: str
    span: CharSpan
    relevance: int = 1


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Documents, queries and judgements.

    Attributes:
        name: Of the set.
        documents: All, or a sample.
        queries: Text by id; only those whose answers all stand in the documents.
        golds: Relevance of the answers by query: chunks ("document#index"), or documents.
        has_titles: Whether titles may be used and would tell documents apart.
        is_within_document: Whether queries do not say which document they are about, so that ranking its
            chunks is the only fair question.
        unit: What is judged. Documents are ranked by their best chunk.
        gold_spans: Answers as characters, for queries that have them; they survive another chunking.
        kinds: Kind of each query, where there are several, to be reported apart.
        warnings: What a reader of the results must know about the set.
    """

    name: str
    documents: tuple[EvalDocument, ...]
    queries: dict[str, str]
    golds: dict[str, dict[str, int]]
    has_titles: bool
    is_within_document: bool = False
    unit: Literal["chunk", "document"] = "chunk"
    gold_spans: dict[str, tuple[GoldSpan, ...]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def chunk_ids(self) -> list[str]:
        """Of all documents, in order."""
        return [name_chunk(doc.doc_id, i) for doc in self.documents for i in range(len(doc.spans))]

    @property
    def chunk_texts(self) -> list[str]:
        """Of all documents, in order."""
        return [chunk for doc in self.documents for chunk in doc.chunks]

    @property
    def answer_ids(self) -> list[str]:
        """What judgements call each chunk: itself, or its document."""
        return self.chunk_ids if self.unit == "chunk" else self._homes

    @property
    def _homes(self) -> list[str]:
        """Document of each chunk."""
        return [doc.doc_id for doc in self.documents for _ in doc.spans]

    def home_documents(self, query_id: str) -> set[str]:
        """Documents that hold answers of a query."""
        golds = self.golds[query_id]
        return {gold.rpartition("#")[0] for gold in golds} if self.unit == "chunk" else set(golds)

    def competing(
        self, where: Slice | None = None, query_ids: Sequence[str] | None = None
    ) -> Bool[np.ndarray, "queries chunks"]:
        """Which chunks compete for which query.

        Args:
            where: The slice; by default the one that the set is made for.
            query_ids: All, or some.
        """
        wanted = list(self.queries) if query_ids is None else query_ids
        if (where or self.main_slice) == "corpus":
            return np.ones((len(wanted), len(self._homes)), dtype=bool)
        numbers = {doc.doc_id: number for number, doc in enumerate(self.documents)}
        homes = np.array([numbers[home] for home in self._homes])
        return np.stack(
            [np.isin(homes, [numbers[home] for home in self.home_documents(query)]) for query in wanted]
        )

    @property
    def main_slice(self) -> Slice:
        """The slice that the verdict is about."""
        return "document" if self.is_within_document else "corpus"


def name_chunk(doc_id: str, index: int) -> str:
    """Name a chunk by its document and its place there."""
    return f"{doc_id}#{index}"


def keep_documents(evalset: EvalSet, doc_ids: Collection[str]) -> EvalSet:
    """Some documents of a set, and the queries that they alone answer."""
    kept = set(doc_ids)
    queries = {
        query: text for query, text in evalset.queries.items() if evalset.home_documents(query) <= kept
    }
    return replace(
        evalset,
        documents=tuple(doc for doc in evalset.documents if doc.doc_id in kept),
        queries=queries,
        golds={query: evalset.golds[query] for query in queries},
    )


def without_queries(evalset: EvalSet) -> EvalSet:
    """Keep the documents alone."""
    return replace(evalset, queries={}, golds={}, gold_spans={}, kinds={})


def sample_set(
    evalset: EvalSet, *, documents: int | None = None, queries: int | None = None, seed: int = 0
) -> EvalSet:
    """Draw documents and queries at random; the same ones every time.

    A sample of documents holds the answers of randomly drawn queries until half of it is full, then any other
    documents. Every query whose answers are all in it is kept, or so many of them.

    Raises:
        InputError: No query is left.
    """
    homes = {query: evalset.home_documents(query) for query in evalset.queries}
    ids = [doc.doc_id for doc in evalset.documents]
    kept = _sample_documents(sorted(ids), homes, documents, seed)
    drawn = [query for query in evalset.queries if homes[query] <= kept]
    if queries is not None and queries < len(drawn):
        chosen = set(random.Random(seed).sample(sorted(drawn), queries))
        drawn = [query for query in drawn if query in chosen]
    if evalset.queries and not drawn:
        raise InputError(
            f"no query of {evalset.name!r} has all its answers in a sample of {documents} of "
            f"{len(ids)} documents; take more documents"
        )
    warnings = list(evalset.warnings)
    if len(kept) < len(ids):
        warnings.append(
            f"{len(kept)} of {len(ids)} documents were drawn: with fewer rivals every figure is higher than "
            "over all of them"
        )
    if len(drawn) < len(evalset.queries):
        warnings.append(f"{len(drawn)} of {len(evalset.queries)} queries were drawn")
    return replace(
        evalset,
        documents=tuple(doc for doc in evalset.documents if doc.doc_id in kept),
        queries={query: evalset.queries[query] for query in drawn},
        golds={query: evalset.golds[query] for query in drawn},
        warnings=tuple(warnings),
    )


def _sample_documents(
    corpus: list[str], homes: dict[str, set[str]], count: int | None, seed: int
) -> set[str]:
    if count is None or count >= len(corpus):
        return set(corpus)
    generator = random.Random(seed)
    kept: set[str] = set()
    for query in generator.sample(sorted(homes), len(homes)):
        if len(kept | homes[query]) > max(count // 2, 1):
            break
        kept |= homes[query]
    for doc_id in generator.sample(corpus, len(corpus)):
        if len(kept) >= count:
            break
        kept.add(doc_id)
    return kept
