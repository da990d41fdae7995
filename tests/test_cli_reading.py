"""Files of all kinds through `rag-embed index`: nothing is lost, and what is not read is named and kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner, Result

from rag_embed import QdrantChunkStore
from rag_embed.cli.app import app
from rag_embed.files.decoding import decode_text
from rag_embed.files.reading import read_folder
from tests.office_files import encrypt_pdf, make_pdf, write_office_files

Index = Callable[..., Result]


@pytest.fixture
def index(tmp_path: Path, tiny_folder: Path) -> Index:
    def run_index(*arguments: object) -> Result:
        words = ("index", *arguments, "--store", tmp_path / "store", "--model", tiny_folder)
        return CliRunner().invoke(app, [str(word) for word in words])

    return run_index


def stored(tmp_path: Path) -> dict[str, str]:
    """The text of each stored document."""
    texts: dict[str, str] = {}
    with QdrantChunkStore("documents", path=tmp_path / "store") as store:
        for node in sorted(store.get_nodes(), key=lambda node: node.start_char_idx):
            name, text = str(node.ref_doc_id), node.get_content()
            texts[name] = f"{texts[name]}\n\n{text}" if name in texts else text  # pages are chunks apart
    return texts


def write(folder: Path, **files: bytes | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def report(result: Result) -> dict[str, Any]:
    (source,) = json.loads(result.stdout)["sources"]
    return source


# --- letters


@pytest.mark.parametrize(
    ("text", "encoding", "assumed"),
    [
        ("Frau Müller", "latin-1", "cp1252"),
        ("Die Straße in München ist schön, fünf Bäume stehen über dem Fluß.", "latin-1", "cp1252"),
        ("The “café” opens — isn’t it?", "cp1252", "cp1252"),
        ("Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi.", "cp1250", "cp1250"),
        ("Все люди рождаются свободными и равными в своем достоинстве.", "cp1251", "cp1251"),
        ("東京都は日本の首都です。", "shift_jis", "cp932"),
        ("日本語", "shift_jis", "cp932"),
        ("カフェは七時に開きます。", "euc_jp", "euc_jp"),
        ("東京都は日本の首都です。", "iso2022_jp", "iso2022_jp"),
        ("北京是中华人民共和国的首都，也是全国的政治和文化中心。", "gb18030", "gb18030"),
        ("Frau Müller", "utf-16", None),
        ("Frau Müller", "utf-16-le", None),
        ("Frau Müller", "utf-16-be", None),
        ("東京都は、日本の首都です。", "utf-16-le", None),
        ("Привет, мир. Как дела?", "utf-16-be", None),
        ("Frau Müller", "utf-32", None),
        ("Frau Müller", "utf-8-sig", None),
        ("Frau Müller", "utf-8", None),
        ("", "utf-8", None),
    ],
)
def test_no_letter_is_lost_in_any_encoding(text: str, encoding: str, assumed: str | None) -> None:
    decoded = decode_text(text.encode(encoding))
    assert decoded is not None
    assert (decoded.text, decoded.assumed, decoded.lost) == (text, assumed, 0)


def test_what_could_not_be_decoded_is_counted_and_binary_is_no_text() -> None:
    assert decode_text(b"\0\1") is None
    decoded = decode_text("Müller, Größe".encode() + b"\xff und mehr")
    assert decoded is not None
    assert (decoded.text, decoded.lost) == ("Müller, Größe\ufffd und mehr", 1)
    for data in (b"\0\1\2", bytes(range(256)), b"\x7fELF\x02\x01\x01" + b"\0" * 9, b"\0\1\2\3" * 20):
        assert decode_text(data) is None


def test_indexing_says_which_encoding_it_assumed(index: Index, tmp_path: Path) -> None:
    docs = write(
        tmp_path / "docs", latin__txt="Frau Müller".encode("latin-1"), broken__txt="ü ö\xfc ä".encode()
    )
    (docs / "broken.txt").write_bytes("ü ö ä".encode() + b"\xff")
    result = index(docs)
    assert result.exit_code == 0, result.stderr
    assert "note docs/latin.txt: is not UTF-8 and does not say what it is; read as cp1252" in result.stderr
    assert "note docs/broken.txt: 1 places could not be decoded and stand as U+FFFD" in result.stderr
    assert stored(tmp_path)["docs/latin.txt"] == "Frau Müller"


# --- formats


def test_office_files_are_read_as_what_people_see(index: Index, tmp_path: Path) -> None:
    write_office_files(tmp_path / "docs")
    result = index(tmp_path / "docs", "--chunk-size", "100")
    assert result.exit_code == 0, result.stderr
    assert stored(tmp_path) == {
        "docs/a.pdf": "The first page is about bread.\n\nThe second page is about salt.",
        "docs/b.docx": "Opening hours\n\nThe museum opens at nine.\n\nAdults | five euros",
        "docs/c.pptx": "Boats\n\nBoats are built in spring.\n\nSpeak of the harbour.",
        "docs/d.xlsx": "ticket | euros\ntram | 3",
        "docs/e.html": "Café\n\nIt is bold to swim.\n\none\n\ntwo",
        "docs/f.ipynb": "# Plan\nWe measure.\n\nprint(1)",
        "docs/g.rtf": "The lake is über deep.",
    }


def test_without_a_reader_a_format_is_named_and_its_good_text_kept(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_office_files(tmp_path / "docs")
    write(
        tmp_path / "docs", note__txt="A note.", print__ps="%!PS-Adobe-3.0 /Helvetica findfont", old__doc="x"
    )
    assert index(tmp_path / "docs").exit_code == 4
    before = stored(tmp_path)
    assert not any("print" in name or "old" in name for name in before)
    for package in ("pypdf", "docx", "pptx", "openpyxl", "bs4", "striprtf", "striprtf.striprtf"):
        monkeypatch.setitem(sys.modules, package, None)
    result = index(tmp_path / "docs", "--json")
    assert result.exit_code == 4
    for name in ("a.pdf", "b.docx", "c.pptx", "d.xlsx", "e.html", "g.rtf"):
        reason = report(result)["failed"][f"docs/{name}"]
        assert "pip install 'rag-embed[files]'" in reason
        assert f"not read docs/{name}: {reason}" in result.stderr
    assert "convert it to PDF" in report(result)["failed"]["docs/print.ps"]
    assert "save it as .docx" in report(result)["failed"]["docs/old.doc"]
    assert report(result)["removed"] == []
    assert stored(tmp_path) == before


def test_a_pdf_is_known_by_its_content_whatever_its_name(index: Index, tmp_path: Path) -> None:
    docs = write(
        tmp_path / "docs", report=make_pdf("It says bread."), about__md="A PDF begins with %PDF-1.3."
    )
    assert index(docs).exit_code == 0
    assert stored(tmp_path) == {
        "docs/report": "It says bread.",
        "docs/about.md": "A PDF begins with %PDF-1.3.",
    }


def test_an_encrypted_pdf_says_so_and_one_without_a_password_is_read(index: Index, tmp_path: Path) -> None:
    plain = make_pdf("It says salt.")
    docs = write(
        tmp_path / "docs",
        open__pdf=encrypt_pdf(plain, ""),
        shut__pdf=encrypt_pdf(plain, "secret"),
        torn__pdf=plain[:300],
    )
    result = index(docs, "--json")
    assert result.exit_code == 4
    failed = report(result)["failed"]
    assert failed["docs/shut.pdf"].startswith("encrypted, and opens only with its password")
    assert set(failed) | set(report(result)["empty"]) == {"docs/shut.pdf", "docs/torn.pdf"}
    assert "Future" not in result.stderr
    assert stored(tmp_path) == {"docs/open.pdf": "It says salt."}


def test_halves_of_characters_out_of_a_pdf_are_replaced_and_named(index: Index, tmp_path: Path) -> None:
    result = index(write(tmp_path / "docs", a__pdf=make_pdf("bread ~ salt")))
    assert result.exit_code == 0, result.stderr
    assert stored(tmp_path) == {"docs/a.pdf": "bread \ufffd salt"}
    assert "note docs/a.pdf: 1 halves of characters" in result.stderr


def test_files_without_text_are_named_and_their_old_text_forgotten(index: Index, tmp_path: Path) -> None:
    docs = write(
        tmp_path / "docs", a__txt="Text.", scan__pdf=make_pdf("It was text."), mixed__pdf=make_pdf("A", "")
    )
    index(docs)
    write(docs, scan__pdf=make_pdf("", ""), empty__txt=" \n", a__txt="Text.")
    result = index(docs, "--json")
    assert result.exit_code == 0, result.stderr
    assert report(result)["empty"] == ["docs/empty.txt", "docs/scan.pdf"]
    assert report(result)["removed"] == ["docs/scan.pdf"]
    assert report(result)["unchanged"] == 2
    assert "without text docs/scan.pdf: holds no text; if it is a scan" in result.stderr
    assert "note docs/mixed.pdf: 1 of its 2 parts hold no text" in result.stderr
    write(tmp_path / "scans", scan__pdf=make_pdf(""))
    assert index(tmp_path / "scans").exit_code == 3


# --- what cannot be read


def test_an_unreadable_folder_forgets_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiki = write(tmp_path / "wiki", a__txt="Text.", b__txt="Gone.")
    write(wiki / "hr", c__txt="Holidays.")
    index(wiki)
    (wiki / "b.txt").unlink()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("hr"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = index(wiki, "--json")
    assert result.exit_code == 4
    assert "not read wiki/hr: the folder cannot be read: Permission denied" in result.stderr
    assert (report(result)["removed"], report(result)["kept"]) == (["wiki/b.txt"], ["wiki/hr/c.txt"])
    monkeypatch.setattr(os, "scandir", scandir)
    assert report(index(wiki, "--json"))["unchanged"] == 2


def test_a_mount_that_is_not_there_forgets_nothing(index: Index, tmp_path: Path) -> None:
    wiki = write(tmp_path / "wiki", a__txt="Text.")
    write(wiki / "hr", c__txt="Holidays.")
    index(wiki)
    (wiki / "hr" / "c.txt").unlink()
    result = index(wiki, "--json")
    assert (report(result)["removed"], report(result)["kept"]) == ([], ["wiki/hr/c.txt"])
    assert "1 kept though not seen" in result.stderr
    (wiki / "hr").rmdir()
    assert report(index(wiki, "--json"))["removed"] == ["wiki/hr/c.txt"]


def test_a_folder_that_is_empty_now_forgets_nothing_beside_others(index: Index, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", a__txt="Text."), write(tmp_path / "two", b__txt="More.")
    index(one, two)
    (two / "b.txt").unlink()
    assert index(one, two).exit_code == 0
    assert set(stored(tmp_path)) == {"one/a.txt", "two/b.txt"}


def test_links_and_files_that_cannot_be_opened_are_named_and_forget_nothing(
    index: Index, tmp_path: Path
) -> None:
    wiki = write(tmp_path / "wiki", a__txt="Text.", b__txt="To be a link.")
    write(wiki / "hr", c__txt="Holidays.")
    index(wiki)
    (wiki / "hr").rename(tmp_path / "hr")
    (wiki / "hr").symlink_to(tmp_path / "hr")
    (wiki / "b.txt").unlink()
    (wiki / "b.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(wiki / "pipe")
    result = index(wiki, "--json")
    assert result.exit_code == 4
    assert report(result)["skipped"] == {
        "wiki/hr": "a link to a folder; links are not followed",
        "wiki/pipe": "neither a file nor a folder",
    }
    assert "No such file" in report(result)["failed"]["wiki/b.txt"]
    assert report(result)["removed"] == []
    assert set(stored(tmp_path)) == {"wiki/a.txt", "wiki/b.txt", "wiki/hr/c.txt"}


def test_file_names_that_are_no_utf8_are_spelled_out(index: Index, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", a__txt="Text.")
    Path(os.fsdecode(os.fsencode(docs) + b"/caf\xe9\x1b.txt")).write_text("Coffee.")
    result = index(docs)
    assert result.exit_code == 0, result.stderr
    assert stored(tmp_path) == {"docs/a.txt": "Text.", "docs/caf\\xe9\x1b.txt": "Coffee."}
    assert report(index(docs, "--json"))["unchanged"] == 2


def test_a_document_that_cannot_be_cut_is_named_and_all_others_are_indexed(
    index: Index, tmp_path: Path
) -> None:
    docs = write(tmp_path / "docs", a__txt="Text.", z__txt="More text.")
    deep = docs / "/".join(f"department-{i}-of-the-ministry-for-long-names" for i in range(8))
    write(deep, b__txt="Deep.")
    result = index(docs, "--chunk-size", "64", "--json")
    assert result.exit_code == 4
    (name,) = report(result)["failed"]
    assert name.endswith("/b.txt")
    assert f"not indexed {name}: " in result.stderr
    assert "longer than chunk size" in result.stderr
    assert set(stored(tmp_path)) == {"docs/a.txt", "docs/z.txt"}


# --- folders of one name


def test_a_second_folder_of_the_same_name_replaces_nothing(index: Index, tmp_path: Path) -> None:
    shop = write(tmp_path / "shop" / "docs", a__txt="The shop.")
    blog = write(tmp_path / "blog" / "docs", a__txt="The blog.", b__txt="A post.")
    assert index(shop).exit_code == 0
    result = index(blog)
    assert result.exit_code == 1
    assert f"docs-2={blog} keeps both" in result.stderr
    assert stored(tmp_path) == {"docs/a.txt": "The shop."}
    assert index(f"blog={blog}").exit_code == 0
    assert set(stored(tmp_path)) == {"docs/a.txt", "blog/a.txt", "blog/b.txt"}
    assert index(shop, blog).exit_code == 2
    assert index(f"docs={blog}").exit_code == 0  # taken at its word: the same folder, elsewhere
    assert stored(tmp_path)["docs/a.txt"] == "The blog."


def test_a_folder_that_was_moved_is_the_same_corpus(index: Index, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", a__txt="Text.")
    index(docs)
    (tmp_path / "new").mkdir()
    docs.rename(tmp_path / "new" / "docs")
    assert report(index(tmp_path / "new" / "docs", "--json"))["unchanged"] == 1
    write(tmp_path / "docs", a__txt="Another folder now.")
    assert index(tmp_path / "docs").exit_code == 1


def test_a_folder_inside_an_indexed_one_is_not_stored_twice(index: Index, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", a__txt="Text.")
    guide = write(docs / "guide", b__txt="A guide.")
    assert index(docs, guide).exit_code == 2
    assert index(docs).exit_code == 0
    result = index(guide)
    assert result.exit_code == 1
    assert f"{guide} lies in {docs}" in result.stderr
    assert set(stored(tmp_path)) == {"docs/a.txt", "docs/guide/b.txt"}
    assert index(f"manual={guide}").exit_code == 0
    assert "manual/b.txt" in stored(tmp_path)


def test_names_of_folders_are_words(index: Index, tmp_path: Path) -> None:
    docs = write(tmp_path / "a=b", a__txt="Text.")
    assert index(docs).exit_code == 0  # a folder that is there is meant as it stands
    for argument in (f"={docs}", f"x/y={docs}", f"\x1b={docs}", f"x={tmp_path / 'none'}"):
        assert index(argument).exit_code == 2
    assert read_folder(docs).source == "a=b"
