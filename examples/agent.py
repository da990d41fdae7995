"""An agent of LlamaIndex that searches an index by itself, as often as it wants to."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata

from rag_embed import ContextualEmbedding, QdrantChunkStore
from rag_embed.chat.searching import Searcher


class OneSearch(CustomLLM):
    """Stands for a real LLM, so that this runs without one: searches once, then repeats what came back."""

    @property
    def metadata(self) -> LLMMetadata:
        """What it can."""
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask for a search, or repeat what it brought."""
        said = prompt.rpartition("user: ")[2].rpartition("assistant:")[0].strip()
        if said.startswith("Observation: "):
            return CompletionResponse(text=f"Thought: That will do.\nAnswer: {said[13:]}")
        call = json.dumps({"query": said})
        return CompletionResponse(text=f"Thought: I have to look.\nAction: search\nAction Input: {call}")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Do the same."""
        yield self.complete(prompt)


def main(store: str = ".rag-embed", question: str = "What is this about?", llm: Any = None) -> None:
    """Ask an index that `rag-embed index FOLDER` made."""
    with QdrantChunkStore("documents", path=store) as chunks:
        searcher = Searcher(chunks, ContextualEmbedding(strategy="late"), top_k=2)

        async def search(query: str) -> str:
            """Find passages of the documents that say something about the query."""
            found = await searcher.asearch(query)
            return "\n".join(f"{each.place}: {each.text}" for each in found.passages)

        # Any LLM of LlamaIndex; for one that calls functions by itself, FunctionAgent does it better.
        agent = ReActAgent(tools=[search], llm=llm or OneSearch(), streaming=False)

        async def run() -> object:
            return await agent.run(question)

        print(asyncio.run(run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
