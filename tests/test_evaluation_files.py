"""Malformed evaluation sets: one error that names file and line, and nothing is kept that makes no sense."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rag_embed.errors import InputError
from rag_embed.evaluation import VectorCache, evaluate, make_arms, read_queries, read_set
from rag_embed.llamaindex import ContextualEmbedding
from tests.evalsets import make_set, write_beir, write_chunked, write_lines

Change = Callable[[Path], None]


def edit(file: str, line: int, **changes: Any) -> Change:
    """Change values of a JSON line; None takes the key away."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
        row = json.loads(lines[line - 1]) | changes
        lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not None})
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def put(file: str, line: int, content: bytes) -> Change:
    """Put a line in the place of another."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_bytes().splitlines()
        lines[line - 1] = content
        (folder / file).write_bytes(b"\n".join(lines) + b"\n")

    return change


def make_folder(file: str) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


def give_spans(cells: str) -> Change:
    content = f"query_id\tdoc_id\tspan\trelevance\nbern-0\td-bern\t0:5\t1\n{cells}\n"
    return lambda folder: (folder / "qrels_spans.tsv").write_text(content) and None


def double(file: str) -> Change:
    def change(folder: Path) -> None:
        lines = (folder / file).read_bytes().splitlines()
        (folder / file).write_bytes(b"\n".join([lines[0], *lines]) + b"\n")

    return change


CHUNKED: dict[str, tuple[Change, str]] = {
    "no JSON": (put("corpus.jsonl", 2, b"{"), "line 2 of .*corpus.jsonl is '{', not JSON"),
    "a list": (
        put("corpus.jsonl", 2, b"[1]"),
        r"line 2 of .*corpus.jsonl is '\[1\]'; expected a JSON object",
    ),
    "nested too deeply": (put("corpus.jsonl", 2, b"[" * 200_000), "line 2 of .*corpus.jsonl is .* not JSON"),
    "no UTF-8": (put("corpus.jsonl", 2, b'{"doc_id": "M\xfcller"}'), "line 2 of .*corpus.jsonl is not UTF-8"),
    "half a character": (
        put("corpus.jsonl", 2, b'{"doc_id": "a", "text": "a \\ud83d b", "chunks": [[0, 5]]}'),
        r"line 2 of .*corpus.jsonl has a wrong 'text'; expected text; U\+D83D is half",
    ),
    "no id": (edit("corpus.jsonl", 2, doc_id=None), "line 2 of .*corpus.jsonl has no 'doc_id', only"),
    "an empty id": (edit("corpus.jsonl", 2, doc_id=""), "line 2 of .*corpus.jsonl has '' in 'doc_id'"),
    "an id that is a list": (
        edit("corpus.jsonl", 2, doc_id=[1]),
        r"line 2 of .*corpus.jsonl has \[1\] in 'doc_id'",
    ),
    "an id twice": (
        double("corpus.jsonl"),
        "line 2 of .*has 'd-berlin' in 'doc_id'; expected one row of each",
    ),
    "no text": (edit("corpus.jsonl", 2, text=None), "line 2 of .*corpus.jsonl has no 'text'"),
    "text that is a number": (
        edit("corpus.jsonl", 2, text=5),
        "line 2 of .*has 5 in 'text'; expected a string",
    ),
    "a title that is a list": (edit("corpus.jsonl", 2, title=["x"]), r"line 2 of .*has \['x'\] in 'title'"),
    "no chunks": (edit("corpus.jsonl", 2, chunks=None), "line 2 of .*corpus.jsonl has no 'chunks'"),
    "chunks that are text": (edit("corpus.jsonl", 2, chunks="0-5"), "line 2 of .*has '0-5' in 'chunks'"),
    "a chunk beyond the text": (
        edit("corpus.jsonl", 2, chunks=[[0, 99_999]]),
        r"line 2 of .*has \[0, 99999\]",
    ),
    "a reversed chunk": (edit("corpus.jsonl", 2, chunks=[[5, 2]]), r"line 2 of .*has \[5, 2\] in 'chunks'"),
    "an empty chunk": (edit("corpus.jsonl", 2, chunks=[[5, 5]]), r"line 2 of .*has \[5, 5\] in 'chunks'"),
    "a negative chunk": (edit("corpus.jsonl", 2, chunks=[[-3, 5]]), r"line 2 of .*has \[-3, 5\] in 'chunks'"),
    "a chunk of three numbers": (edit("corpus.jsonl", 2, chunks=[[0, 5, 9]]), r"line 2 of .*has \[0, 5, 9\]"),
    "a chunk of text": (edit("corpus.jsonl", 2, chunks=[["0", "5"]]), r"line 2 of .*has \['0', '5'\]"),
    "a chunk of truth values": (
        edit("corpus.jsonl", 2, chunks=[[False, True]]),
        r"line 2 of .*has \[False, True\]",
    ),
    "chunks in disorder": (
        edit("corpus.jsonl", 2, chunks=[[9, 20], [0, 9]]),
        "line 2 of .*has a wrong 'chunks'; expected chunks in the order in which they start",
    ),
    "a corpus that is a folder": (make_folder("corpus.jsonl"), "corpus.jsonl cannot be read .*directory"),
    "an empty corpus": (
        lambda f: (f / "corpus.jsonl").write_text("") and None,
        "corpus.jsonl holds no document",
    ),
    "no queries": (
        lambda f: (f / "queries.jsonl").unlink(),
        "there is no .*queries.jsonl; expected queries with",
    ),
    "a query without id": (
        edit("queries.jsonl", 3, query_id=None),
        "line 3 of .*queries.jsonl has no 'query_id'",
    ),
    "a query that is null": (edit("queries.jsonl", 3, text=None), "line 3 of .*queries.jsonl has no 'text'"),
    "a blank query": (edit("queries.jsonl", 3, text="  "), "line 3 of .*queries.jsonl has '  ' in 'text'"),
    "a query twice": (
        double("queries.jsonl"),
        "line 2 of .*queries.jsonl has 'berlin-0' in 'query_id'; expected one",
    ),
    "no judgements": (
        lambda f: (f / "qrels.tsv").unlink(),
        "there is no .*qrels.tsv; expected the set's judgements",
    ),
    "no header": (
        put("qrels.tsv", 1, b"bern-0\td-bern\t0\t1"),
        "line 1 of .*qrels.tsv is .*; expected a header",
    ),
    "spaces for tabs": (
        put("qrels.tsv", 2, b"bern-0 d-bern 0 1"),
        "line 2 of .*qrels.tsv has 1 columns; expected 4",
    ),
    "no number": (
        put("qrels.tsv", 2, b"bern-0\td-bern\tfirst\t1"),
        "line 2 of .*qrels.tsv has 'first' in 'chunk_index'",
    ),
    "a chunk that is not there": (
        put("qrels.tsv", 2, b"bern-0\td-bern\t3\t1"),
        "line 2 of .*has '3' in 'chunk_index'",
    ),
    "chunk -1": (put("qrels.tsv", 2, b"bern-0\td-bern\t-1\t1"), "line 2 of .*has '-1' in 'chunk_index'"),
    "relevance -1": (put("qrels.tsv", 2, b"bern-0\td-bern\t0\t-1"), "line 2 of .*has '-1' in 'relevance'"),
    "relevance 0.5": (put("qrels.tsv", 2, b"bern-0\td-bern\t0\t0.5"), "line 2 of .*has '0.5' in 'relevance'"),
    "a relevance of many digits": (
        put("qrels.tsv", 2, b"bern-0\td-bern\t0\t" + b"9" * 5000),
        "line 2 of .*' ... in 'relevance'|line 2 of .*in 'relevance'",
    ),
    "two opinions": (
        put("qrels.tsv", 3, b"berlin-0\td-berlin\t0\t3"),
        "line 3 of .*qrels.tsv gives 'd-berlin#0' the relevance 3, and a line above it 1",
    ),
    "an unknown document": (
        put("qrels.tsv", 2, b"bern-0\tnone\t0\t1"),
        "line 2 of .*has 'none' in 'doc_id'; expected one",
    ),
    "an unknown query": (
        put("qrels.tsv", 2, b"none\td-bern\t0\t1"),
        "line 2 of .*has 'none' in 'query_id'; expected one",
    ),
    "nothing judged": (
        lambda f: (f / "qrels.tsv").write_text("a\tb\tc\td\n") and None,
        "no query of set .* has an answer: 4 queries, 0 of them judged",
    ),
    "an answer beyond the text": (
        give_spans("bern-0\td-bern\t0:99999\t1"),
        r"line 3 of .*qrels_spans.tsv has \[0, 99999\]",
    ),
    "a reversed answer": (give_spans("bern-0\td-bern\t9:3\t1"), r"line 3 of .*qrels_spans.tsv has \[9, 3\]"),
    "an answer that is no span": (
        give_spans("bern-0\td-bern\t9\t1"),
        r"line 3 of .*qrels_spans.tsv has \[9\]",
    ),
    "an answer in words": (give_spans("bern-0\td-bern\ta:b\t1"), "line 3 of .*qrels_spans.tsv has 'a:b'"),
    "an answer of relevance -1": (
        give_spans("bern-0\td-bern\t0:5\t-1"),
        "line 3 of .*has '-1' in 'relevance'",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHUNKED.values(), ids=CHUNKED)
def test_a_malformed_set_is_refused_by_file_and_line(tmp_path: Path, change: Change, message: str) -> None:
    folder = write_chunked(tmp_path / "cities", make_set(2))
    assert len(read_set(folder).queries) == 4
    change(folder)
    with pytest.raises(InputError) as caught:
        read_set(folder)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 700


BEIR: dict[str, tuple[Change, str]] = {
    "no text": (edit("corpus.jsonl", 2, text=None), "line 2 of .*corpus.jsonl has no 'text'"),
    "a mixed corpus": (put("corpus.jsonl", 2, b'{"doc_id": "a"}'), "line 2 of .*corpus.jsonl has no '_id'"),
    "a score in words": (
        put("qrels/test.tsv", 2, b"bern-0\td-bern\tyes"),
        "line 2 of .*test.tsv has 'yes' in 'score'",
    ),
    "an unknown document": (
        put("qrels/test.tsv", 2, b"bern-0\tnone\t1"),
        "line 2 of .*has 'none' in 'corpus-id'",
    ),
    "no split": (
        lambda f: (f / "qrels" / "test.tsv").unlink(),
        r"qrels has the splits \[\]; expected 'test'",
    ),
}


@pytest.mark.parametrize(("change", "message"), BEIR.values(), ids=BEIR)
def test_a_malformed_beir_set_is_refused_by_file_and_line(
    tmp_path: Path, change: Change, message: str
) -> None:
    folder = write_beir(tmp_path / "cities", make_set(2))
    change(folder)
    with pytest.raises(InputError, match=message):
        read_set(folder)


def test_what_was_found_wrong_is_no_answer(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "cities", make_set(2))
    rows = ["a\tb\tc", "bern-0\td-bern\t2", "bern-0\td-berlin\t-1", "bern-2\td-bern\t0"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    assert read_set(folder).golds == {"bern-0": {"d-bern": 2}}
    folder = write_chunked(tmp_path / "chunked", make_set(2))
    (folder / "qrels.tsv").write_text("a\tb\tc\td\nbern-0\td-bern\t0\t2\nbern-0\td-bern\t1\t0\n")
    assert read_set(folder).golds == {"bern-0": {"d-bern#0": 2}}


def test_files_of_other_systems_are_read(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, and line separators inside of texts end no line and no run."""
    evalset = make_set(2)
    queries = evalset.queries | {"bern-0": "How many gates\u2028has\x85Bern?"}
    folder = write_chunked(tmp_path / "cities", replace(evalset, queries=queries))
    for file in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        lines = (folder / file).read_text(encoding="utf-8").split("\n")
        if file == "queries.jsonl":
            lines = [json.dumps(json.loads(line), ensure_ascii=False) if line else "" for line in lines]
        (folder / file).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = read_set(folder)
    assert found.queries["bern-0"] == queries["bern-0"]
    assert found.documents == evalset.documents


