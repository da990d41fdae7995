"""What a result says of the stages it went through: metadata, hidden from models and kept from stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from typing_extensions import Self

DENSE_SCORE = "dense_score"
"""Similarity of the query vector and the chunk vector."""
LEXICAL_SCORE = "lexical_score"
"""BM25 of the query's words in the chunk and in what its document says of itself."""
TOKEN_SCORE = "late_interaction_score"
"""MaxSim: mean over the query's tokens of the best cosine with a token vector of the chunk."""
RETRIEVAL_SCORE = "retrieval_score"
"""The score before reranking."""
TOKENS_FROM = "late_interaction_tokens"
"""Where the chunk's token vectors were from: "stored", or "read in its document", or "read alone"."""
SHOWN_TOKENS = "rerank_shown_tokens"
"""How much of the chunk the list prompt held, such as "24/181"; absent if nothing."""
SKIPPED = "rerank_skipped"
"""Why the first stage's order was kept; absent if it was not."""

STAGE_KEYS = (DENSE_SCORE, LEXICAL_SCORE, TOKEN_SCORE, RETRIEVAL_SCORE, TOKENS_FROM, SHOWN_TOKENS, SKIPPED)


class AnnotatedNode(Protocol):
    """A node of LlamaIndex, seen without importing it."""

    metadata: dict[str, Any]
    excluded_embed_metadata_keys: list[str]
    excluded_llm_metadata_keys: list[str]

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """Copy it, with other values of some fields."""


Node = TypeVar("Node", bound=AnnotatedNode)


def with_hidden_metadata(node: Node, added: Mapping[str, object]) -> Node:
    """Copy a node and say more in its metadata, which neither embedding models nor LLMs are shown."""

    def hide(keys: list[str]) -> list[str]:
        return list(dict.fromkeys([*keys, *added]))

    return node.model_copy(
        update={
            "metadata": {**node.metadata, **added},
            "excluded_embed_metadata_keys": hide(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": hide(node.excluded_llm_metadata_keys),
        }
    )
