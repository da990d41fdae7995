"""Whatever an operating system, a file or a third party does: one message and an exit code."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")
from llama_index.core.schema import TextNode
from tenacity import Future, RetryError
from typer.testing import CliRunner, Result

from rag_embed import QdrantChunkStore
from rag_embed.chat.filters import parse_filters
from rag_embed.cli import main
from rag_embed.cli.app import app
from rag_embed.files import reading
from rag_embed.files.faults import describe
from tests.evalsets import make_set, write_chunked

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path) -> Run:
    def run_command(*arguments: object, **options: str | bytes) -> Result:
        place = [] if arguments[0] == "evaluate" else ["--store", tmp_path / "store"]
        words = (*arguments, *place, *([] if arguments[0] == "info" else ["--model", tiny_folder]))
        return CliRunner().invoke(app, [str(word) for word in words], **options)  # type: ignore[arg-type]

    return run_command


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class PanicException(BaseException):
    """What an engine written in Rust raises; no Exception."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "error: Permission denied: /data/x\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (MemoryError(), "error: there is not enough memory"),
        (PanicException("index out of bounds"), "error: PanicException: index out of bounds (unforeseen"),
        (ZeroDivisionError("division by zero"), "error: ZeroDivisionError: division by zero (unforeseen"),
    ],
)
def test_whatever_is_raised_becomes_one_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(reading, "read_folder", fail)
    result = run("index", write(tmp_path / "docs", {"a.txt": "Text."}))
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("RAG_EMBED_TRACEBACK", "1")
    assert "Traceback" in run("index", tmp_path / "docs").stderr


