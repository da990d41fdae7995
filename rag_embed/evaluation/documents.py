"""LlamaIndex documents as a set, with queries that people wrote for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import Document, MetadataMode

from rag_embed.errors import InputError
from rag_embed.evaluation.chunking import cut_document, map_golds
from rag_embed.evaluation.rows import Row, read_rows
from rag_embed.evaluation.sets import EvalDocument, EvalSet, GoldSpan
from rag_embed.spans import CharSpan

_PATH_KEY = "file_path"
_AN_ANSWER = "an object with query, document and answer, or start and end"
_PAGE_SEPARATOR = "\n\n"


def documents_as_set(documents: Sequence[Document], *, name: str, splitter: NodeParser) -> EvalSet:
    """Cut documents into chunks; there are no queries yet.

    What an index embeds in front of a chunk, its file's path, is the title here, so the arms are what the
    index would be. Pages of one file are one document, as they are in the index. Blank documents have no
    chunks and are left out.

    Args:
        documents: As a reader makes them.
        name: Of the set.
        splitter: Any node parser.

    Raises:
        InputError: There is no text.
    """
    pages: dict[str, list[Document]] = {}
    for document in documents:
        pages.setdefault(str(document.metadata.get(_PATH_KEY, document.node_id)), []).append(document)
    cut = [cut_document(_join_pages(doc_id, members), splitter) for doc_id, members in pages.items()]
    chunked = tuple(document for document in cut if document.spans)
    if not chunked:
        raise InputError(f"{len(documents)} documents of {name!r} hold no text; expected some")
    return EvalSet(name, chunked, {}, {}, has_titles=any(document.title for document in chunked))


def _join_pages(doc_id: str, pages: Sequence[Document]) -> EvalDocument:
    text = _PAGE_SEPARATOR.join(page.get_content(metadata_mode=MetadataMode.NONE) for page in pages)
    return EvalDocument(doc_id, str(pages[0].metadata.get(_PATH_KEY, "")), text, (), title_key=_PATH_KEY)


def read_queries(path: Path, evalset: EvalSet) -> EvalSet:
    """Give a set its queries, from a JSONL file.

    Each line is {"query": ..., "document": id, "answer": words of the document that answer it}; in place of
    "answer" there may be "start" and "end", its characters in the document. Lines with the same query
    are several answers to it. An answer that the document holds several times is right wherever it stands.

    Raises:
        InputError: A line is not that, or names a document or an answer that is not there.
    """
    known = {doc.doc_id: doc for doc in evalset.documents}
    answers: dict[str, list[GoldSpan]] = {}
    for row in read_rows(path, expected=_AN_ANSWER):
        query, found = _read_answer(row, known)
        answers.setdefault(query, []).extend(found)
    if not answers:
        raise InputError(f"{path} holds no query; expected {_AN_ANSWER} on each line")
    queries = {f"q{number}": query for number, query in enumerate(answers, start=1)}
    gold_spans = {query_id: tuple(answers[query]) for query_id, query in queries.items()}
    golds = map_golds(evalset.documents, gold_spans)
    if lost := [queries[query_id] for query_id in queries if query_id not in golds]:
        raise InputError(
            f"{len(lost)} queries of {path} are answered by characters that are in no chunk, the first "
            f"is {lost[0]!r}; expected answers that hold more than white space"
        )
    return replace(evalset, queries=queries, golds=golds, gold_spans=gold_spans)


def _read_answer(row: Row, known: dict[str, EvalDocument]) -> tuple[str, list[GoldSpan]]:
    query, doc_id = row.text("query"), row.name("document")
    if not query.strip():
        raise row.wrong("query", "a query that holds more than white space")
    if doc_id not in known:
        raise row.wrong("document", f"one of {sorted(known)[:3]} ...")
    text = known[doc_id].text
    if "start" in row and "end" in row:
        span = row.span("start", [row.values["start"], row.values["end"]], text)
        return query, [GoldSpan(doc_id, span)]
    spans = _find_all(text, row.text("answer"))
    if not spans:
        raise row.wrong("answer", f"words copied from {doc_id!r}")
    return query, [GoldSpan(doc_id, span) for span in spans]


def _find_all(text: str, answer: str) -> list[CharSpan]:
    """Every place of an answer; white space and line breaks may differ."""
    words = answer.split()
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    return [CharSpan(*match.span()) for match in pattern.finditer(text)] if words else []
