"""How one question and its answer are shown."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from nicegui import ui

from rag_embed.chat.turns import Citation, Turn

OpenCitation = Callable[[Citation, str], Awaitable[None]]
"""Called with a citation that was clicked, and the HTML id of what was clicked."""

_NUMBER = re.compile(r"\[(\d{1,4})\]")


def show_question(text: str) -> None:
    """Show what a person asked."""
    ui.label(text).classes("question").props('role="article" aria-label="Your question"')


def show_turn(turn: Turn, open_citation: OpenCitation) -> None:
    """Show a question and its answer, with all that is to be known of it."""
    show_question(turn.question)
    with ui.column().classes("answer").props('role="article" aria-label="Answer"'):
        if turn.searched:
            _note(f"Searched for: {turn.searched}")
        quoted = [citation for citation in turn.citations if citation.is_quoted]
        if quoted:
            for citation in quoted:
                _show_quote(citation, open_citation)
        elif turn.answer:
            _show_text(turn, open_citation)
        if turn.error is not None:
            with ui.row().classes("failure no-wrap").props("role=alert"):
                ui.icon("error_outline")
                ui.label(turn.error)
        for remark in _remarks(turn):
            _note(remark)
        if turn.citations:
            _show_sources(turn, open_citation)


def _show_quote(citation: Citation, open_citation: OpenCitation) -> None:
    assert citation.quote is not None
    with ui.element("blockquote").classes("quoted"):
        ui.label(citation.quote.text).classes("piece")
        _link(citation, f"[{citation.number}]", open_citation)


def _show_text(turn: Turn, open_citation: OpenCitation) -> None:
    """Show the answer with a button for each number in it that means a passage."""
    known = {citation.number: citation for citation in turn.citations}
    with ui.element("div").classes("answer-text"):
        shown = 0
        for found in _NUMBER.finditer(turn.answer):
            citation = known.get(int(found[1]))
            if citation is None:
                continue
            ui.label(turn.answer[shown : found.start()]).classes("piece")
            _link(citation, found[0], open_citation)
            shown = found.end()
        ui.label(turn.answer[shown:]).classes("piece")


def _show_sources(turn: Turn, open_citation: OpenCitation) -> None:
    with ui.expansion(f"Sources ({len(turn.citations)})", value=False).classes("sources").props("dense"):
        for citation in turn.citations:
            passage = citation.passage
            with ui.column().classes("source"):
                label = f"[{citation.number}] {passage.title or passage.document}"
                _link(citation, label, open_citation)
                ui.label(f"{passage.document}, characters {passage.start:,} to {passage.end:,}").classes(
                    "muted"
                )
                for reason in passage.reasons:
                    ui.label(reason).classes("muted")


def _link(citation: Citation, text: str, open_citation: OpenCitation) -> None:
    button = ui.button(text).props("flat dense no-caps").classes("citation")
    passage = citation.passage
    button._props["aria-label"] = f"Source {citation.number}: {passage.title or passage.document}"
    button.on_click(lambda: open_citation(citation, button.html_id))


def _remarks(turn: Turn) -> list[str]:
    remarks = []
    if turn.unknown_numbers:
        numbers = ", ".join(f"[{number}]" for number in turn.unknown_numbers)
        remarks.append(f"The LLM cites {numbers}, which it was not given.")
    if turn.unranked:
        remarks.append(turn.unranked)
    if turn.left_out:
        remarks.append(
            f"{len(turn.left_out)} more passages were found and did not fit into the LLM's context."
        )
    if turn.cut is not None:
        remarks.append(f"Of the only passage that was shown, {turn.cut[0]} of {turn.cut[1]} tokens fitted.")
    return remarks


def _note(text: str) -> None:
    ui.label(text).classes("muted")
