"""What the chatbot in the browser stands on: archive, library, conversations of many people, highlighting."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nicegui")
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter

from rag_embed.chat.passages import Passage
from rag_embed.chat.turns import Citation, Quote, Turn
from rag_embed.errors import InputError
from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.llamaindex import LateChunkingNodeParser
from rag_embed.llamaindex.stored_document import StoredDocument
from rag_embed.serving.token_gate import TokenGate
from rag_embed.web.archive import Archive
from rag_embed.web.document_panel import cut_pieces, holds
from rag_embed.web.library import Library
from rag_embed.web.sessions import QUOTES, Choices, Finding, Session, Sessions
from tests.web_llms import FAILURE, TalkativeLLM

TEXT = "  One. Two is here.\n\nThree follows at once. Four was last.\n"
OWNER = "0123abcd-0000-4000-8000-000000000000"
OTHER = "4567abcd-0000-4000-8000-000000000000"


def citation(start: int, end: int, quote: tuple[int, int] | None = None) -> Citation:
    passage = Passage(1, 0.5, 0.5, "doc", start, end, TEXT[start:end])
    return Citation(1, passage, quote and Quote("doc", *quote, TEXT[slice(*quote)], 0.5))


def stored(chunk_size: int = 12) -> StoredDocument:
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0))
    return StoredDocument.from_chunks("doc", parser([Document(text=TEXT, id_="doc")]))


@pytest.mark.parametrize("quote", [None, (7, 19), (21, 43), (15, 30)])
def test_highlighting_covers_its_characters_and_loses_none(quote: tuple[int, int] | None) -> None:
    pieces = cut_pieces(stored(), citation(7, 43, quote), 2, len(TEXT))
    assert "".join(piece.text or "" for piece in pieces) == TEXT[2:]
    assert "".join(piece.text or "" for piece in pieces if piece.is_passage) == TEXT[7:43]
    marked = "".join(piece.text or "" for piece in pieces if piece.is_quote)
    assert marked == (TEXT[slice(*quote)] if quote else "")


def test_a_quote_beside_its_passage_is_marked_too() -> None:
    pieces = cut_pieces(stored(), citation(7, 19, (21, 43)), 0, len(TEXT))
    assert [piece.text for piece in pieces if piece.is_quote] == [TEXT[21:43]]
    assert [piece.text for piece in pieces if piece.is_passage] == [TEXT[7:19]]


def test_a_document_that_changed_is_noticed() -> None:
    document = stored()
    assert holds(document, citation(7, 43))
    changed = dataclasses.replace(citation(7, 43).passage, text="something else")
    assert not holds(document, Citation(1, changed))
    beyond = dataclasses.replace(changed, start=50, end=5000)
    assert not holds(document, Citation(1, beyond))


def test_an_archive_is_private_and_whole(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "chats")
    first, second = "a" * 32, "b" * 32
    archive.save(OWNER, first, title="What\n is <b>this</b>? " + "x" * 100, data={"turns": [1, "é\ud800"]})
    archive.save(OWNER, second, title="Later", data={"turns": []})
    os.utime(next(tmp_path.rglob(f"{first}.json")), (0, 0))
    listed = archive.list_conversations(OWNER)
    assert [each.conversation_id for each in listed] == [second, first]
    assert listed[1].title.startswith("What is <b>this</b>? xxx")
    assert len(listed[1].title) == 80
    assert archive.load(OWNER, first)["turns"] == [1, "é\ud800"]  # type: ignore[index]
    assert archive.list_conversations(OTHER) == []
    assert archive.load(OTHER, first) is None
    for bad in ("../../etc/passwd", "", "..", "a/b", "A" * 32):
        with pytest.raises(InputError, match="no id of a conversation"):
            archive.load(OWNER, bad)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "chats").rglob("*")}
    assert modes == {0}
    assert archive.read_secret() == archive.read_secret() == Archive(tmp_path / "chats").read_secret()
    next(tmp_path.rglob(f"{first}.json")).write_text("{")
    titles = {each.conversation_id: each.title for each in archive.list_conversations(OWNER)}
    assert titles == {first: f"{first} (cannot be read)", second: "Later"}
    with pytest.raises(InputError, match="is not what was saved"):
        archive.load(OWNER, first)
    archive.delete(OWNER, first)
    archive.delete(OWNER, first)
    assert len(archive.list_conversations(OWNER)) == 1


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(Place("documents", tmp_path / "store"), ModelOptions())
    yield made
    made.close()


def quiet(_: str) -> None:
    """Nobody looks at the progress."""


def test_files_join_and_replace_each_by_its_owner(library: Library) -> None:
    stages: list[str] = []
    assert library.count("documents") == 0
    assert library.add("documents", OWNER, "a.txt", b"The ferry leaves at nine.", tell=stages.append) == 1
    assert stages == ["reading", "embedding", "embedding 25 characters"]
    library.add("documents", OTHER, "a.txt", b"The tram leaves at ten.", tell=quiet)
    library.add("documents", OWNER, "a.txt", b"The ferry leaves at eight.", tell=quiet)
    store = library.shelf("documents").store
    texts = {node.ref_doc_id: node.get_content() for node in store.get_nodes()}
    assert texts == {
        "uploads/0123abcd/a.txt": "The ferry leaves at eight.",
        "uploads/4567abcd/a.txt": "The tram leaves at ten.",
    }
    assert library.list_collections() == ["documents"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.txt", b"  \n", "holds no text"),
        ("zip.bin", bytes(range(256)) * 8, "binary"),
        ("..", b"text", "expected a name"),
        ("", b"text", "expected a name"),
        ("broken.docx", b"PK\x03\x04 no", "was not read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_reason(
    library: Library, name: str, data: bytes, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        library.add("documents", OWNER, name, data, tell=quiet)
    assert library.count("documents") == 0


@pytest.mark.parametrize(
    "name", ["../../a.txt", "/etc/a.txt", ".hidden.txt", "a\x00b.txt", "x" * 300 + ".txt"]
)
def test_a_files_name_leads_nowhere(library: Library, name: str) -> None:
    library.add("documents", OWNER, name, b"The ferry leaves at nine.", tell=quiet)
    (document,) = library.shelf("documents").store.count_by_document()
    assert document.startswith("uploads/0123abcd/")
    assert document.count("/") == 2
    assert document.endswith(".txt")


@pytest.fixture
async def sessions(library: Library, tmp_path: Path) -> AsyncIterator[Sessions]:
    text = "".join(f"Person {n} keeps the number {1000 + n}.\n\n" for n in range(20))
    library.add("documents", OWNER, "people.txt", text.encode(), tell=quiet)
    yield Sessions(library, Archive(tmp_path / "chats"), {"Talk": TalkativeLLM()}, Finding())


async def finished(session: Session) -> Turn:
    while session.answering is not None:
        await asyncio.sleep(0.01)
    return session.turns[-1]


async def test_twenty_people_at_once_each_get_their_own_answers(sessions: Sessions) -> None:
    people = [sessions.begin(f"{n:08x}{OWNER[8:]}") for n in range(20)]
    for round_number in range(2):
        for number, session in enumerate(people):
            sessions.ask(session, f"What does person {number} keep, round {round_number}?")
        await asyncio.gather(*map(finished, people))
    for number, session in enumerate(people):
        assert len(session.turns) == 2
        for round_number, turn in enumerate(session.turns):
            own = f"What does person {number} keep, round {round_number}?"
            assert turn.question == own
            assert turn.answer.startswith(f"You asked: {own}")
            assert turn.error is None
            assert turn.citations
        archived = sessions.archive.load(session.owner, session.session_id)
        assert archived is not None
        assert [turn["question"] for turn in archived["turns"]] == [turn.question for turn in session.turns]
        assert len(sessions.archive.list_conversations(session.owner)) == 1


async def test_what_fails_or_is_stopped_stays_and_is_asked_again(sessions: Sessions) -> None:
    session = sessions.begin(OWNER)
    sessions.ask(session, "fail now")
    turn = await finished(session)
    assert FAILURE in (turn.error or "")
    assert turn.answer.startswith("You asked:")
    sessions.ask(session, "go slowly")
    with pytest.raises(InputError, match="still being answered"):
        sessions.ask(session, "me too")
    while session.answering is None or not session.answering.text:
        await asyncio.sleep(0.01)
    sessions.stop(session)
    turn = await finished(session)
    assert "stopped" in (turn.error or "")
    assert turn.answer.startswith("You")
    session.choices = Choices("documents", QUOTES)
    sessions.retry(session)
    turn = await finished(session)
    assert [each.question for each in session.turns] == ["fail now", "go slowly"]
    assert turn.error is None
    with pytest.raises(InputError, match="the question is empty"):
        sessions.ask(session, " \n")


async def test_choices_hold_and_come_back(sessions: Sessions) -> None:
    session = sessions.begin(OWNER, Choices("documents", QUOTES, ("source=nowhere",)))
    sessions.ask(session, "What does person 3 keep?")
    assert (await finished(session)).citations == ()
    key = session.session_id
    choices = session.choices
    del session
    again = sessions.find(OWNER, key)
    assert again is not None
    assert again.choices == choices
    assert again.turns[0].question == "What does person 3 keep?"
    assert sessions.find(OTHER, key) is None
    again.choices = Choices("documents", QUOTES, ("source=uploads",))
    sessions.retry(again)
    turn = await finished(again)
    assert turn.citations[0].passage.document == "uploads/0123abcd/people.txt"
    again.choices = Choices("nonesuch", QUOTES)
    sessions.ask(again, "What does person 4 keep?")
    assert "no collection 'nonesuch'" in ((await finished(again)).error or "")
    sessions.forget(again)
    assert sessions.archive.list_conversations(OWNER) == []


def test_files_from_many_threads_are_all_there(library: Library) -> None:
    def add(number: int) -> int:
        owner = f"{number % 3:08x}{OWNER[8:]}"
        return library.add("documents", owner, f"{number}.txt", f"Tram {number} leaves.".encode(), tell=quiet)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(add, range(12))) == [1] * 12
    assert library.count("documents") == 12


async def test_a_person_opens_the_gate_once_with_the_token() -> None:
    token = "0123456789abcdef&=?"
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def visit(
        kind: str = "http", query: str = "", cookie: str = "", path: str = "/c/1"
    ) -> dict[str, Any]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"cookie", cookie.encode("latin-1"))] if cookie else []
        scope = {
            "type": kind,
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
        }
        await TokenGate(app, token)(scope, app, send)  # type: ignore[arg-type]
        return sent[0] if sent else {}

    assert (await visit())["status"] == 401
    assert (await visit(query="token=wrong"))["status"] == 401
    assert (await visit("websocket"))["type"] == "websocket.close"
    for broken in ("rag_embed_token=wrong", "rag_embed_token=\xe9", ";;;=", 'rag_embed_token="'):
        assert (await visit(cookie=broken))["status"] == 401
    assert passed == []
    opened = await visit(query="token=0123456789abcdef%26%3D%3F", path="//evil.example/x")
    assert opened["status"] == 303
    headers = dict(opened["headers"])
    assert headers[b"location"] == b"/evil.example/x"
    assert b"HttpOnly" in headers[b"set-cookie"]
    cookie = headers[b"set-cookie"].decode().partition("; ")[0]
    await visit(cookie=f"other=1; {cookie}")
    await visit("websocket", cookie=cookie)
    assert passed == ["http", "websocket"]
