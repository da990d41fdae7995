"""Answer without an LLM: the sentences of the best passages that are nearest to the question, cited."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)

from rag_embed.cli.searching import Passage, Searcher, to_passages
from rag_embed.errors import UnsupportedQueryError

_SENTENCE = re.compile(r"\S.*?(?:[.!?:](?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)
_FOLLOW_UP_WORDS = 4
_LEAST_NEARNESS = 0.5  # of the best sentence's
NO_ANSWER = "Nothing in the index answers that."


class ExtractiveChatEngine(BaseChatEngine):
    """A LlamaIndex chat engine that quotes instead of writing.

    Its memory is that of a search: a message of few words is a follow-up, and is searched together with the
    message before it.

    Args:
        searcher: Finds the passages.
        quotes: Most passages to quote.
    """

    def __init__(self, searcher: Searcher, *, quotes: int = 3) -> None:
        self._searcher = searcher
        self._quotes = quotes
        self._history: list[ChatMessage] = []

    def chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Quote the nearest sentence of each of the best passages.

        Args:
            message: The question.
            chat_history: Replaces the conversation so far.

        Returns:
            The quotes with their citations. `metadata` has what was searched and the quoted passages.
        """
        if chat_history is not None:
            self._history = list(chat_history)
        searched = self._complete(message)
        nodes = self._searcher.retrieve(searched)[: self._quotes]
        quotes = self._quote(message, to_passages(nodes))
        answer = (
            "\n\n".join(f"{quote.text}\n[{quote.rank}] {quote.place}" for quote in quotes)
            if quotes
            else NO_ANSWER
        )
        self._history += [
            ChatMessage(role=MessageRole.USER, content=message),
            ChatMessage(role=MessageRole.ASSISTANT, content=answer),
        ]
        return AgentChatResponse(
            response=answer, source_nodes=nodes, metadata={"searched": searched, "quotes": quotes}
        )

    async def achat(self, message: str, chat_history: list[ChatMessage] | None = None) -> AgentChatResponse:
        """Do the same on a worker thread."""
        return await asyncio.to_thread(self.chat, message, chat_history)

    def stream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """Refuse: quotes are there at once.

        Raises:
            UnsupportedQueryError: Always.
        """
        raise UnsupportedQueryError("an extractive answer does not come word by word; call chat() instead")

    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """Refuse like `stream_chat`."""
        return self.stream_chat(message, chat_history)

    def reset(self) -> None:
        """Forget the conversation."""
        self._history = []

    @property
    def chat_history(self) -> list[ChatMessage]:
        """The conversation so far."""
        return self._history

    def _complete(self, message: str) -> str:
        asked = [entry.content for entry in self._history if entry.role == MessageRole.USER]
        is_follow_up = bool(asked) and len(message.split()) <= _FOLLOW_UP_WORDS
        return f"{asked[-1]} {message}" if is_follow_up else message

    def _quote(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """Cut each passage down to its sentence nearest to the question; leave out the far ones."""
        sentences = [(passage, match) for passage in passages for match in _SENTENCE.finditer(passage.text)]
        if not sentences:
            return []
        model: Any = self._searcher.embed_model
        vectors = np.array(model.get_text_embedding_batch([match.group() for _, match in sentences]))
        nearness = vectors @ np.array(model.get_query_embedding(question))
        best: dict[int, int] = {}
        for index, (passage, _) in enumerate(sentences):
            if passage.rank not in best or nearness[index] > nearness[best[passage.rank]]:
                best[passage.rank] = index
        limit = _LEAST_NEARNESS * max(nearness[index] for index in best.values())
        quotes: list[Passage] = []
        for index in best.values():
            passage, match = sentences[index]
            if nearness[index] < limit:
                continue
            quotes.append(
                Passage(
                    rank=len(quotes) + 1,
                    score=passage.score,
                    retrieval_score=passage.retrieval_score,
                    document=passage.document,
                    start=passage.start + match.start(),
                    end=passage.start + match.end(),
                    text=match.group(),
                )
            )
        return quotes
