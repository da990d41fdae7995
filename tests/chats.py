"""What the tests of conversations share: an index of two small documents, and LLMs that fail on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from pydantic import Field

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.chat.searching import Searcher

CAFE = """# Harbour café

The café roasts its own beans. It opens at seven in the morning and closes at six in the evening, except on
Sundays. There is room for forty guests inside and for twenty on the terrace.

# Owner

She learned the trade in Trieste. Her beans come from three farms in Ethiopia, which she visits every spring.
"""
FERRY = """# Ferry

The ferry leaves the pier every twenty minutes. Bicycles travel free of charge, dogs pay half.

# Captain

He comes from Bergen. Before he came to the lake he sailed to Iceland and to the Faroe Islands for ten years.
"""
TEXTS = {"cafe.md": CAFE, "ferry.md": FERRY}


def open_store(texts: dict[str, str] = TEXTS, *, chunk_size: int = 56) -> QdrantChunkStore:
    """Index texts, by their names, in memory."""
    model = ContextualEmbedding(strategy="late")
    splitter = SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0)
    parser = LateChunkingNodeParser(node_parser=splitter, embed_model=model)
    documents = [
        Document(text=text, id_=name, metadata={"file_name": name, "place": name[:-3]})
        for name, text in texts.items()
    ]
    store = QdrantChunkStore("chat", location=":memory:", lexical=True)
    store.add(parser.get_nodes_from_documents(documents))
    return store


def open_searcher(texts: dict[str, str] = TEXTS, *, top_k: int = 5, chunk_size: int = 56) -> Searcher:
    """Search such an index."""
    store = open_store(texts, chunk_size=chunk_size)
    return Searcher(store, ContextualEmbedding(strategy="late"), top_k=top_k)


class ScriptedLLM(MockLLM):
    """Says what it was told to say, word by word, and breaks where it was told to break.

    Attributes:
        says: Its answer; of a rewritten question too.
        breaks_after: Words after which it fails; None for never.
        prompts: All it was given.
    """

    says: str = "At seven [1]."
    breaks_after: int | None = None
    window: int = 800
    prompts: list[str] = Field(default_factory=list)

    def __init__(
        self, says: str = "At seven [1].", breaks_after: int | None = None, window: int = 800
    ) -> None:
        super().__init__()
        self.says, self.breaks_after, self.window, self.prompts = says, breaks_after, window, []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.window, num_output=16)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text=self.says)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        self.prompts.append("\n".join(f"{each.role.value}: {each.content}" for each in messages))

        def speak() -> Any:
            said = ""
            for number, word in enumerate(self.says.split(" ")):
                if number == self.breaks_after:
                    raise ConnectionError("the line went dead")
                delta = word if number == 0 else f" {word}"
                said += delta
                yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=delta)

        return speak()
