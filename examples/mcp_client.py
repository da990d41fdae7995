"""An agent's side of `rag-embed mcp`: the tools of an index, by the client of the official SDK."""

from __future__ import annotations

import asyncio
import sys

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters


async def ask(store: str, question: str) -> None:
    # The client starts the server and talks to it by standard input and output.
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "rag_embed.cli", "mcp", "--store", store]
    )
    async with Client(server) as client:
        tools = await client.list_tools()
        print("tools:", ", ".join(sorted(tool.name for tool in tools.tools)))
        found = await client.call_tool("search", {"query": question, "top_k": 1})
        assert found.structured_content is not None
        (passage,) = found.structured_content["passages"]
        print(f"{passage['document']}:{passage['start']}-{passage['end']}", passage["text"])


def main(store: str = ".rag-embed", question: str = "What is this about?") -> None:
    """Ask an index that `rag-embed index FOLDER` made."""
    asyncio.run(ask(store, question))


if __name__ == "__main__":
    main(*sys.argv[1:])
