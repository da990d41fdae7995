"""The page: conversations on the left, talk in the middle, the document on the right."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from nicegui import ui

from rag_embed.chat.filters import parse_filters
from rag_embed.chat.turns import Citation, Turn
from rag_embed.errors import InputError, RagEmbedError
from rag_embed.web.answer_card import show_question, show_turn
from rag_embed.web.document_panel import DocumentPanel
from rag_embed.web.sessions import Session, Sessions
from rag_embed.web.uploading import DropZone

REFRESH_S = 0.05
"""How often a page looks for what is new in its conversation."""


class ChatPage:
    """One page in one browser, looking at one conversation.

    Args:
        sessions: All conversations.
        session: The one it looks at.
    """

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions = sessions
        self._session = session
        self._shown: list[Turn] = []
        self._streaming: ui.label | None = None
        self._state: tuple[object, ...] = ()

    def build(self) -> None:
        """Make the page's elements."""
        self._dark = ui.dark_mode(None)
        self._panel = DocumentPanel(self._sessions.library)
        self._build_side()
        self._build_header()
        with ui.column().classes("talk").props('role=main aria-label="Conversation"'):
            self._welcome = ui.column().classes("welcome")
            with self._welcome:
                ui.label("Ask your documents").classes("welcome-title").props("role=heading aria-level=1")
                self._state_of_index = ui.label().classes("muted")
            self._turns = ui.column().classes("w-full gap-6").props("aria-live=polite")
            self._pending = ui.column().classes("w-full gap-4")
            self._notices = ui.column().classes("w-full").props("aria-live=polite")
        self._build_composer()
        ui.timer(REFRESH_S, self._refresh)
        ui.timer(0.1, self._describe_index, once=True)

    def _build_header(self) -> None:
        with ui.header().classes("items-center no-wrap q-py-xs"):
            ui.button(icon="menu", on_click=self._side.toggle).props(
                'flat round dense aria-label="Conversations and settings"'
            )
            ui.label("rag-embed").classes("text-weight-medium grow")
            ui.button(icon="contrast", on_click=self._switch_dark).props(
                'flat round dense aria-label="Dark or light"'
            )
            ui.button("New", icon="add", on_click=self._start_over).props("flat dense no-caps")

    def _build_side(self) -> None:
        with ui.left_drawer(bordered=True, bottom_corner=True).props(
            "width=290 breakpoint=1000"
        ) as self._side:
            self._side.classes("side-panel").props(
                'role="navigation" aria-label="Conversations and settings"'
            )
            ui.label("Documents").classes("section")
            choices = self._session.choices
            self._collection = (
                ui.select([choices.collection], value=choices.collection, label="Collection")
                .classes("w-full")
                .props("dense outlined")
            )
            self._collection.on_value_change(self._choose)
            self._drop_zone = DropZone(self._sessions.library, self._session, lambda: self._notices)
            self._filters = (
                ui.input_chips("Only where", value=list(choices.filters), new_value_mode="add-unique")
                .classes("w-full")
                .props('dense outlined hint="key=value and Enter, such as source=docs"')
            )
            self._filters.on_value_change(self._choose)
            ui.label("Answers by").classes("section")
            self._llm = (
                ui.select(list(self._sessions.llm_names), value=choices.llm, label="LLM")
                .classes("w-full")
                .props("dense outlined")
            )
            self._llm.on_value_change(self._choose)
            ui.label("Conversations").classes("section")
            self._history = ui.column().classes("history").props("role=list")
        self._list_history()

    def _build_composer(self) -> None:
        with ui.footer().classes("page-footer"), ui.row().classes("composer"):
            self._drop_zone.make_button()
            self._input = (
                ui.textarea(placeholder="Ask a question")
                .props('autogrow outlined dense autofocus aria-label="Your question" rows=1')
                .classes("grow question-input")
            )
            self._input.on("keydown.enter.exact.prevent", self._ask)
            self._send = ui.button(icon="send", on_click=self._ask).props(
                'round dense unelevated aria-label="Send"'
            )
            self._stop = ui.button(icon="stop", on_click=lambda: self._sessions.stop(self._session)).props(
                'round dense unelevated color=negative aria-label="Stop the answer"'
            )

    def _ask(self) -> None:
        question = str(self._input.value or "").strip()
        if not question or self._session.answering is not None:
            return
        try:
            self._sessions.ask(self._session, question)
        except RagEmbedError as error:
            self.tell(str(error))
            return
        self._input.set_value("")
        self._refresh()

    def _retry(self) -> None:
        try:
            self._sessions.retry(self._session)
        except RagEmbedError as error:
            self.tell(str(error))

    def _start_over(self) -> None:
        ui.navigate.to("/")

    def _forget(self, conversation_id: str) -> None:
        try:
            session = self._sessions.find(self._session.owner, conversation_id)
            if session is not None:
                self._sessions.forget(session)
        except InputError:
            self._sessions.archive.delete(self._session.owner, conversation_id)
        if conversation_id == self._session.session_id:
            self._start_over()
        else:
            self._list_history()

    async def _switch_dark(self) -> None:
        is_dark = await ui.run_javascript("Quasar.Dark.isActive")
        self._dark.set_value(not is_dark)

    def _choose(self) -> None:
        filters = tuple(str(each) for each in self._filters.value or ())
        try:
            parse_filters(filters)
        except InputError as error:
            self.tell(str(error))
            self._filters.set_value(list(self._session.choices.filters))
            return
        self._session.choices = replace(
            self._session.choices,
            collection=str(self._collection.value),
            llm=str(self._llm.value),
            filters=filters,
        )
        ui.timer(0, self._describe_index, once=True)

    async def _describe_index(self) -> None:
        """Say what there is to ask about; opening an index the first time takes seconds."""
        library, collection = self._sessions.library, self._session.choices.collection
        try:
            names = await asyncio.to_thread(library.list_collections)
            count = await asyncio.to_thread(library.count, collection)
        except RagEmbedError as error:
            self._state_of_index.set_text(str(error))
            return
        self._collection.set_options(names, value=collection)
        self._state_of_index.set_text(
            f"{count:,} passages in the collection {collection}. Answers quote them, or an LLM writes them; "
            "every number leads to its place in the document."
            if count
            else f"The collection {collection} is empty. Drop in files, or run rag-embed index FOLDER."
        )

    def _refresh(self) -> None:
        """Show what has changed in the conversation since the last look."""
        session = self._session
        answering = session.answering
        state = (*map(id, session.turns), answering and (answering.question, answering.text), session.failure)
        if state == self._state:
            return
        self._state = state
        self._welcome.set_visibility(not session.turns and answering is None)
        self._send.set_visibility(answering is None)
        self._stop.set_visibility(answering is not None)
        self._show_turns()
        if answering is None:
            self._pending.clear()
            self._streaming = None
        elif self._streaming is None:
            self._pending.clear()
            with self._pending:
                show_question(answering.question)
                with ui.row().classes("answer no-wrap"):
                    ui.spinner("dots", size="1.5em").props('aria-label="The answer is being written"')
                    self._streaming = ui.label().classes("answer-text grow")
            _scroll_to_end()
        if answering is not None and self._streaming is not None:
            self._streaming.set_text(answering.text)

    def _show_turns(self) -> None:
        turns = self._session.turns
        if len(self._shown) == len(turns) and all(a is b for a, b in zip(self._shown, turns, strict=True)):
            return
        common = 0
        while common < min(len(self._shown), len(turns)) and self._shown[common] is turns[common]:
            common += 1
        # The last card before the new ones loses its button to try again, so it is made anew, too.
        keep = max(0, common - 1)
        for child in list(self._turns.default_slot.children)[keep:]:
            child.delete()
        with self._turns:
            for index in range(keep, len(turns)):
                with ui.column().classes("w-full gap-4"):
                    show_turn(turns[index], self._open_citation)
                    if index == len(turns) - 1:
                        ui.button("Try again", icon="refresh", on_click=self._retry).props(
                            "flat dense no-caps size=sm"
                        )
        is_new = len(turns) > len(self._shown)
        self._shown = list(turns)
        if turns:
            ui.navigate.history.replace(f"/c/{self._session.session_id}")
            self._list_history()
        if is_new:
            _scroll_to_end()

    def _list_history(self) -> None:
        self._history.clear()
        with self._history:
            for each in self._sessions.archive.list_conversations(self._session.owner):
                with ui.element("div").classes("history-row row").props("role=listitem"):
                    is_current = each.conversation_id == self._session.session_id
                    ui.link(each.title, f"/c/{each.conversation_id}").classes(
                        f"history-link{' current' if is_current else ''}"
                    )
                    ui.button(
                        icon="delete_outline", on_click=partial(self._forget, each.conversation_id)
                    ).props('flat round dense size=sm aria-label="Delete this conversation"')

    async def _open_citation(self, citation: Citation, opener: str) -> None:
        await self._panel.show(citation, self._session.choices.collection, opener=opener)

    def tell(self, text: str) -> None:
        """Show a message where the talk is."""
        with self._notices:
            ui.label(text).classes("failure").props("role=alert")
        _scroll_to_end()


def _scroll_to_end() -> None:
    # Twice: at once, and when what is new has found its height.
    ui.run_javascript(
        "for (const wait of [50, 400])"
        " setTimeout(() => window.scrollTo({top: document.body.scrollHeight}), wait)"
    )
