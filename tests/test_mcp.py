"""An index over the Model Context Protocol, asked by the SDK's own client over both transports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")
pytest.importorskip("typer")
import httpx2
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from typer.testing import CliRunner

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.cli.app import app
from rag_embed.errors import InputError
from rag_embed.serving.index_tools import IndexTools
from rag_embed.serving.token_gate import check_binding
from tests.ports import free_port

CAFE = "The harbour café roasts its own beans. It opens at seven. " * 3
FERRY = (
    "  The ferry leaves the pier every twenty minutes.\n\nBicycles travel free of charge, dogs pay half.\n"
)
LONG = "".join(f"Line {number} of the timetable says when tram {number} leaves.\n" for number in range(400))
TOKEN = "0123456789abcdef0123"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of three documents, of two sources."""
    place = tmp_path_factory.mktemp("mcp") / "store"
    model = ContextualEmbedding(strategy="late")
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=40, chunk_overlap=0), embed_model=model
    )
    documents = [
        Document(text=CAFE, id_="docs/cafe.md", metadata={"source": "docs", "year": 2024}),
        Document(text=FERRY, id_="docs/ferry.md", metadata={"source": "docs", "year": 2025}),
        Document(text=LONG, id_="city/tram.txt", metadata={"source": "city", "open": True}),
    ]
    with QdrantChunkStore("documents", path=place, lexical=True) as store:
        store.add(parser(documents))
    return place


@pytest.fixture(scope="module")
def tools(folder: Path) -> Iterator[IndexTools]:
    with QdrantChunkStore("documents", path=folder, return_vectors=True) as store:
        yield IndexTools(store, ContextualEmbedding(strategy="late"))


def test_a_passage_is_read_at_its_characters(tools: IndexTools) -> None:
    result = tools.search("Do bicycles cost anything on the ferry?", top_k=2)
    best = result.passages[0]
    assert best.document == "docs/ferry.md"
    assert "Bicycles travel free" in best.text
    assert FERRY[best.start : best.end] == best.text
    assert set(best.stages) >= {"meaning", "words"}
    assert [passage.score for passage in result.passages] == sorted(
        (passage.score for passage in result.passages), reverse=True
    )
    read = tools.read("docs/ferry.md", best.start, best.end)
    assert [part.text for part in read.parts] == [best.text]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"source": "city"}, {"city/tram.txt"}),
        ({"year": 2024}, {"docs/cafe.md"}),
        ({"year": "2025", "source": "docs"}, {"docs/ferry.md"}),
        ({"open": True}, {"city/tram.txt"}),
    ],
)
def test_filters_hold(tools: IndexTools, filters: dict[str, Any], expected: set[str]) -> None:
    found = tools.search("When does it leave?", top_k=20, filters=filters)
    assert {passage.document for passage in found.passages} == expected


def test_nothing_is_cut_without_a_word(tools: IndexTools) -> None:
    first = tools.read("city/tram.txt")
    assert (first.start, first.end, first.length) == (0, 8000, len(LONG))
    assert first.notes == [f"{len(LONG) - 8000} more characters follow; read on with start=8000"]
    text, start = "", 0
    while start < first.length:
        part = tools.read("city/tram.txt", start)
        text += "".join(piece.text or "" for piece in part.parts)
        start = part.end
    assert text == LONG
    assert tools.read("docs/ferry.md").notes == []
    listed = tools.list_documents(limit=2)
    assert [each.document for each in listed.documents] == ["city/tram.txt", "docs/cafe.md"]
    assert listed.total == 3
    assert listed.notes == ["1 more documents follow; list on with offset=2"]
    assert [each.document for each in tools.list_documents("CAFE").documents] == ["docs/cafe.md"]
    assert tools.list_documents("zoo").notes == ["there are none whose id contains 'zoo'"]
    assert tools.search("trams", filters={"source": "zoo"}).notes == ["nothing found; try without filters"]


