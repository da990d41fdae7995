"""Training documents out of retrieval sets: pages on a subject, and meetings."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.folders import is_kept_back
from rag_embed import CharSpan
from rag_embed.training.documents import TrainingDocument

PLACEHOLDER = "this condition"


@dataclass(frozen=True, slots=True)
class SetRow:
    """A document of a retrieval set with the questions on it."""

    doc_id: str
    title: str
    text: str
    spans: list[CharSpan]
    pairs: list[tuple[str, int]]


def read_set(folder: Path) -> Iterator[SetRow]:
    """Documents of a set that are not kept back, with the questions meant for training."""
    suffix = "_train" if (folder / "queries_train.jsonl").is_file() else ""
    questions = {row["query_id"]: row["text"] for row in _read_lines(folder / f"queries{suffix}.jsonl")}
    pairs: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in (folder / f"qrels{suffix}.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, index, relevance = line.split("\t")
        if int(relevance) > 0 and query_id in questions:
            pairs[doc_id].append((questions[query_id], int(index)))
    for row in _read_lines(folder / "corpus.jsonl"):
        doc_id = str(row["doc_id"])
        if pairs[doc_id] and not is_kept_back(doc_id):
            spans = [CharSpan(*span) for span in row["chunks"]]
            yield SetRow(doc_id, str(row["title"]).strip(), str(row["text"]), spans, pairs[doc_id])


def replace_name(
    text: str, spans: Sequence[CharSpan], name: str, replacement: str = PLACEHOLDER
) -> tuple[str, list[CharSpan]]:
    """Replace a name in a text piece by piece, so that the chunks keep their borders."""
    pattern = re.compile(re.escape(name), re.IGNORECASE)
    pieces, moved, end, length = [], [], 0, 0
    for span in spans:
        gap = pattern.sub(replacement, text[end : span.start])
        chunk = pattern.sub(replacement, text[span.start : span.end])
        moved.append(CharSpan(length + len(gap), length + len(gap) + len(chunk)))
        pieces += [gap, chunk]
        length += len(gap) + len(chunk)
        end = span.end
    return "".join([*pieces, pattern.sub(replacement, text[end:])]), moved


def read_pages(folder: Path, *, source: str, anonymised: float, headed: float) -> list[TrainingDocument]:
    """Pages on one subject each, named by their title.

    Args:
        folder: A set in the layout of the development sets.
        source: Name of the source.
        anonymised: Share of the pages where the name stands in the title alone: only context can tell what
            their chunks are about.
        headed: Share of the pages whose title stands before every window.
    """
    documents = []
    for row in read_set(folder):
        generator = random.Random(row.doc_id)
        text, spans, head = row.text, row.spans, ""
        if row.title and generator.random() < anonymised:
            text, spans = replace_name(text, spans, row.title)
        if row.title and generator.random() < headed:
            head = f"title: {row.title}\n\n"
        documents.append(TrainingDocument(row.doc_id, text, tuple(spans), tuple(row.pairs), head, source))
    return documents


def read_meetings(folder: Path, *, source: str) -> list[TrainingDocument]:
    """Meetings; a question does not say which one it is on."""
    return [
        TrainingDocument(row.doc_id, row.text, tuple(row.spans), tuple(row.pairs), "", source, True)
        for row in read_set(folder)
    ]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
