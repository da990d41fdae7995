"""The list vector: a query and its candidates in one prompt, one forward pass, one better query vector.

E2Rank, Liu et al. 2025, "E2Rank: Your Text Embedding can Also be an Effective and Efficient Listwise
Reranker", arXiv:2510.22733, section 3, for checkpoints that were trained for it; compared with the stored
chunk vectors by cosine. Differences: candidates are cut visibly where the context is too short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.errors import ContextOverflowError, EmptyTextError
from rag_embed.passes import TokenEncoder
from rag_embed.pooling import normalise, pool_text
from rag_embed.prompts import ChatPrompt
from rag_embed.tokens import Tokens


@dataclass(frozen=True, slots=True)
class ListVector:
    """The vector of a query among its candidates.

    Attributes:
        vector: Unit length, float32 on the CPU.
        shown_tokens: For each candidate, how many of its tokens were in the prompt.
        total_tokens: For each candidate, how many it has.
    """

    vector: Float[Tensor, " dim"]
    shown_tokens: tuple[int, ...]
    total_tokens: tuple[int, ...]


def embed_list(
    encoder: TokenEncoder, query: str, candidates: Sequence[str], *, prompt: ChatPrompt
) -> ListVector:
    """Embed a query together with its candidates, in one forward pass.

    Args:
        encoder: Gives token states.
        query: The user's question.
        candidates: Texts in the first stage's order, at least one.
        prompt: How they are put into one sequence, which is pooled as the model pools any text.

    Returns:
        The list vector, and how much of each candidate fitted: when the context is short all candidates are
        cut to one common length, so short ones stay whole.

    Raises:
        EmptyTextError: The query has no token.
        ContextOverflowError: The context has no room for one token of each candidate.
    """
    query_tokens, *tokens = encoder.tokenize_all([query, *candidates])
    if not len(query_tokens):
        raise EmptyTextError(f"the query {query[:40]!r} holds no token; ask something")
    total = tuple(map(len, tokens))
    mean, limit = _embed_chat(encoder, query, candidates, tokens, prompt)
    return ListVector(
        vector=normalise(mean[None])[0],
        shown_tokens=tuple(min(length, limit) for length in total),
        total_tokens=total,
    )


def _embed_chat(
    encoder: TokenEncoder, query: str, candidates: Sequence[str], tokens: Sequence[Tokens], prompt: ChatPrompt
) -> tuple[Float[Tensor, " dim"], int]:
    """The vector of a chat turn, and how many tokens of each candidate it shows.

    The turn is cut into tokens as a whole, as in training; so only then it is known whether it fits, and what
    is too much is taken off the candidates.
    """

    def fill(texts: Sequence[str]) -> Int[np.ndarray, " tokens"]:
        lines = [prompt.candidate.format(number=i, text=text) for i, text in enumerate(texts, start=1)]
        return encoder.tokenize_template(prompt.template, candidates="\n".join(lines), query=query)

    room = encoder.max_tokens - len(fill([""] * len(candidates)))
    while True:
        limit = _common_limit([len(each) for each in tokens], room)
        ids = fill(
            [
                text if len(each) <= limit else text[: each.ends[limit - 1]]
                for text, each in zip(candidates, tokens, strict=True)
            ]
        )
        if len(ids) <= encoder.max_tokens:
            break
        room -= len(ids) - encoder.max_tokens
    (states,) = encoder.encode([ids], adds_special_tokens=False)
    return pool_text(states, encoder.profile.pooling), limit


def _common_limit(lengths: Sequence[int], room: int) -> int:
    """Largest limit under which texts of these lengths fit into the room together."""
    if room < len(lengths):
        raise ContextOverflowError(
            f"the query and the prompt leave room for {max(room, 0)} tokens of {len(lengths)} candidates; "
            "expected at least one each. Shorten the query, or show the model fewer candidates"
        )
    remaining = room
    for count, length in zip(range(len(lengths), 0, -1), sorted(lengths)):
        if length * count > remaining:
            return remaining // count
        remaining -= length
    return max(lengths, default=0)