def test_a_document_without_text_is_measured(tmp_path: Path, tiny_folder: Path) -> None:
    folder = write_beir(tmp_path / "cities", make_set(3))
    with (folder / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "empty", "title": "", "text": ""}) + "\n")
    evalset = read_set(folder)
    model = ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")
    arms = make_arms(model, has_titles=True)
    found = evaluate(evalset, arms, model=model, cache=VectorCache(None))
    scores = next(result for result in found.results if result.arm.name == "isolated").scores["corpus"]
    assert torch.isfinite(torch.tensor(scores["nDCG@10"])).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": None, "document": "d-bern", "answer": "tram"}, "has None in 'query'; expected a string"),
        ({"query": " ", "document": "d-bern", "answer": "tram"}, "has ' ' in 'query'; expected a query"),
        ({"query": "?", "document": ["d-bern"], "answer": "tram"}, r"has \['d-bern'\] in 'document'"),
        ({"query": "?", "document": "d-bern"}, "has no 'answer', only"),
        ({"query": "?", "document": "d-bern", "answer": 5}, "has 5 in 'answer'; expected a string"),
        ({"query": "?", "document": "d-bern", "start": "a", "end": 5}, r"has \['a', 5\] in 'start'"),
        ({"query": "?", "document": "d-bern", "start": -4, "end": 5}, r"has \[-4, 5\] in 'start'"),
        ({"query": "?", "document": "d-bern", "start": 9, "end": 5}, r"has \[9, 5\] in 'start'"),
        ({"query": "?", "document": "d-bern", "start": 0, "end": 99_999}, r"has \[0, 99999\] in 'start'"),
        (["?", "d-bern"], "expected a JSON object, an object with query"),
    ],
)
def test_a_malformed_line_of_queries_is_refused_by_file_and_line(
    tmp_path: Path, row: object, message: str
) -> None:
    path = tmp_path / "queries.jsonl"
    write_lines(path, [{"query": "When?", "document": "d-bern", "answer": "monday"}, row])
    with pytest.raises(InputError, match=rf"line 2 of .*queries\.jsonl .*{message}|line 2 of .*{message}"):
        read_queries(path, replace(make_set(2), queries={}, golds={}))
