"""The chatbot in the browser inside one's own program: which LLMs, which documents, where it is kept."""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core.llms import MockLLM

from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.web.library import Library
from rag_embed.web.server import serve
from rag_embed.web.sessions import Finding


def main(store: str = ".rag-embed", port: str = "8000") -> None:
    """Serve the index in a folder; where there is none yet, it is made of the files dropped into the page."""
    serve(
        Library(Place("documents", Path(store)), ModelOptions()),
        archive=Path(f"{store}-chat"),
        # Any LLMs of LlamaIndex, to choose from in the page beside quoting. MockLLM repeats its prompt.
        llms={"repeats its prompt": MockLLM(max_tokens=60)},
        finding=Finding(top_k=8),
        port=int(port),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
