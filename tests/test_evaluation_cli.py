"""`rag-embed evaluate` on folders and sets, with a tiny encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner, Result

from rag_embed.cli.app import app
from rag_embed.loading import load_encoder
from tests.evalsets import make_set, write_beir, write_chunked, write_lines

Run = Callable[..., Result]

TEXT = (
    "The {0} opened in the year of the great flood and has kept its doors open ever since then. "
    "Visitors find a garden with old apple trees behind the house. "
    "On sundays a choir sings in the hall, and children may ring the small bell above the gate."
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("museum", "library", "archive", "castle"):
        parts = (TEXT.format(name), TEXT.format("tower").replace("garden", f"{name} yard"))
        (folder / f"{name}.md").write_text("\n\n".join(parts), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path) -> Run:
    def run_command(*arguments: object) -> Result:
        words = ["evaluate", "--model", tiny_folder, "--cache", tmp_path / "cache", *arguments]
        return CliRunner().invoke(app, [str(word) for word in words])

    return run_command


def succeed(result: Result):
    assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    return json.loads(result.stdout) if result.stdout.startswith("{") else None


def test_a_folder_without_queries_gets_proxies_and_is_told_so(run, docs, tmp_path, tiny_folder):
    page = tmp_path / "report.html"
    words = ("--docs", docs, "--chunk-size", "64", "--limit-queries", "5")
    found = succeed(run(*words, "--html", page, "--json"))
    assert (found["documents"], found["queries"]) == (4, 5)
    assert any("The 5 queries are PROXIES" in warning for warning in found["warnings"])
    assert {arm["arm"] for arm in found["arms"]} >= {"bm25", "isolated", "title + blend 0.6"}
    assert sum(arm["is_default"] for arm in found["arms"]) == 1
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    encoder = load_encoder(str(tiny_folder), batch_tokens=1024)
    before, kept = encoder.forward_count, (tmp_path / "cache" / "vectors.sqlite").read_bytes()
    again = run(*words)
    succeed(again)
    assert (tmp_path / "cache" / "vectors.sqlite").read_bytes() == kept
    # A second run embeds nothing but what it times: the same few documents and questions for each arm.
    timed = encoder.forward_count - before
    third = succeed(run(*words, "--json"))
    assert encoder.forward_count - before == 2 * timed
    assert [arm["slices"] for arm in third["arms"]] == [arm["slices"] for arm in found["arms"]]
    assert found["verdict"]["sentence"].split(":")[0].split(",")[0] in again.stdout.replace("\n", " ")
    assert "plain queries: " in again.stdout and "over isolated" in again.stdout


def test_written_queries_are_used(run, docs, tmp_path):
    path = tmp_path / "queries.jsonl"
    rows = [
        {"query": f"What is behind the {name}?", "document": f"docs/{name}.md", "answer": f"a {name} yard"}
        for name in ("museum", "castle")
    ]
    write_lines(path, rows)
    found = succeed(
        run("--docs", docs, "--queries", path, "--chunk-size", "64", "--arms", "late, bm25", "--json")
    )
    assert found["queries"] == 2 and not any("PROXIES" in warning for warning in found["warnings"])
    assert [arm["arm"] for arm in found["arms"]] == ["bm25", "isolated", "late"]


def test_what_cannot_be_read_is_named_and_changes_the_exit_code(run, docs, tmp_path):
    page = tmp_path / "report.html"
    words = ("--docs", docs, "--chunk-size", "64", "--limit-queries", "5", "--arms", "bm25", "--html", page)
    succeed(run(*words))
    (docs / "print.ps").write_text("%!PS-Adobe-3.0 /Helvetica findfont", encoding="utf-8")
    page.unlink()
    found = run(*words, "--json")
    assert found.exit_code == 4
    assert json.loads(found.stdout)["documents"] == 4 and page.is_file()
    assert "not read docs/print.ps: " in found.stderr
    for path in docs.glob("*.md"):
        path.unlink()
    assert run(*words).exit_code == 1


@pytest.mark.parametrize(("write", "unit_count"), [(write_chunked, 24), (write_beir, 8)])
def test_both_layouts_are_read(run, tmp_path, write, unit_count):
    folder = write(tmp_path / "cities", make_set())
    found = succeed(run("--set", folder, "--arms", "late", "--json"))
    assert (found["chunks"], found["queries"]) == (unit_count, 16)
    cut = succeed(
        run("--set", folder, "--arms", "late", "--chunk-size", "24", "--limit-documents", "4", "--json")
    )
    assert cut["documents"] == 4 and cut["chunks"] > 4
    assert any("4 of 8 documents were drawn" in warning for warning in cut["warnings"])


def test_flags_decide_what_is_compared(run, tmp_path):
    folder = write_chunked(tmp_path / "cities", make_set(3))
    found = succeed(
        run("--set", folder, "--no-titles", "--within-document", "--alpha", "0.2", "--rerank", "--json")
    )
    names = [arm["arm"] for arm in found["arms"]]
    assert found["main_slice"] == "document"
    assert (
        "blend 0.2" in names and "blend 0.2 + late interaction" in names and "title + isolated" not in names
    )


def test_wrong_usage_and_missing_things_have_their_exit_codes(run, docs, tmp_path):
    assert run().exit_code == 2
    assert run("--docs", docs, "--set", docs).exit_code == 2
    assert run("--set", docs, "--queries", docs / "museum.md").exit_code == 2
    assert run("--docs", tmp_path / "none").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert run("--docs", tmp_path / "empty").exit_code == 3
    failed = run("--set", tmp_path / "empty")
    assert failed.exit_code == 1 and "there is no" in failed.stderr
    failed = run("--docs", docs, "--chunk-size", "64", "--arms", "nothing")
    assert failed.exit_code == 1 and "there is no arm 'nothing'" in failed.stderr.replace("\n", " ")
