"""The panel that shows a document at the place of a citation, passage and sentence highlighted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise

from nicegui import ui

from rag_embed.chat.turns import Citation
from rag_embed.errors import RagEmbedError
from rag_embed.llamaindex.stored_document import StoredDocument, Stretch
from rag_embed.web.library import Library

AROUND = 4_000
"""Characters that are shown before and behind a passage, and more of at a time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters of a document that are shown alike.

    Attributes:
        text: What stands there; None where the index has lost it.
        start: The first.
        end: One past the last.
        is_passage: Whether they belong to the passage that was found.
        is_quote: Whether they belong to the sentence in it that is nearest to the question.
    """

    text: str | None
    start: int
    end: int
    is_passage: bool = False
    is_quote: bool = False


def cut_pieces(document: StoredDocument, citation: Citation, start: int, end: int) -> list[Piece]:
    """Cut characters `start` to `end` of a document where highlighting begins or ends."""
    passage, quote = citation.passage, citation.quote
    borders = {start, end, passage.start, passage.end}
    if quote is not None:
        borders |= {quote.start, quote.end}
    cuts = sorted(cut for cut in borders if start <= cut <= end)
    return [
        Piece(
            each.text,
            each.start,
            each.end,
            passage.start <= each.start < passage.end,
            quote is not None and quote.start <= each.start < quote.end,
        )
        for first, last in pairwise(cuts)
        for each in document.read(first, last)
    ]


def holds(document: StoredDocument, citation: Citation) -> bool:
    """Whether a document still says at the passage's place what it said when it was found."""
    passage = citation.passage
    if passage.end > document.length:
        return False
    return _join(document.read(passage.start, passage.end)) == passage.text


class DocumentPanel:
    """The right side of the page, or all of it where there is little room.

    Args:
        library: Where documents are read.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._document: StoredDocument | None = None
        self._citation: Citation | None = None
        self._span = (0, 0)
        self._opener = ""
        with ui.right_drawer(value=False, bordered=True, bottom_corner=True).props(
            "width=520 breakpoint=1100"
        ) as self._drawer:
            self._drawer.classes("document-panel").props('role="region" aria-label="Document"')
            with ui.row().classes("panel-head no-wrap"):
                self._title = ui.label().classes("panel-title grow").props("role=heading aria-level=2")
                self._close_button = ui.button(icon="close", on_click=self.close).props(
                    'flat round dense aria-label="Close the document"'
                )
            self._place = ui.label().classes("muted")
            self._body = ui.column().classes("w-full panel-body")

    async def show(self, citation: Citation, collection: str, *, opener: str) -> None:
        """Read a citation's document and show it at its place.

        Args:
            citation: What to show.
            collection: Where its document is.
            opener: HTML id of what was clicked, which gets the focus back when the panel is closed.
        """
        passage = citation.passage
        self._citation, self._document, self._opener = citation, None, opener
        self._title.set_text(passage.title or passage.document)
        self._place.set_text(f"{passage.document}, characters {passage.start:,} to {passage.end:,}")
        self._body.clear()
        self._drawer.show()
        try:
            document = await asyncio.to_thread(self._fetch, collection, passage.document)
        except RagEmbedError as error:
            self._say(f"The document cannot be read: {error}")
            self._show_remembered(citation)
            return
        if self._citation is not citation:
            return  # another one was clicked meanwhile
        if not holds(document, citation):
            self._say("The document has changed since this answer. This is the passage as it was:")
            self._show_remembered(citation)
            return
        self._document = document
        self._span = (max(0, passage.start - AROUND), min(document.length, passage.end + AROUND))
        self._render(scroll=True)

    def close(self) -> None:
        """Hide the panel, and go back to where it was opened from."""
        self._drawer.hide()
        if self._opener:
            ui.run_javascript(f"document.getElementById('{self._opener}')?.focus()")

    def _fetch(self, collection: str, document: str) -> StoredDocument:
        return StoredDocument.fetch(self._library.shelf(collection).store, document)

    def _render(self, *, scroll: bool) -> None:
        document, citation = self._document, self._citation
        assert document is not None
        assert citation is not None
        self._body.clear()
        start, end = self._span
        with self._body:
            with ui.expansion("Why this was found").classes("w-full reasons").props("dense"):
                for reason in citation.passage.reasons:
                    ui.label(reason)
            if not document.is_whole:
                self._say("Not all of this document is in the index; what is missing is marked.")
            if start > 0:
                ui.button(f"Show more before ({start:,} characters)", on_click=lambda: self._widen(-1)).props(
                    "flat dense no-caps"
                )
            with ui.element("div").classes("document-text").props('tabindex="0" aria-label="Text"'):
                target = _render_pieces(cut_pieces(document, citation, start, end))
            if end < document.length:
                left = document.length - end
                ui.button(f"Show more behind ({left:,} characters)", on_click=lambda: self._widen(1)).props(
                    "flat dense no-caps"
                )
        if scroll and target is not None:
            # When the panel has slid in. What gets the focus must not scroll the sentence away again.
            ui.run_javascript(
                "setTimeout(() => {"
                f"document.getElementById('{self._close_button.html_id}')?.focus({{preventScroll: true}});"
                f"document.getElementById('{target}')?.scrollIntoView({{block: 'center'}});"
                "}, 250)"
            )

    def _widen(self, side: int) -> None:
        assert self._document is not None
        start, end = self._span
        if side < 0:
            start = max(0, start - 4 * AROUND)
        else:
            end = min(self._document.length, end + 4 * AROUND)
        self._span = (start, end)
        self._render(scroll=False)

    def _show_remembered(self, citation: Citation) -> None:
        passage = citation.passage
        with self._body, ui.element("div").classes("document-text"):
            _render_pieces([Piece(passage.text, passage.start, passage.end, is_passage=True)])

    def _say(self, text: str) -> None:
        with self._body:
            ui.label(text).classes("notice").props("role=status")


def _render_pieces(pieces: list[Piece]) -> str | None:
    """Show pieces one behind the other; return the HTML id of the place to scroll to."""
    target: dict[bool, str] = {}
    for piece in pieces:
        label = ui.label(piece.text if piece.text is not None else _gap(piece)).classes(_look(piece))
        if piece.is_passage or piece.is_quote:
            label.props('role="mark"')
            target.setdefault(piece.is_quote, label.html_id)
    return target.get(True) or target.get(False)


def _look(piece: Piece) -> str:
    looks = {"gap": piece.text is None, "passage": piece.is_passage, "quote": piece.is_quote}
    return " ".join(["piece", *(name for name, has_it in looks.items() if has_it)])


def _gap(piece: Piece) -> str:
    return f" [characters {piece.start:,} to {piece.end:,} are not in the index] "


def _join(stretches: tuple[Stretch, ...]) -> str | None:
    texts = [each.text for each in stretches]
    return None if None in texts else "".join(text for text in texts if text is not None)