def test_a_retry_is_described_by_what_failed() -> None:
    attempt = Future(1)
    attempt.set_exception(ValueError("File has not been decrypted"))
    wrapped = Exception("Error loading file")
    wrapped.__cause__ = RetryError(attempt)
    assert describe(wrapped) == "ValueError: File has not been decrypted"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_run_with_one_line_and_its_children(
    run: Run,
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    docs = write(tmp_path / "docs", {"a.txt": "Text.", "b.txt": "More.", "c.txt": "Most."})
    replace, begun = QdrantChunkStore.replace_document, list[str]()
    children: list[subprocess.Popen[bytes]] = []

    def replace_until_signalled(self: QdrantChunkStore, ref_doc_id: str, nodes: list[TextNode]) -> list[str]:
        if ref_doc_id == "docs/b.txt":
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
            # Who waits for a child ends it when interrupted; SIGTERM has to interrupt, too.
            with subprocess.Popen(["sleep", "60"]) as child:
                children.append(child)
                try:
                    child.wait()
                except BaseException:
                    child.kill()
                    child.wait()
                    raise
        begun.append(ref_doc_id)
        return replace(self, ref_doc_id, nodes)

    place = ["--store", str(tmp_path / "store"), "--model", str(tiny_folder)]
    monkeypatch.setattr(sys, "argv", ["rag-embed", "index", str(docs), *place])
    handlers = [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(QdrantChunkStore, "replace_document", replace_until_signalled)
        main()
    assert (end.value.code, begun) == (code, ["docs/a.txt"])
    shown = capsys.readouterr()
    line = f"error: {word}; what was done so far is kept; run the command again to go on\n"
    assert (shown.out, shown.err) == ("", line)
    assert handlers == [signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM)]
    assert [child.returncode for child in children] == [-signal.SIGKILL]
    again = run("index", docs, "--json")
    assert again.exit_code == 0, again.stderr
    (source,) = json.loads(again.stdout)["sources"]
    assert (source["unchanged"], source["added"]) == (1, ["docs/b.txt", "docs/c.txt"])


def test_a_terminal_obeys_nothing_that_stands_in_a_document(run: Run, tmp_path: Path) -> None:
    evil = "Bread \x1b]0;owned\x07 and \x9b31mred\x1b[2J salt.\r\nNext\tline."
    docs = write(tmp_path / "docs", {"a.txt": evil, "b\x1b[2J.txt": "Salt.", "\x1b[31m.bin": "\0"})
    (docs / "\x1b[31m.bin").write_bytes(b"\0\1\2")
    shown = [run("index", docs), run("search", "bread"), run("search", "bread \x1b[2J", "--json")]
    shown += [run("chat", input="bread\n"), run("chat", "--json", input="bread\n"), run("info")]
    for result in shown:
        assert result.exit_code == 0, result.stderr
        for output in (result.stdout, result.stderr):
            assert not [c for c in output if c in "\x1b\x07\x9b\r" or (ord(c) < 32 and c not in "\n\t")]
    assert "Bread \\x1b]0;owned and \\x9b31mred\\x1b[2J salt.\nNext" in shown[1].stdout
    found = json.loads(shown[2].stdout)
    assert {passage["text"] for passage in found["passages"]} == {evil, "Salt."}
    assert found["query"] == "bread \x1b[2J"


def test_json_stays_json_where_the_terminal_knows_ascii_only(
    run: Run, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", write(tmp_path / "docs", {"a.txt": "Café, 東京."}))
    for words in (["search", "Café", "--json"], ["search", "Café"]):
        place = ["--store", str(tmp_path / "store"), "--model", str(tiny_folder)]
        monkeypatch.setattr(sys, "argv", ["rag-embed", *words, *place])
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "stdout", terminal)
            main()
        assert end.value.code == 0
        terminal.seek(0)
        shown = terminal.read()
        if "--json" in words:
            assert json.loads(shown)["passages"][0]["text"] == "Café, 東京."
    assert "Caf\\xe9, \\u6771\\u4eac." in shown


def test_a_long_question_keeps_the_first_order_and_says_so(run: Run, tmp_path: Path) -> None:
    files = {f"{name}.txt": f"The {name} opens at seven." for name in ("museum", "library", "castle")}
    run("index", write(tmp_path / "docs", files), "--tokens")
    question = "When does the library open? " * 120
    plain = json.loads(run("search", question, "--rerank", "none", "--json").stdout)
    result = run("search", question, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [p["document"] for p in found["passages"]] == [p["document"] for p in plain["passages"]]
    assert found["unranked"] in result.stderr
    assert found["unranked"].startswith("not reranked, the passages stand as they were found: ")
    chat = run("chat", "--json", input=f"{question}\n")
    assert chat.exit_code == 0, chat.stderr
    turn = json.loads(chat.stdout)
    assert (turn["error"], turn["unranked"]) == (None, found["unranked"])
    assert "not reranked" in run("chat", input=f"{question}\n").stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_chunked(tmp_path / "set", make_set())
    words = ("evaluate", "--set", folder, "--cache", tmp_path / "cache", "--arms", "isolated", "--json")
    for page in (tmp_path / "missing" / "r.html", tmp_path):
        result = run(*words, "--html", page)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be written" in " ".join(result.stderr.replace("│", " ").split())
        assert not (tmp_path / "cache").exists()

    def fill_disk(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", fill_disk)
    result = run(*words, "--html", tmp_path / "r.html")
    assert result.exit_code == 1
    assert json.loads(result.stdout)
    assert "error: No space left on device" in result.stderr


def test_a_question_that_is_no_text_is_refused_and_the_next_one_answered(run: Run, tmp_path: Path) -> None:
    run("index", write(tmp_path / "docs", {"a.txt": "Bread is baked here."}))
    for words in (
        ("search", "caf\udce9"),
        ("search", "x", "--filter", "a=\udce9"),
        ("search", "x", "--collection", "\udce9"),
    ):
        result = run(*words)
        assert result.exit_code == 2
        assert "no text in UTF-8" in " ".join(result.stderr.replace("│", " ").split())
    result = run("chat", "--json", input=b"caf\xe9\nbread\n")
    assert result.exit_code == 1
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert "no text in UTF-8" in first["error"]
    assert "Bread is baked here." in second["answer"]


METADATA = {
    "label": {"page_label": "2"},
    "number": {"page_label": 2},
    "other": {"page_label": "3", "draft": True},
    "draft": {"draft": "true"},
    "final": {"draft": False},
    "dotted": {"file.name": "x"},
    "nested": {"file": {"name": "x"}},
    "long": {"isbn": "97831614841009783161"},
    "text": {"page_label": "NaN"},
}


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("page_label=2", {"label", "number"}),
        ('page_label="2"', {"label"}),
        ("draft=true", {"other", "draft"}),
        ("draft=false", {"final"}),
        ("draft=True", set()),
        ("file.name=x", {"dotted", "nested"}),
        ('"file.name"=x', {"dotted"}),
        ("isbn=97831614841009783161", {"long"}),
        ("page_label=NaN", {"text"}),
        ("page_label=" + "[" * 100_000, set()),
        ("page_label=1e999", set()),
    ],
)
@pytest.mark.parametrize("is_in_memory", [True, False], ids=["memory", "folder"])
def test_a_filter_finds_what_it_reads_like(
    tmp_path: Path, condition: str, found: set[str], is_in_memory: bool
) -> None:
    place = {"location": ":memory:"} if is_in_memory else {"path": tmp_path / "store"}
    with QdrantChunkStore("filtered", **place) as store:
        store.add([TextNode(text=i, id_=i, metadata=m, embedding=[1.0, 0.0]) for i, m in METADATA.items()])
        nodes = store.get_nodes(filters=parse_filters([condition]))
    assert {node.node_id for node in nodes} == found


def test_a_page_of_a_pdf_is_found_by_its_number(run: Run, tmp_path: Path) -> None:
    from tests.office_files import make_pdf

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.pdf").write_bytes(make_pdf("About bread. " * 20, "About salt. " * 20))
    run("index", tmp_path / "docs", "--chunk-size", "40")
    result = run("search", "salt", "--filter", "page_label=2", "--filter", "source=docs", "--json")
    found = json.loads(result.stdout)["passages"]
    assert {passage["document"] for passage in found} == {"docs/a.pdf"}
    assert all(passage["text"].startswith("About salt.") for passage in found)
