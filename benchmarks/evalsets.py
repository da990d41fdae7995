"""Retrieval sets: documents cut into chunks, queries, and which chunks answer them."""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from benchmarks.report import ROOT
from rag_embed import CharSpan

DEFAULT_DOCUMENTS = {
    "cuad_small": 20,
    "covidqa": 15,
    "anthropic_codebase": 60,
    "chroma_chunking": 3,
    "qmsum_train": 5,
    "medquad_train": 150,
    "scifact": 350,
}
"""Sets, and how many of their documents; chosen so that all take a quarter of an hour on two cores."""
_TITLES_FROM_GOLDS = {"anthropic_codebase"}
_WITHIN_DOCUMENT = {"qmsum_train"}


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document and the given borders of its chunks."""

    doc_id: str
    title: str
    text: str
    spans: tuple[CharSpan, ...]

    @property
    def chunks(self) -> list[str]:
        """Text of each chunk."""
        return [self.text[span.start : span.end] for span in self.spans]


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Documents, queries and judgements.

    Attributes:
        name: Folder of the set.
        documents: All, or a sample.
        queries: Text by id; only those whose answers all stand in the documents.
        golds: Ids of the answering chunks ("document#index") by query.
        has_titles: Whether titles may be used and would tell documents apart.
        is_within_document: Whether only the right document's chunks compete.
    """

    name: str
    documents: tuple[ChunkedDocument, ...]
    queries: dict[str, str]
    golds: dict[str, dict[str, int]]
    has_titles: bool
    is_within_document: bool

    @property
    def chunk_ids(self) -> list[str]:
        """Of all documents, in order."""
        return [f"{doc.doc_id}#{i}" for doc in self.documents for i in range(len(doc.spans))]

    @property
    def chunk_texts(self) -> list[str]:
        """Of all documents, in order."""
        return [chunk for doc in self.documents for chunk in doc.chunks]

    def competing(self) -> Bool[np.ndarray, "queries chunks"]:
        """Which chunks compete for which query."""
        if not self.is_within_document:
            return np.ones((len(self.queries), len(self.chunk_ids)), dtype=bool)
        homes = np.array([doc.doc_id for doc in self.documents for _ in doc.spans])
        right = [next(iter(self.golds[query])).rpartition("#")[0] for query in self.queries]
        return homes[None, :] == np.array(right)[:, None]


def sets_folder() -> Path:
    """Where the sets are: $RAG_EMBED_EVAL, or ../shared/eval beside the repository."""
    return Path(os.environ.get("RAG_EMBED_EVAL", ROOT / ".." / "shared" / "eval"))


def load_set(name: str, *, documents: int | None, seed: int = 0) -> EvalSet:
    """Read a set, or a random sample of its documents.

    A sample holds the answers of randomly drawn queries until half of it is full, then any other documents.
    Every query whose answers are all in it is kept.
    """
    folder = sets_folder() / name
    corpus = {row["doc_id"]: row for row in _read_lines(folder / "corpus.jsonl")}
    texts = {row["query_id"]: row["text"] for row in _read_lines(folder / "queries.jsonl")}
    golds: dict[str, dict[str, int]] = defaultdict(dict)
    homes: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, index, relevance = line.split("\t")
        golds[query_id][f"{doc_id}#{index}"] = int(relevance)
        homes[query_id].add(doc_id)
    kept = _sample(sorted(corpus), homes, documents, seed)
    queries = {query: texts[query] for query in sorted(homes) if query in texts and homes[query] <= kept}
    return EvalSet(
        name=name,
        documents=tuple(
            ChunkedDocument(
                doc_id, row["title"], row["text"], tuple(CharSpan(*span) for span in row["chunks"])
            )
            for doc_id, row in corpus.items()
            if doc_id in kept
        ),
        queries=queries,
        golds={query: golds[query] for query in queries},
        has_titles=name not in _TITLES_FROM_GOLDS | _WITHIN_DOCUMENT,
        is_within_document=name in _WITHIN_DOCUMENT,
    )


def _sample(corpus: list[str], homes: dict[str, set[str]], count: int | None, seed: int) -> set[str]:
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


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
