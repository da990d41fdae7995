"""Serve the chatbot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llama_index.core.llms import LLM

from rag_embed.errors import MissingExtraError, RagEmbedError
from rag_embed.serving.token_gate import check_binding, is_loopback, run_behind_token
from rag_embed.web.archive import Archive
from rag_embed.web.library import Library
from rag_embed.web.sessions import Finding, Sessions

STYLE = Path(__file__).with_name("style.css")
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]


def serve(
    library: Library,
    *,
    archive: Path,
    llms: Mapping[str, LLM],
    finding: Finding,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
) -> None:
    """Serve the page at http://HOST:PORT until the process is ended.

    Args:
        library: What is searched, and where dropped files go.
        archive: Folder in which conversations are kept.
        llms: What may be chosen beside quoting, by name; the first is chosen at first.
        finding: How is searched.
        host: Address to bind.
        port: To listen at.
        token: What browsers must say; None lets everybody on this machine in.

    Raises:
        InputError: An address that other machines reach, and no token, or a token that can be guessed.
        MissingExtraError: NiceGUI is not installed.
    """
    check_binding(host, token)
    # NiceGUI would make a folder where the process was started; read when it is imported.
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(archive / "nicegui"))
    try:
        from fastapi import FastAPI
        from nicegui import app as nicegui_app
        from nicegui import ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError as error:
        raise MissingExtraError(
            f"the chatbot in the browser needs {error.name}, which is not installed; run "
            "pip install 'rag-embed[web]'"
        ) from error
    from rag_embed.web.page import ChatPage

    sessions = Sessions(library, Archive(archive), llms, finding)

    def show(conversation_id: str | None) -> None:
        ui.add_css(STYLE)
        owner = str(nicegui_app.storage.browser["id"])
        problem = None
        session = None
        if conversation_id is not None:
            try:
                session = sessions.find(owner, conversation_id)
                problem = (
                    None if session else "That conversation is not one of this browser's. Here is a new one."
                )
            except RagEmbedError as error:
                problem = str(error)
        page = ChatPage(sessions, session or sessions.begin(owner))
        page.build()
        if problem is not None:
            page.tell(problem)

    @ui.page("/", title="rag-embed")
    def new() -> None:
        show(None)

    @ui.page("/c/{conversation_id}", title="rag-embed")
    def old(conversation_id: str) -> None:
        show(conversation_id)

    outer = FastAPI(openapi_url=None)
    if is_loopback(host):
        # A foreign page whose name was made to mean this machine must not read what is here.
        outer.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES)
    ui.run_with(
        outer,
        title="rag-embed",
        favicon="📄",
        dark=None,
        storage_secret=sessions.archive.read_secret(),
        session_middleware_kwargs={"max_age": 365 * 24 * 3600, "same_site": "strict"},
        show_welcome_message=False,
        reconnect_timeout=30.0,
    )
    try:
        run_behind_token(outer, host=host, port=port, token=token)
    finally:
        library.close()
