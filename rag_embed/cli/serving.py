"""The command that serves an index to agents: `mcp`."""

from __future__ import annotations

from typing import Annotated

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import make_model_options, make_place, open_existing, read_filters
from rag_embed.errors import InputError, MissingExtraError


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
    from rag_embed.serving.token_gate import check_binding

    output = Output(as_json=False)
    filters = read_filters(finding.filters)
    try:
        check_binding(listening.host, listening.token)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    with open_existing(make_place(place), output, return_vectors=True) as (store, schema):
        tools = IndexTools(
            store,
            make_model_options(embedding).recall(schema),
            schema,
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
