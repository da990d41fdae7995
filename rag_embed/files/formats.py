"""Files that are more than text: which kinds are known, and how each becomes text.

The packages that read them are the extra `files`. Without it such a file is left out and the extra named:
what it looks like inside is never taken for its text.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from rag_embed.errors import InputError, MissingExtraError
from rag_embed.files.decoding import decode_text

PAGE_KEY = "page_label"
SHEET_KEY = "sheet"

_OLD_OFFICE = bytes.fromhex("d0cf11e0a1b11ae1")
_MAGIC = ((b"%PDF-", ".pdf"), (b"%!PS", ".ps"), (b"{\\rtf", ".rtf"))
_NO_READER = {
    ".ps": "PostScript; convert it to PDF",
    ".eps": "PostScript; convert it to PDF",
    ".doc": "Word's old format, or an encrypted document; save it as .docx without a password",
    ".ppt": "PowerPoint's old format; save it as .pptx",
    ".xls": "Excel's old format; save it as .xlsx",
    ".odt": "OpenDocument; save it as .docx",
    ".odp": "OpenDocument; save it as .pptx",
    ".ods": "OpenDocument; save it as .xlsx",
    ".pages": "Pages; save it as .docx",
}
_BLOCKS = (
    *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p"),
    *("pre", "section", "table", "title", "tr", "ul"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A page, slide, sheet, or a whole file.

    Attributes:
        text: What is written there.
        metadata: Where it stands in the file.
    """

    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A kind of file.

    Attributes:
        name: For people.
        package: What has to be importable to read it; None if nothing has.
        read: Makes parts of a file's bytes.
    """

    name: str
    package: str | None
    read: Callable[[bytes], list[Part]]

    def read_parts(self, data: bytes) -> list[Part]:
        """Read a file's bytes.

        Raises:
            MissingExtraError: The package is not installed.
            Exception: Whatever the package raises on a damaged file.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the readers, about what they could mend
                return self.read(data)
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{self.name} is read by {self.package}, which is not installed; run pip install "
                "'rag-embed[files]'"
            ) from error


def identify(data: bytes, suffix: str) -> str:
    """Tell the kind of a file, as a suffix: by how it begins where that is plain, else by its name."""
    begin = data[:1024].lstrip()
    for magic, kind in _MAGIC:
        if begin.startswith(magic):
            return kind
    if data.startswith(_OLD_OFFICE) and suffix not in _NO_READER:
        return ".doc"
    return suffix


def check_readable(kind: str) -> None:
    """Refuse formats that nothing here reads.

    Raises:
        InputError: With what to do instead.
    """
    if advice := _NO_READER.get(kind):
        raise InputError(f"there is no reader for {advice}")


def _read_pdf(data: bytes) -> list[Part]:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    reader = PdfReader(BytesIO(data))
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError("encrypted, and opens only with its password; save it without one")
    except DependencyError as error:
        raise ModuleNotFoundError(str(error)) from error
    labels = reader.page_labels
    return [
        Part(page.extract_text(), {PAGE_KEY: str(labels[number])}) for number, page in enumerate(reader.pages)
    ]


def _read_docx(data: bytes) -> list[Part]:
    from docx import Document
    from docx.table import Table

    blocks = []
    for block in Document(BytesIO(data)).iter_inner_content():
        blocks.append(_rows(block) if isinstance(block, Table) else block.text)
    return [Part("\n\n".join(block for block in blocks if block.strip()))]


def _read_pptx(data: bytes) -> list[Part]:
    from pptx import Presentation

    parts = []
    for number, slide in enumerate(Presentation(BytesIO(data)).slides, start=1):
        blocks = list(_shape_texts(slide.shapes))
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
            blocks.append(notes.text)
        text = "\n\n".join(block for block in blocks if block.strip())
        parts.append(Part(text, {PAGE_KEY: str(number)}))
    return parts


def _shape_texts(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shape_texts(shape.shapes)
        elif shape.has_text_frame:
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            yield _rows(shape.table)


def _rows(table: Any) -> str:
    return "\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in table.rows)


def _read_xlsx(data: bytes) -> list[Part]:
    from openpyxl import load_workbook

    book = load_workbook(BytesIO(data), read_only=True, data_only=True)
    parts = []
    for sheet in book.worksheets:
        rows = (
            ["" if value is None else str(value) for value in row]
            for row in sheet.iter_rows(values_only=True)
        )
        lines = [" | ".join(cells).rstrip(" |") for cells in rows]
        parts.append(Part("\n".join(line for line in lines if line), {SHEET_KEY: str(sheet.title)}))
    return parts


def _read_html(data: bytes) -> list[Part]:
    from bs4 import BeautifulSoup, Comment, Doctype, NavigableString
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    decoded = decode_text(data)
    if decoded is None or (decoded.assumed and declared):
        soup = BeautifulSoup(data, "html.parser", from_encoding=declared)
    else:
        soup = BeautifulSoup(decoded.text, "html.parser")
    for tag in soup(["script", "style", "template", "noscript"]):
        tag.decompose()
    for string in soup.find_all(string=True):
        if not isinstance(string, Comment | Doctype) and string.find_parent("pre") is None:
            string.replace_with(NavigableString(re.sub(r"\s+", " ", string)))
    for tag in soup(_BLOCKS):
        tag.insert_before("\n\n" if tag.name not in {"li", "tr", "br"} else "\n")
        tag.append("\n")
    for tag in soup(["td", "th"]):
        tag.append(" ")
    lines = [line.strip() for line in soup.get_text().split("\n")]
    return [Part(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip())]


def _read_notebook(data: bytes) -> list[Part]:
    content = json.loads(data)
    sheets = content.get("worksheets") if isinstance(content, dict) else None
    cells = sheets[0].get("cells") if sheets else content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list):
        raise InputError("not a notebook: it holds no cells")
    sources = [cell.get("source", cell.get("input", "")) for cell in cells]
    texts = ["".join(source) if isinstance(source, list) else str(source) for source in sources]
    return [Part("\n\n".join(text for text in texts if text.strip()))]


def _read_rtf(data: bytes) -> list[Part]:
    from striprtf.striprtf import rtf_to_text

    return [Part(str(rtf_to_text(data.decode("latin-1"), errors="replace")))]


_HTML = FileFormat("HTML", "beautifulsoup4", _read_html)
_WORKBOOK = FileFormat("XLSX", "openpyxl", _read_xlsx)
_SLIDES = FileFormat("PPTX", "python-pptx", _read_pptx)
FORMATS: Mapping[str, FileFormat] = {
    ".pdf": FileFormat("PDF", "pypdf", _read_pdf),
    ".docx": FileFormat("DOCX", "python-docx", _read_docx),
    ".pptx": _SLIDES,
    ".pptm": _SLIDES,
    ".xlsx": _WORKBOOK,
    ".xlsm": _WORKBOOK,
    ".html": _HTML,
    ".htm": _HTML,
    ".xhtml": _HTML,
    ".ipynb": FileFormat("Notebook", None, _read_notebook),
    ".rtf": FileFormat("RTF", "striprtf", _read_rtf),
}
