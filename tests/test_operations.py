"""Who follows docs/operations.md word for word gets what it says: every block that can be run is run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from rag_embed.cli.app import app
from tests.qdrant_standin import serve

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:6333"
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
DOCUMENTS = {
    "cafe.md": "The café roasts its own beans. It opens at seven in the morning. " * 6,
    "ferry.md": "The ferry leaves the pier every twenty minutes, and bicycles travel free. " * 6,
}


def run_line(line: str) -> str:
    words = shlex.split(line)
    if words[0] != "rag-embed":
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{line}\n{done.stderr}"
    return done.stdout


def run_python(code: str, names: dict[str, object]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/operations.md", "exec"), names)
    assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


def test_the_runbook_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QDRANT_API_KEY", "secret-of-the-test")
    (tmp_path / "docs").mkdir()
    for name, text in DOCUMENTS.items():
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    names: dict[str, object] = {}
    shown: dict[str, str] = {}
    with serve() as server:
        server.api_key = "secret-of-the-test"
        for block in BLOCK.finditer(PAGE):
            if block["before"] != "<!-- run -->":
                continue
            code = block["code"].replace(URL, server.url)
            if block["language"] == "python":
                run_python(code, names)
            else:
                for line in code.splitlines():
                    shown[line.replace(server.url, URL)] = run_line(line)
    copied = next(text for line, text in shown.items() if line.startswith("rag-embed copy --store index"))
    assert re.search(r"equal +True", copied)
    found = next(text for line, text in shown.items() if line.startswith("rag-embed search"))
    assert "opens at seven" in found
    assert server.created["documents-2"].replication_factor == 2
    assert set(server.shard_of["places"].values()) == {"eu", "us"}


def test_every_block_is_run_or_says_that_it_is_not() -> None:
    blocks = list(BLOCK.finditer(PAGE))
    assert len(blocks) == PAGE.count("```") // 2
    run = [block for block in blocks if block["before"] == "<!-- run -->"]
    assert len(run) >= 13
    for block in blocks:
        if block not in run:
            above = PAGE[: block.start("language")].rpartition("```\n")[2]
            assert "**Not run here**" in above, block["code"]