def test_a_server_for_some_documents_shows_no_others(folder: Path, tools: IndexTools) -> None:
    from rag_embed.chat.filters import parse_filters

    narrow = IndexTools(tools._store, tools._embed_model, filters=parse_filters(["source=docs"]))
    assert {p.document for p in narrow.search("trams", top_k=20).passages} == {
        "docs/cafe.md",
        "docs/ferry.md",
    }
    assert narrow.search("trams", filters={"source": "city"}).passages == []
    assert narrow.list_documents().total == 2
    with pytest.raises(InputError, match=r"no document 'city/tram\.txt' among those that may be read"):
        narrow.read("city/tram.txt")
    assert narrow.read("docs/ferry.md").length == len(FERRY)


def command(folder: Path, *arguments: str) -> list[str]:
    return ["-m", "rag_embed.cli", "mcp", "--store", str(folder), *arguments]


@contextmanager
def free_folder(tools: IndexTools) -> Iterator[None]:
    """The embedded engine lets one process in at a time."""
    tools._store._connection.close()
    yield


async def visit(client: Client) -> None:
    """What an agent does: look what there is, search, read around a passage, and get things wrong."""
    names = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(names) == {"search", "read", "list_documents"}
    assert "filters" in names["search"].input_schema["properties"]
    found = await client.call_tool("search", {"query": "When does the café open?", "top_k": 1})
    assert not found.is_error
    assert found.structured_content is not None
    (passage,) = found.structured_content["passages"]
    assert passage["document"] == "docs/cafe.md"
    assert json.loads(found.content[0].text) == found.structured_content  # type: ignore[union-attr]
    span = {"document": passage["document"], "start": passage["start"], "end": passage["end"]}
    read = await client.call_tool("read", span)
    assert read.structured_content is not None
    assert [part["text"] for part in read.structured_content["parts"]] == [
        CAFE[passage["start"] : passage["end"]]
    ]
    listed = await client.call_tool("list_documents", {"contains": "docs/"})
    assert listed.structured_content is not None
    assert listed.structured_content["total"] == 2
    for name, arguments, message in (
        ("read", {"document": "nonesuch"}, "the store has no document 'nonesuch'"),
        ("read", {"document": "docs/ferry.md", "start": 5000}, "has characters 0 to"),
        ("search", {"query": "  "}, "the question is empty"),
        ("search", {"query": "x", "top_k": 0}, "greater than or equal to 1"),
    ):
        wrong = await client.call_tool(name, arguments)
        assert wrong.is_error
        assert message in wrong.content[0].text  # type: ignore[union-attr]


async def test_over_standard_input_and_output(folder: Path, tools: IndexTools) -> None:
    with free_folder(tools):
        server = StdioServerParameters(command=sys.executable, args=command(folder), env=ENVIRONMENT)
        async with Client(server) as client:
            await visit(client)


@asynccontextmanager
async def http_server(folder: Path, *arguments: str) -> AsyncIterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *command(folder, "--http", "--port", str(port), *arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
        assert output == ""


async def test_over_http_with_and_without_the_token(folder: Path, tools: IndexTools) -> None:
    with free_folder(tools):
        async with http_server(folder, "--token", TOKEN) as url, AsyncExitStack() as stack:
            known = await stack.enter_async_context(
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
            )
            async with Client(streamable_http_client(url, http_client=known)) as client:
                await visit(client)
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
                answer = await known.post(url, headers={"Authorization": "", **headers}, json={})
                assert answer.status_code == 401
                assert "asks for its token" in answer.text
            foreign = await known.post(url, headers={"Host": "evil.example"}, json={})
            assert foreign.status_code == 421  # a page elsewhere whose name was made to mean this machine


def test_other_machines_need_a_token(folder: Path) -> None:
    refused = CliRunner().invoke(app, ["mcp", "--http", "--host", "0.0.0.0", "--store", str(folder)])
    assert refused.exit_code == 2
    assert "there is no token" in " ".join(refused.stderr.replace("│", " ").split())
    with pytest.raises(InputError, match="8 characters; expected at least 16"):
        check_binding("127.0.0.1", "8letters")
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_binding(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(InputError, match="other machines reach"):
            check_binding(host, None)
