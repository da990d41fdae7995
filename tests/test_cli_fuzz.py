"""Anything at all through the real commands: no traceback, and nothing changed without a word.

A case is a folder of one to four files with arbitrary names and contents, filters and a question: 40 cases,
so about a hundred files, by default; 400, so about a thousand, with the slow tests. A seed makes the same
case on every machine.
"""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from openpyxl import Workbook
from typer.testing import CliRunner, Result

from rag_embed import QdrantChunkStore
from rag_embed.cli.app import app
from rag_embed.files.reading import spell
from tests.office_files import encrypt_pdf, make_pdf, write_office_files
from tests.strategies import CHARACTERS, CJK, COMBINING, EMOJI, SENTENCES, WHITE_SPACE, ZERO_WIDTH

FRAGMENTS = [
    *(*SENTENCES, *SENTENCES, *EMOJI, *COMBINING, *ZERO_WIDTH, *CJK, *CHARACTERS, *WHITE_SPACE),
    *(
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\b\b",
        "\x0c",
        "\r",
        "a" * 300,
        "=",
        "[bold]",
        "[/b]",
        "\\x41",
    ),
    *(
        "{query_str}",
        "%s",
        "{0}",
        "%PDF-1.4",
        "<b>",
        '"',
        "'",
        "[UNK]",
        "[SEP]",
        "null",
        "\ufdd0",
        "\U0010ffff",
    ),
]
NAME_PARTS = [
    *(
        "a",
        "notes",
        "Ünï",
        "東京",
        "😀",
        " ",
        "-",
        "--help",
        "=",
        "[b]",
        "[/b]",
        "%",
        "\\",
        '"',
        "'",
        "\x1b[2J",
        "\n",
    ),
    *("\x7f", "long" * 20, ":", "*", "?", "$HOME", "_part_0", "\u202e", "e\u0301", "#", "{}", "~"),
]
SUFFIXES = (".txt", ".md", "", ".TXT", ".csv", ".json", ".py", ".xml")
ENCODINGS = ("utf-16", "utf-16-le", "latin-1", "shift_jis", "gb18030", "cp1251", "utf-8-sig")
VALUES = (
    "2",
    "2.0",
    "true",
    "null",
    "NaN",
    "1e999",
    "-0",
    '"2"',
    "[1]",
    "{}",
    "9" * 30,
    "",
    "=",
    "a=b",
    "\ud800",
)
KEYS = (
    "source",
    "file_path",
    "file_name",
    "page_label",
    "sheet",
    "doc_id",
    "a.b",
    "a[0]",
    '"a.b"',
    "",
    "a b",
    '"',
)
CODES = {0, 1, 2, 3, 4}


@dataclass
class Case:
    """One case, and what is known of it.

    Attributes:
        texts: What must be stored of a file, by its path in the folder, unless it is named.
    """

    folder: Path
    filters: list[str]
    question: str
    texts: dict[str, str] = field(default_factory=dict)


def make_text(rng: random.Random) -> str:
    return "".join(
        rng.choice(FRAGMENTS) + rng.choice(("", " ")) for _ in range(rng.choice((0, 1, 3, 12, 40)))
    )


def make_name(rng: random.Random) -> bytes:
    name = "".join(rng.choice(NAME_PARTS) for _ in range(rng.randint(1, 4))).encode()
    if rng.random() < 0.15:
        name += bytes([rng.randint(128, 255)])
    return name[:200].lstrip(b".").replace(b"/", b"") or b"x"


def make_office_file(rng: random.Random, folder: Path) -> tuple[str, bytes]:
    """A file of some format, whole or damaged."""
    write_office_files(folder)
    path = rng.choice(sorted(folder.iterdir()))
    data = path.read_bytes()
    way = rng.choice(("whole", "cut", "flipped", "foreign", "sheet", "pdf", "shut"))
    if way == "cut":
        data = data[: rng.randint(0, len(data))]
    elif way == "flipped":
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randint(0, 255)
        data = bytes(damaged)
    elif way == "foreign":
        data = make_text(rng).encode()
    elif way == "sheet":
        book = Workbook()
        book.active.title = (
            re.sub(r"[\\/*?:\[\]\x00-\x1f\ud800-\udfff]", "", make_text(rng))[:31].strip("'") or "x"
        )
        book.active.append([rng.choice((None, True, 1.5, 10**20, "=1/0", rng.choice(CJK))) for _ in range(5)])
        stream = BytesIO()
        book.save(stream)
        return ".xlsx", stream.getvalue()
    elif way in {"pdf", "shut"}:
        pages = ["".join(rng.choice("abc ~\\(") for _ in range(rng.randint(0, 30))) for _ in range(3)]
        whole = make_pdf(*pages)
        return ".pdf", whole if way == "pdf" else encrypt_pdf(whole, rng.choice(("", "secret")))
    return path.suffix, data


