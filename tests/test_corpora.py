"""Free texts to train on: what their headings ask is answered by what follows the heading."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.asking import ask
from corpora.texts import Text, read_manuals

PARAGRAPH = (
    "The harbour of {0} was built in the year of the great flood, and {0} still lives by its {1} and boats. "
)
PAGE = """<html lang="{language}"><head><title>{title}</title><style>p {{ color: red }}</style></head><body>
<nav><a href="x">Home</a> <a href="y">Next page</a></nav>
<h1>{title}</h1><p>{first}</p><h2>2.1. How to moor a boat</h2><p>{second}</p></body></html>"""


def make_text(number: int) -> Text:
    name = f"Port{number}"
    first, heading = PARAGRAPH.format(name, "fish") * 8, f"Sailing to {name} alone\n"
    text = first + heading + PARAGRAPH.format(name, "salt") * 8
    start = len(first)
    return Text(
        f"doc{number}",
        name,
        text,
        ((f"Sailing to {name} alone", slice(start, start + len(heading)), start + len(heading)),),
    )


def test_headings_and_sentences_are_taken_out_and_their_chunk_is_the_answer() -> None:
    texts = [make_text(number) for number in range(20)]
    documents = ask(texts, source="ports", clozes=2)
    assert [document.doc_id for document in documents] == [text.doc_id for text in texts]
    asked_headings = 0
    for number, document in enumerate(documents):
        for question, chunk in document.pairs:
            span = document.spans[chunk]
            answer = document.text[span.start : span.end]
            assert answer.strip()
            if question == f"Sailing to Port{number} alone":
                asked_headings += 1
                assert "salt" in answer and "Sailing" not in document.text
    assert asked_headings >= 5
    assert sum(len(document.pairs) for document in documents) >= 40
    heads = [document.head for document in documents]
    assert heads.count("") + sum(head == f"title: Port{i}\n\n" for i, head in enumerate(heads)) == 20
    assert 0 < heads.count("") < 20


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAG_EMBED_CORPORA", str(tmp_path))
    (tmp_path / "harbours").mkdir()
    return tmp_path / "harbours"


def test_a_page_is_read_without_its_navigation_and_with_its_headings(pages: Path) -> None:
    first, second = PARAGRAPH.format("Aldport", "fish") * 15, PARAGRAPH.format("Aldport", "salt") * 15
    for language in ("en", "fr"):
        page = PAGE.format(language=language, title=f"Harbours ({language})", first=first, second=second)
        (pages / f"{language}.html").write_text(page)
    (text,) = read_manuals(["harbours"], limit=5)
    assert text.title == "Harbours (en)"
    assert "Next page" not in text.text and "color" not in text.text
    ((question, place, start),) = text.headings
    assert question == "How to moor a boat"
    assert text.text[place].strip() == "2.1. How to moor a boat"
    assert text.text[start:].strip().startswith(second[:40])


def test_a_package_that_was_not_fetched_is_named(pages: Path) -> None:
    with pytest.raises(SystemExit, match="bridges is not in"):
        read_manuals(["bridges"], limit=1)
