"""The examples, run as they are."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port

FERRY = "Bicycles travel free of charge on the ferry, dogs pay half."
EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> Callable[..., None]:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[..., None] = module.main
    return main


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


def test_drop_in(capsys: pytest.CaptureFixture[str]) -> None:
    load("drop_in")()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("  assert:" in line for line in lines)


def test_qdrant_server_in_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDRANT_URL", raising=False)
    load("qdrant_server")()
    first, second = capsys.readouterr().out.splitlines()
    assert "a-leave" in first
    assert "a-travel" in second  # and nothing of the other tenant


@pytest.mark.server
@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL is not set")
def test_qdrant_server(capsys: pytest.CaptureFixture[str]) -> None:
    from rag_embed import QdrantChunkStore

    name = f"example-{uuid.uuid4()}"
    try:
        load("qdrant_server")(name)
        assert "a-leave" in capsys.readouterr().out.splitlines()[0]
    finally:
        url, key = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY")
        with QdrantChunkStore(name, url=url, api_key=key) as store:
            store.clear()


def test_hybrid_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "pump.txt").write_text("The feed pump stands in the cellar. Fault E-4711: its seal leaks.")
    (folder / "fan.txt").write_text("The fan stands on the roof. Fault E-4712: its belt has slipped.")
    (folder / "garden.txt").write_text("Roses are cut back in March. They need little water in winter.")
    load("hybrid_search")(str(folder), "What does E-4711 mean?", str(tmp_path / "data"))
    first, text = capsys.readouterr().out.splitlines()[:2]
    assert first.split()[1] == "pump.txt"
    for stage in ("dense_score", "lexical_score", "retrieval_score", "late_interaction_score"):
        assert stage in first
    assert "feed pump" in text


def test_ingestion_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    load("ingestion_pipeline")()
    first, again, changed = capsys.readouterr().out.splitlines()
    assert first.startswith("first run: 2 chunks embedded")
    assert again == "the same again: 0 chunks embedded (0 tokens), 2 in the store"
    assert changed.startswith("one document changed: 1 chunks embedded")
    assert changed.endswith("2 in the store")


@pytest.mark.parametrize("llm", [(), ("llama_index.core.llms:MockLLM", "max_tokens=3")])
def test_terminal_chatbot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, llm: tuple[str, ...]
) -> None:
    (tmp_path / "ferry.txt").write_text("The ferry leaves every hour. Dogs pay half.", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("What do dogs pay?\n/quit\n"))
    load("terminal_chatbot")(str(tmp_path), *llm)
    answer, *rest = capsys.readouterr().out.splitlines()
    assert answer == ("text text text" if llm else "Dogs pay half.")
    assert any(line.startswith("[1] ") and "ferry.txt:" in line for line in rest)


def test_citation_query_engine(capsys: pytest.CaptureFixture[str]) -> None:
    load("citation_query_engine")()
    sources = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert sources[0].startswith("[1] assert ")


@pytest.fixture
def ferry_store(tmp_path: Path) -> str:
    """Folder of an index that the command line has made."""
    from typer.testing import CliRunner

    from rag_embed.cli.app import app

    folder, store = tmp_path / "texts", str(tmp_path / "store")
    folder.mkdir()
    (folder / "ferry.txt").write_text(FERRY)
    assert CliRunner().invoke(app, ["index", str(folder), "--store", store]).exit_code == 0
    return store


def test_mcp_client(ferry_store: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    load("mcp_client")(ferry_store, "What do dogs pay?")
    tools, passage = capfd.readouterr().out.splitlines()
    assert tools == "tools: list_documents, read, search"
    assert passage.endswith(f"ferry.txt:0-{len(FERRY)} {FERRY}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LlamaIndex's own
def test_agent(ferry_store: str, capsys: pytest.CaptureFixture[str]) -> None:
    load("agent")(ferry_store, "What do dogs pay?")
    assert capsys.readouterr().out == f"texts/ferry.txt:0-{len(FERRY)}: {FERRY}\n"


def test_web_chatbot(ferry_store: str) -> None:
    pytest.importorskip("nicegui", reason="needs the extra web")
    port = str(free_port())
    command = [sys.executable, EXAMPLES / "web_chatbot.py", ferry_store, port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            page = wait_for(f"http://127.0.0.1:{port}/", process)
        finally:
            process.terminate()
    assert "documents" in page  # the collection that is shown
    assert "repeats its prompt" in page


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 60.0) -> str:
    """What a server says as soon as it listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                return str(response.read().decode())
        except urllib.error.URLError:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)


@pytest.mark.slow
def test_ray_ingestion(tmp_path: Path) -> None:
    pytest.importorskip("llama_index.ingestion.ray", reason="needs the extra ray")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "ferry.txt").write_text(FERRY)
    (folder / "pump.txt").write_text("The feed pump stands in the cellar.")
    command = [sys.executable, EXAMPLES / "ray_ingestion.py", folder, "--store", tmp_path / "store"]
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment = {**os.environ, **ray, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "2 chunks, 2 of them embedded now\n" in done.stdout
