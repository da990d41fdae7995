"""Files that a person drops into the page, and what becomes of them on their way into the collection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nicegui import events, ui

from rag_embed.errors import RagEmbedError
from rag_embed.web.library import Library
from rag_embed.web.sessions import Session

MAX_FILE_BYTES = 50_000_000

logger = logging.getLogger(__name__)


class DropZone:
    """A place to drop files at.

    Args:
        library: Takes them in.
        session: Says into which collection.
        notices: Gives the element in which is said what becomes of them.
    """

    def __init__(self, library: Library, session: Session, notices: Callable[[], ui.element]) -> None:
        self._library = library
        self._session = session
        self._notices = notices
        self._upload = (
            ui.upload(
                multiple=True,
                auto_upload=True,
                label="Drop files here, or press +",
                max_file_size=MAX_FILE_BYTES,
                on_upload=self._take,
                on_rejected=lambda: self._say(
                    f"A file was refused: it is larger than {MAX_FILE_BYTES // 1_000_000} MB."
                ),
            )
            .props("flat bordered")
            .classes("drop-zone")
        )
        ui.label("Files join the collection, which everybody here searches.").classes("muted")

    def make_button(self) -> None:
        """Make a button that opens the browser's choice of files."""
        ui.button(icon="attach_file").props('flat round dense aria-label="Add files"').on(
            "click", js_handler=f"() => getElement({self._upload.id}).pickFiles()"
        )

    async def _take(self, event: events.UploadEventArguments) -> None:
        file, collection = event.file, self._session.choices.collection
        news = f"{file.name}: received"

        def tell(stage: str) -> None:
            nonlocal news
            news = f"{file.name}: {stage} …"

        with self._notices(), ui.row().classes("notice no-wrap items-center") as row:
            row.props("role=status")
            spinner = ui.spinner(size="1.2em")
            label = ui.label(news).classes("grow").style("overflow-wrap: anywhere")
            # The work is done on another thread, which may not touch the page.
            timer = ui.timer(0.2, lambda: label.set_text(news))
        try:
            chunks = await asyncio.to_thread(
                self._library.add, collection, self._session.owner, file.name, await file.read(), tell=tell
            )
            news = f"{file.name} is ready: {chunks} passages in {collection}. Ask about it."
        except (RagEmbedError, OSError) as error:
            news = f"{file.name} was not added: {error}"
            row.classes("failure", remove="notice")
        except Exception as error:
            logger.exception("a file was not added")
            news = f"{file.name} was not added: {type(error).__name__}: {error}"
            row.classes("failure", remove="notice")
        timer.cancel()
        spinner.delete()
        label.set_text(news)
        self._upload.reset()

    def _say(self, text: str) -> None:
        with self._notices():
            ui.label(text).classes("failure").props("role=alert")
