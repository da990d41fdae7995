"""An index over the Model Context Protocol, by standard input and output or over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from rag_embed.errors import RagEmbedError
from rag_embed.serving.index_tools import IndexTools
from rag_embed.serving.token_gate import App, check_binding, run_behind_token

PATH = "/mcp"

_INSTRUCTIONS = (
    "Search the documents of this index before answering questions about them. Cite what you use by document "
    "and characters, as search returns them; read shows more of a document around a passage."
)
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

P = ParamSpec("P")
R = TypeVar("R")


def make_server(tools: IndexTools, *, collection: str) -> MCPServer:
    """Make a server of the three tools; nothing runs yet.

    Args:
        tools: What it offers.
        collection: Name of the index, which clients show.
    """
    server: MCPServer = MCPServer(
        "rag-embed",
        title=f"rag-embed: {collection}",
        instructions=_INSTRUCTIONS,
        log_level="WARNING",
    )
    for tool in (tools.search, tools.read, tools.list_documents):
        server.tool(annotations=_READ_ONLY)(_saying_why(tool))
    return server


def serve_stdio(server: MCPServer) -> None:
    """Serve the program that started this one, until it closes standard input.

    Standard output belongs to the protocol; what else is printed goes to standard error.
    """
    server.run("stdio")


def serve_http(server: MCPServer, *, host: str, port: int, token: str | None) -> None:
    """Serve at http://HOST:PORT/mcp until the process is ended.

    Args:
        server: What to serve.
        host: Address to bind.
        port: To listen at.
        token: What requests must carry; None lets everybody on this machine in.

    Raises:
        InputError: An address that other machines reach, and no token, or a token that can be guessed.
    """
    check_binding(host, token)
    app: App = server.streamable_http_app(streamable_http_path=PATH, host=host)
    run_behind_token(app, host=host, port=port, token=token)


def _saying_why(tool: Callable[P, R]) -> Callable[P, R]:
    """Let the agent read what went wrong on purpose; the SDK hides what it does not know."""

    @wraps(tool)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return tool(*args, **kwargs)
        except RagEmbedError as error:
            raise ToolError(str(error)) from error

    return run
