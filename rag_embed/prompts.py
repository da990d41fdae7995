"""List prompts as data: how a query and its candidates are put into one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ListPrompt:
    """Template of one sequence that holds a query and its candidates.

    Attributes:
        start: Text before the candidates.
        candidate: Text before each candidate; `{number}` counts from 1.
        query: Text before the query.
        is_query_first: Whether the query stands before the candidates instead of behind them.
        pooling: Which token states make the list vector: all of them, or the query's only.
    """

    start: str = ""
    candidate: str = " "
    query: str = " "
    is_query_first: bool = False
    pooling: Literal["all", "query"] = "all"


E2RANK_LIST = ListPrompt(start="Documents:\n", candidate="\n[{number}] ", query="\nSearch Query: ")
"""The listing of E2Rank (Liu et al. 2025), without the chat template of its own checkpoints."""

QUERY_IN_CONTEXT = ListPrompt(is_query_first=True, pooling="query")
"""The query read in the context of its candidates, and pooled like a chunk of that text."""


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

LIST_PROMPTS: Mapping[str, ListPrompt | ChatPrompt] = {"": QUERY_IN_CONTEXT, "e2rank": E2RANK_CHAT}
"""The prompt of a family by its name; models that were trained for none read the query in context."""
