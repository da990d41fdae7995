"""List prompts as data: how a query and its candidates are put into one sequence."""

from __future__ import annotations

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
