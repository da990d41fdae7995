"""LLMs for the tests of the page: one that takes its time, and fails when it is told to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    MessageRole,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

FAILURE = "the cable is unplugged"


class TalkativeLLM(MockLLM):
    """Repeats the question word by word and cites [1].

    "fail" in the question makes it break off in the middle, "slowly" lets it write for a minute.
    """

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        question = str(messages[-1].content)

        def write() -> ChatResponseGen:
            text = ""
            for word in f"You asked: {question} See [1] and [77].".split(" "):
                if "fail" in question and "fail" in text:
                    raise ConnectionError(FAILURE)
                text += f"{word} "
                message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
                yield ChatResponse(message=message, delta=f"{word} ")
                time.sleep(5 if "slowly" in question else 0.05)

        return write()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Condense a follow-up to the question as it stands."""
        question = prompt.rpartition("Last question:")[2].partition("\n")[0].strip()
        return CompletionResponse(text=question or prompt)
