"""List prompts as data: how a query and its candidates are put into one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Template of a chat turn that holds a query and its candidates; read as one text.

    Attributes:
        template: The whole turn, with `{candidates}` and `{query}`; special tokens are spelled out and meant.
        candidate: One line per candidate, with `{number}`, which counts from 1, and `{text}`.
    """

    template: str
    candidate: str = "[{number}] {text}"


E2RANK_CHAT = ChatPrompt(
    "<|im_start|>user\n"
    "Given a web search query and some relevant documents, rerank the documents that answer the query:\n"
    "Documents:\n{candidates}\nSearch Query: {query}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""The list prompt of E2Rank's checkpoints (Liu et al. 2025, arXiv:2510.22733, and their evaluation code):
Qwen3's chat template without thinking. The example in their README lacks the line break before the query."""

LIST_PROMPTS: Mapping[str, ChatPrompt] = {"e2rank": E2RANK_CHAT}
"""The prompt of a family that was trained for one, by the family's name."""
