"""Retrieval sets on disk, in two layouts that are told apart by their corpus file.

* BEIR: corpus.jsonl with _id, title, text; queries.jsonl with _id, text; qrels/SPLIT.tsv with query-id,
  corpus-id, score. Documents are judged, not chunks. A score of zero or less, which TREC gives to what was
  found wrong, is no answer.
* Chunked: corpus.jsonl with doc_id, title, text, chunks ([[start, end], ...] in characters); queries.jsonl
  with query_id, text; qrels.tsv with query_id, doc_id, chunk_index, relevance; where answers are characters
  also qrels_spans.tsv with query_id, doc_id, start:end, relevance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rag_embed.errors import InputError
from rag_embed.evaluation.rows import Row, read_rows, read_table
from rag_embed.evaluation.sets import EvalDocument, EvalSet, GoldSpan, name_chunk
from rag_embed.spans import CharSpan

_MOST_RELEVANT = 1000
_Made = TypeVar("_Made")
_A_SET = "a set in BEIR layout, or with doc_id and chunks"


def read_set(folder: Path, *, split: str | None = None) -> EvalSet:
    """Read a set in either layout.

    Args:
        folder: Holds corpus.jsonl, queries.jsonl and the judgements.
        split: Of a BEIR set; by default "test", or the only one.

    Raises:
        InputError: A file is missing, or a row is not what the layout says; file and line are named.
    """
    path = folder / "corpus.jsonl"
    rows = list(read_rows(path, expected=_A_SET))
    if not rows:
        raise InputError(f"{path} holds no document; expected {_A_SET}")
    if "_id" in rows[0]:
        return _read_beir(folder, rows, split)
    if "doc_id" in rows[0]:
        return _read_chunked(folder, rows)
    raise InputError(
        f"documents in {path} have the keys {sorted(rows[0].values)}; expected _id, title, text (BEIR), or "
        "doc_id, title, text, chunks"
    )


def _read_beir(folder: Path, rows: list[Row], split: str | None) -> EvalSet:
    documents = _collect(rows, "_id", _beir_document)
    queries = _read_queries(folder, "_id")
    golds: dict[str, dict[str, int]] = defaultdict(dict)
    columns = ("query-id", "corpus-id", "score")
    for row in read_table(_pick_split(folder, split), columns, expected="the set's judgements"):
        query, doc_id = _known(row, columns[0], queries), _known(row, columns[1], documents)
        relevance = row.number(columns[2], least=-_MOST_RELEVANT, most=_MOST_RELEVANT)
        _judge(golds[query], doc_id, relevance, row)
    return _make_set(folder, documents, queries, golds, unit="document")


def _beir_document(row: Row) -> EvalDocument:
    text = row.text("text")
    return EvalDocument(row.name("_id"), row.text("title", default=""), text, (CharSpan(0, len(text)),))


def _pick_split(folder: Path, split: str | None) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    wanted = split or ("test" if "test" in found else next(iter(found), "test") if len(found) == 1 else None)
    if wanted is None or wanted not in found:
        raise InputError(
            f"{folder / 'qrels'} has the splits {sorted(found)}; expected "
            + (f"{split!r} among them" if split else "'test', or a split by name")
        )
    return found[wanted]


def _read_chunked(folder: Path, rows: list[Row]) -> EvalSet:
    documents = _collect(rows, "doc_id", _chunked_document)
    queries = _read_queries(folder, "query_id")
    golds: dict[str, dict[str, int]] = defaultdict(dict)
    columns = ("query_id", "doc_id", "chunk_index", "relevance")
    for row in read_table(folder / "qrels.tsv", columns, expected="the set's judgements"):
        query, doc_id = _known(row, "query_id", queries), _known(row, "doc_id", documents)
        index = row.number("chunk_index", most=len(documents[doc_id].spans) - 1)
        _judge(golds[query], name_chunk(doc_id, index), row.number("relevance", most=_MOST_RELEVANT), row)
    spans: dict[str, list[GoldSpan]] = defaultdict(list)
    path = folder / "qrels_spans.tsv"
    if path.exists():
        columns = ("query_id", "doc_id", "start:end", "relevance")
        for row in read_table(path, columns, expected="the set's answers as characters"):
            query, doc_id = _known(row, "query_id", queries), _known(row, "doc_id", documents)
            relevance = row.number("relevance", most=_MOST_RELEVANT)
            span = row.span("start:end", _parse_span(row.text("start:end")), documents[doc_id].text)
            if relevance:
                spans[query].append(GoldSpan(doc_id, span, relevance))
    return _make_set(
        folder,
        documents,
        queries,
        golds,
        gold_spans={query: tuple(found) for query, found in spans.items()},
    )


def _chunked_document(row: Row) -> EvalDocument:
    text, chunks = row.text("text"), row.values.get("chunks")
    if not isinstance(chunks, list):
        raise row.wrong("chunks", "a list of [start, end]")
    spans = tuple(row.span("chunks", chunk, text) for chunk in chunks)
    if list(spans) != sorted(spans):
        raise row.wrong("chunks", "chunks in the order in which they start", shown=False)
    return EvalDocument(row.name("doc_id"), row.text("title", default=""), text, spans)


def _parse_span(cell: str) -> object:
    """Read "3:9" as numbers; what is no such thing stays as it is, for the message."""
    numbers = cell.split(":")
    return [int(number) for number in numbers] if all(map(_is_number, numbers)) else cell


def _is_number(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal() and len(cell) < 20


def _read_queries(folder: Path, key: str) -> dict[str, str]:
    rows = read_rows(folder / "queries.jsonl", expected=f"queries with {key} and text")
    return _collect(rows, key, _query_text)


def _query_text(row: Row) -> str:
    text = row.text("text")
    if not text.strip():
        raise row.wrong("text", "a query that holds more than white space")
    return text


def _collect(rows: Iterable[Row], key: str, make: Callable[[Row], _Made]) -> dict[str, _Made]:
    """Make something of every row, by id; two of one id are refused."""
    found: dict[str, _Made] = {}
    for row in rows:
        name = row.name(key)
        if name in found:
            raise row.wrong(key, "one row of each id; there was one above")
        found[name] = make(row)
    return found


def _known(row: Row, key: str, known: Mapping[str, object]) -> str:
    name = row.name(key)
    if name not in known:
        raise row.wrong(key, f"one of the set's, such as {next(iter(known), None)!r}")
    return name


def _judge(answers: dict[str, int], answer: str, relevance: int, row: Row) -> None:
    """Take in a judgement; what is not relevant is no answer."""
    if answers.setdefault(answer, relevance) != relevance:
        raise InputError(
            f"{row.place} gives {answer!r} the relevance {relevance}, and a line above it "
            f"{answers[answer]} for the same query; expected one judgement"
        )


def _make_set(
    folder: Path,
    documents: Mapping[str, EvalDocument],
    queries: Mapping[str, str],
    golds: Mapping[str, Mapping[str, int]],
    **options: Any,
) -> EvalSet:
    """Put a set together; queries without an answer are left out."""
    relevant = {
        query: {answer: relevance for answer, relevance in golds[query].items() if relevance > 0}
        for query in sorted(golds)
    }
    judged = {query: answers for query, answers in relevant.items() if answers}
    if not judged:
        raise InputError(
            f"no query of set {str(folder)!r} has an answer: {len(queries)} queries, {len(golds)} of them "
            "judged; expected at least one judgement with a relevance above zero"
        )
    return EvalSet(
        name=folder.name,
        documents=tuple(doc for doc in documents.values() if doc.spans),
        queries={query: queries[query] for query in judged},
        golds=judged,
        has_titles=any(doc.title for doc in documents.values()),
        **options,
    )
