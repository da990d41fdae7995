"""Small files of office formats for tests, written as their programs write them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

from docx import Document
from openpyxl import Workbook
from pptx import Presentation
from pypdf import PdfReader, PdfWriter

_TO_UNICODE = """/CIDInit /ProcSet findresource begin 12 dict begin begincmap
/CMapName /X def /CMapType 2 def 1 begincodespacerange <00> <FF> endcodespacerange
1 beginbfchar <7E> <D83D> endbfchar endcmap end end"""


def make_pdf(*pages: str) -> bytes:
    """Write a PDF with a line of text on each page; "" makes a page that shows nothing, as a scan does.

    A tilde comes out as half of a surrogate pair, which careless programs write into a font's table.
    """
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "", _stream(_TO_UNICODE)]
    objects[2] = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 4 0 R >>"
    kids = []
    for text in pages:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents {number + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            _stream(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET" if text else "0 0 10 10 re f"),
        ]
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    content = "%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    content += (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
        f"startxref\n{len(content)}\n%%EOF\n"
    )
    return content.encode("latin-1")


def _stream(text: str) -> str:
    return f"<< /Length {len(text)} >>\nstream\n{text}\nendstream"


def encrypt_pdf(data: bytes, user_password: str) -> bytes:
    """Encrypt a PDF; an empty password only limits what a reader may do with it."""
    writer = PdfWriter(clone_from=PdfReader(BytesIO(data)))
    writer.encrypt(user_password, "owner", algorithm="AES-256")
    stream = BytesIO()
    writer.write(stream)
    return stream.getvalue()


def write_office_files(folder: Path) -> None:
    """Write one file of each format that says what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.pdf").write_bytes(
        make_pdf("The first page is about bread.", "The second page is about salt.")
    )
    text = Document()
    text.add_heading("Opening hours", 1)
    text.add_paragraph("The museum opens at nine.")
    table = text.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Adults", "five euros"
    text.save(str(folder / "b.docx"))
    slides = Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[1])
    slide.shapes.title.text = "Boats"
    slide.placeholders[1].text = "Boats are built in spring."
    slide.notes_slide.notes_text_frame.text = "Speak of the harbour."
    slides.save(str(folder / "c.pptx"))
    book = Workbook()
    book.active.title = "Prices"
    book.active.append(["ticket", "euros"])
    book.active.append(["tram", 3])
    book.save(folder / "d.xlsx")
    (folder / "e.html").write_bytes(
        b"<html><head><meta charset='iso-8859-1'><title>Caf\xe9</title><script>var x = 1;</script></head>"
        b"<body><p>It is <b>bold</b>\nto swim.</p><ul><li>one</li><li>two</li></ul></body></html>"
    )
    cells = [
        {"cell_type": "markdown", "source": ["# Plan\n", "We measure."]},
        {"cell_type": "code", "source": "print(1)", "outputs": [{"data": {"image/png": "iVBORw0KGgo"}}]},
    ]
    (folder / "f.ipynb").write_text(json.dumps({"nbformat": 4, "cells": cells}))
    (folder / "g.rtf").write_bytes(rb"{\rtf1\ansi\ansicpg1252 The lake is \'fcber deep.\par}")
