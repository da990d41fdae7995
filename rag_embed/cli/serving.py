"""Serving an index: to agents by the command `mcp`, to people by `chat --web`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import (
    make_model_options,
    make_place,
    open_existing,
    read_filters,
    recall_model,
)
from rag_embed.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


@opt.spread
def mcp(
    *,
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP, not standard input.")] = False,
    listening: opt.ListenChoice,
    finding: opt.SearchChoice,
    place: opt.PlaceChoice,
    embedding: opt.ModelChoice,
) -> None:
    """Serve an index to agents over the Model Context Protocol: search, read, list_documents."""
    try:
        from rag_embed.serving.mcp_server import PATH, make_server, serve_http, serve_stdio
    except ImportError as error:
        raise MissingExtraError(
            f"`rag-embed mcp` needs {error.name}, which is not installed; run pip install 'rag-embed[mcp]'"
        ) from error
    from rag_embed.serving.index_tools import IndexTools

    output = Output(as_json=False)
    filters = read_filters(finding.filters)
    _check_binding(listening)
    found = make_place(place)
    with open_existing(found, output, return_vectors=True) as (store, schema):
        tools = IndexTools(
            store,
            recall_model(found, embedding, store, schema, output),
            candidates=finding.candidates,
            rerank=finding.rerank.value,
            filters=filters,
        )
        server = make_server(tools, collection=schema.collection_name)
        if not http:
            serve_stdio(server)
            return
        output.note(f"serving collection {schema.collection_name!r} at {listening.address}{PATH}")
        serve_http(server, host=listening.host, port=listening.port, token=listening.token)


def serve_page(
    llms: Mapping[str, LLM],
    *,
    listening: opt.ListenChoice,
    history: Path | None,
    top_k: int,
    finding: opt.SearchChoice,
    place: opt.PlaceChoice,
    embedding: opt.ModelChoice,
) -> None:
    """Serve the chatbot in the browser; what is not there yet is made when files are dropped in."""
    from rag_embed.web.library import Library
    from rag_embed.web.server import serve
    from rag_embed.web.sessions import Finding

    _check_binding(listening)
    shared = Finding(top_k, finding.candidates, finding.rerank.value, read_filters(finding.filters))
    library = Library(make_place(place), make_model_options(embedding))
    folder = history or place.store.with_name(f"{place.store.name}-chat")
    Output(as_json=False).note(f"open {listening.address} in a browser; Ctrl-C ends it")
    serve(
        library,
        archive=folder.expanduser().resolve(),
        llms=llms,
        finding=shared,
        host=listening.host,
        port=listening.port,
        token=listening.token,
    )


def _check_binding(listening: opt.ListenChoice) -> None:
    from rag_embed.serving.token_gate import check_binding

    try:
        check_binding(listening.host, listening.token)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
