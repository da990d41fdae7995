"""Retrieval sets on disk, in two layouts that are told apart by their corpus file.

* BEIR: corpus.jsonl with _id, title, text; queries.jsonl with _id, text; qrels/SPLIT.tsv with query-id,
  corpus-id, score. Documents are judged, not chunks.
* Chunked: corpus.jsonl with doc_id, title, text, chunks ([[start, end], ...] in characters); queries.jsonl
  with query_id, text; qrels.tsv with query_id, doc_id, chunk_index, relevance; where answers are characters
  also qrels_spans.tsv with query_id, doc_id, start:end, relevance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_embed.errors import InputError
from rag_embed.evaluation.sets import EvalDocument, EvalSet, GoldSpan, name_chunk
from rag_embed.spans import CharSpan


def read_set(folder: Path, *, split: str | None = None) -> EvalSet:
    """Read a set in either layout.

    Args:
        folder: Holds corpus.jsonl, queries.jsonl and the judgements.
        split: Of a BEIR set; by default "test", or the only one.

    Raises:
        InputError: A file is missing, or a row is not what the layout says.
    """
    rows = list(_read_rows(folder / "corpus.jsonl"))
    if not rows:
        raise InputError(f"{folder / 'corpus.jsonl'} holds no document")
    if "_id" in rows[0]:
        return _read_beir(folder, rows, split)
    if "doc_id" in rows[0]:
        return _read_chunked(folder, rows)
    raise InputError(
        f"documents in {folder / 'corpus.jsonl'} have the keys {sorted(rows[0])}; expected _id, title, text "
        "(BEIR), or doc_id, title, text, chunks"
    )


def _read_beir(folder: Path, rows: list[dict[str, Any]], split: str | None) -> EvalSet:
    documents = [
        EvalDocument(str(row["_id"]), row.get("title") or "", row["text"], (CharSpan(0, len(row["text"])),))
        for row in rows
    ]
    golds: dict[str, dict[str, int]] = defaultdict(dict)
    for query_id, doc_id, relevance in _read_table(_pick_split(folder, split), 3):
        if int(relevance) > 0:
            golds[query_id][doc_id] = int(relevance)
    queries = {str(row["_id"]): row["text"] for row in _read_rows(folder / "queries.jsonl")}
    return _make_set(folder.name, documents, queries, golds, unit="document")


def _pick_split(folder: Path, split: str | None) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    wanted = split or ("test" if "test" in found else next(iter(found), "test") if len(found) == 1 else None)
    if wanted is None or wanted not in found:
        raise InputError(
            f"{folder / 'qrels'} has the splits {sorted(found)}; expected "
            + (f"{split!r} among them" if split else "'test', or a split by name")
        )
    return found[wanted]


def _read_chunked(folder: Path, rows: list[dict[str, Any]]) -> EvalSet:
    documents = [
        EvalDocument(
            row["doc_id"],
            row.get("title") or "",
            row["text"],
            tuple(CharSpan(*span) for span in row["chunks"]),
        )
        for row in rows
    ]
    golds: dict[str, dict[str, int]] = defaultdict(dict)
    for query_id, doc_id, index, relevance in _read_table(folder / "qrels.tsv", 4):
        golds[query_id][name_chunk(doc_id, int(index))] = int(relevance)
    spans: dict[str, list[GoldSpan]] = defaultdict(list)
    if (folder / "qrels_spans.tsv").is_file():
        for query_id, doc_id, place, relevance in _read_table(folder / "qrels_spans.tsv", 4):
            start, end = place.split(":")
            spans[query_id].append(GoldSpan(doc_id, CharSpan(int(start), int(end)), int(relevance)))
    queries = {str(row["query_id"]): row["text"] for row in _read_rows(folder / "queries.jsonl")}
    return _make_set(
        folder.name,
        documents,
        queries,
        golds,
        gold_spans={query: tuple(found) for query, found in spans.items()},
    )


def _make_set(
    name: str,
    documents: list[EvalDocument],
    queries: dict[str, str],
    golds: dict[str, dict[str, int]],
    **options: Any,
) -> EvalSet:
    """Put a set together; queries that cannot be judged are left out and counted."""
    counts: dict[str, int] = {}
    for doc in documents:
        if doc.doc_id in counts:
            raise InputError(f"set {name!r} has two documents called {doc.doc_id!r}; expected one of each id")
        counts[doc.doc_id] = len(doc.spans)
    judged = {query: golds[query] for query in sorted(golds) if query in queries}
    evalset = EvalSet(
        name=name,
        documents=tuple(doc for doc in documents if doc.spans),
        queries={query: queries[query] for query in judged},
        golds=judged,
        has_titles=any(doc.title for doc in documents),
        **options,
    )
    known = set(evalset.answer_ids)
    for query, answers in judged.items():
        if unknown := [answer for answer in answers if answer not in known]:
            raise InputError(
                f"query {query!r} of set {name!r} is answered by {unknown[0]!r}, which is not in its corpus; "
                "expected judgements of documents and chunks that are there"
            )
    return evalset


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"there is no {path}; expected a set in BEIR layout, or with doc_id and chunks")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"line {number} of {path} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"line {number} of {path} is {line[:40]!r}; expected a JSON object")
            yield row


def _read_table(path: Path, columns: int) -> Iterator[list[str]]:
    """Rows below the header of a tab-separated file."""
    if not path.is_file():
        raise InputError(f"there is no {path}; expected the set's judgements there")
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != columns:
            raise InputError(f"line {number} of {path} has {len(cells)} columns; expected {columns}")
        yield cells