def make_input(seed: int, tmp_path: Path) -> Case:
    rng = random.Random(seed)
    folder = tmp_path / os.fsdecode(make_name(rng))
    filters = [
        f"{rng.choice((*KEYS, make_text(rng)[:20]))}={rng.choice((*VALUES, make_text(rng)[:20]))}"
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    fuzzed = Case(folder, filters, make_text(rng)[: rng.choice((5, 40, 2000))])
    for _ in range(rng.randint(1, 4)):
        place = folder
        if rng.random() < 0.3:
            place = folder / os.fsdecode(make_name(rng))
        name = make_name(rng)
        if rng.random() < 0.35:
            suffix, data = make_office_file(rng, tmp_path / "office")
        else:
            suffix, text = rng.choice(SUFFIXES), make_text(rng)
            data = text.encode(rng.choice(ENCODINGS), "replace") if rng.random() < 0.4 else text.encode()
            if rng.random() < 0.1:
                data += rng.randbytes(rng.randint(1, 40))
        path = place / (os.fsdecode(name) + suffix)
        try:
            place.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:
            continue  # a file of that name, or a name too long for the file system
        if b"\0" in data:
            continue  # UTF-16, which passes for UTF-8 where it is Latin, or binary
        try:
            fuzzed.texts[spell(str(path.relative_to(folder)))] = data.decode()
        except UnicodeDecodeError:
            continue
    return fuzzed


def run(*words: object, **options: Any) -> Result:
    """Run a command; whatever it does, it ends in an orderly way and writes nothing that a terminal obeys."""
    result = CliRunner().invoke(app, [str(word) for word in words], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in CODES, result.stderr
    assert "Traceback" not in result.stderr
    assert "unforeseen" not in result.stderr, result.stderr
    assert result.exit_code == 0 or result.stderr.strip(), "it failed without a word"
    for output in (result.stdout, result.stderr):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", output), repr(output)
    return result


def squeeze(text: str) -> str:
    return "".join(text.split())


def check_stored(fuzzed: Case, store: Path, report: dict[str, Any]) -> None:
    """Every text is stored to the letter, or its file is named with a reason."""
    named = {*report["failed"], *report["skipped"], *report["empty"]}
    found: dict[str, str] = {}
    with QdrantChunkStore("documents", path=store) as chunk_store:
        for node in sorted(chunk_store.get_nodes(), key=lambda node: node.start_char_idx):
            document = str(node.ref_doc_id)
            original = fuzzed.texts.get(document.removeprefix(f"{report['source']}/"))
            if original is not None and not document.endswith(IS_FORMAT):
                original = original.removeprefix("\ufeff")
                assert node.get_content() == original[node.start_char_idx : node.end_char_idx]
            found[document] = found.get(document, "") + node.get_content()
    for name, text in fuzzed.texts.items():
        document = f"{report['source']}/{name}"
        if document in named or name.endswith(IS_FORMAT) or any(p.startswith(".") for p in name.split("/")):
            continue
        if text.lstrip().startswith(("%PDF-", "{\\rtf", "%!PS")):
            continue
        assert squeeze(found.get(document, "")) == squeeze(text.removeprefix("\ufeff")), document


IS_FORMAT = (".pdf", ".docx", ".pptx", ".xlsx", ".html", ".ipynb", ".rtf")


def check(seed: int, tmp_path: Path, model: Path) -> None:
    fuzzed = make_input(seed, tmp_path)
    place = ("--store", tmp_path / "store", "--model", model)
    result = run("index", "--json", "--chunk-size", "48", *place, "--", fuzzed.folder)
    if not result.stdout:
        return
    (report,) = json.loads(result.stdout)["sources"]
    for kind, word in (("failed", "not "), ("skipped", "skipped "), ("empty", "without text ")):
        assert result.stderr.count(word) >= len(report[kind])
    check_stored(fuzzed, tmp_path / "store", report)
    (again,) = json.loads(run("index", "--json", "--chunk-size", "48", *place, "--", fuzzed.folder).stdout)[
        "sources"
    ]
    assert (again["added"], again["changed"], again["removed"], again["embedded"]) == ([], [], [], 0)
    assert again["failed"].keys() == report["failed"].keys()
    filters = [word for condition in fuzzed.filters for word in ("--filter", condition)]
    found = run("search", "--json", *filters, *place, "--", fuzzed.question)
    if found.stdout:
        assert json.loads(found.stdout)["query"] == fuzzed.question
    if seed % 2:
        run("search", *filters, *place, "--", fuzzed.question)
    else:
        run("chat", *filters, *place, input=f"{fuzzed.question}\n".encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("seed", range(40))
def test_nothing_breaks_a_command_or_changes_without_a_word(
    seed: int, tmp_path: Path, tiny_folder: Path
) -> None:
    check(seed, tmp_path, tiny_folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 400))
def test_nothing_breaks_a_command_in_a_thousand(seed: int, tmp_path: Path, tiny_folder: Path) -> None:
    check(seed, tmp_path, tiny_folder)
