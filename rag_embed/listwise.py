"""Rerank candidates by their stored vectors, with the encoder that made them.

Two ways to a better query vector, both compared with the stored chunk vectors by cosine:

* the list vector: query and candidates go through the encoder once, as one prompt. E2Rank, Liu et al. 2025,
  "E2Rank: Your Text Embedding can Also be an Effective and Efficient Listwise Reranker", section 3.
  With their checkpoints their prompt is used as it is. Differences: other encoders and prompts with mean
  pooling, candidates cut visibly where the context is too short, and a share of the first stage's score.
* feedback: the query vector moved towards the best candidates' vectors, without any forward pass. Rocchio
  1971, "Relevance feedback in information retrieval", with the first stage's top as the relevant set and no
  negative part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.errors import ContextOverflowError, EmptyTextError, InputError
from rag_embed.guards import check_list_prompt
from rag_embed.passes import TokenEncoder
from rag_embed.pooling import normalise, pool_text
from rag_embed.prompts import ChatPrompt, ListPrompt
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
    encoder: TokenEncoder, query: str, candidates: Sequence[str], *, prompt: ListPrompt | ChatPrompt
) -> ListVector:
    """Embed a query together with its candidates, in one forward pass.

    Args:
        encoder: Gives token states.
        query: The user's question.
        candidates: Texts in the first stage's order, at least one.
        prompt: How they are put into one sequence; a chat prompt is pooled as the model pools any text.

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
    if isinstance(prompt, ChatPrompt):
        mean, limit = _embed_chat(encoder, query, candidates, tokens, prompt)
    else:
        check_list_prompt(encoder.profile)
        mean, limit = _embed_joined(encoder, query_tokens.ids, [each.ids for each in tokens], prompt)
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


def _embed_joined(
    encoder: TokenEncoder,
    query_ids: Int[np.ndarray, " query"],
    candidate_ids: Sequence[Int[np.ndarray, " _"]],
    prompt: ListPrompt,
) -> tuple[Float[Tensor, " dim"], int]:
    """The vector of query and candidates, each cut into tokens alone, and how many of each it shows."""
    start, before_query, *before_candidates = (
        tokens.ids
        for tokens in encoder.tokenize_all(
            [prompt.start, prompt.query]
            + [prompt.candidate.format(number=i + 1) for i in range(len(candidate_ids))]
        )
    )
    fixed = len(start) + len(before_query) + len(query_ids) + sum(map(len, before_candidates))
    limit = _common_limit([len(ids) for ids in candidate_ids], encoder.capacity - fixed)
    asked = [before_query, query_ids]
    listed = [start]
    for before, ids in zip(before_candidates, candidate_ids, strict=True):
        listed += [before, ids[:limit]]
    sequence = np.concatenate(asked + listed if prompt.is_query_first else listed + asked).astype(np.int64)
    (states,) = encoder.encode([sequence])
    if prompt.pooling == "query":
        first = len(before_query) if prompt.is_query_first else len(sequence) - len(query_ids)
        first += len(encoder.prefix_ids)
        states = states[first : first + len(query_ids)]
    return states.float().mean(dim=0).cpu(), limit


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


def move_to_feedback(
    query_vector: Float[Tensor, " dim"], feedback: Float[Tensor, "candidates dim"], *, weight: float
) -> Float[Tensor, " dim"]:
    """Move a query vector towards the mean of the vectors taken as relevant: unit(q + weight * mean)."""
    moved = normalise(query_vector[None]) + weight * normalise(feedback).mean(dim=0)
    return normalise(moved)[0]


def cosine_scores(
    vector: Float[Tensor, " dim"], stored: Float[Tensor, "candidates stored_dim"]
) -> Float[Tensor, " candidates"]:
    """Cosine of one vector with each stored one."""
    if vector.shape[0] != stored.shape[1]:
        raise InputError(
            f"stored vectors have {stored.shape[1]} dimensions, the encoder makes {vector.shape[0]}; "
            "rerank with the model that the collection was built with"
        )
    return normalise(stored) @ normalise(vector[None])[0]


def fuse_scores(
    first: Float[Tensor, " candidates"], second: Float[Tensor, " candidates"], *, weight: float
) -> Float[Tensor, " candidates"]:
    """Mix two scores of the same candidates, `weight` parts of the second.

    The second is put on the first's scale beforehand (mean and standard deviation over the candidates), so
    that the weight means the same whatever the first stage's scores are, and the result reads like them.
    """
    spread = second.std(unbiased=False)
    if len(first) < 2 or spread == 0:
        return first
    rescaled = (second - second.mean()) / spread * first.std(unbiased=False) + first.mean()
    return (1 - weight) * first + weight * rescaled


def as_matrix(vectors: Sequence[Sequence[float]]) -> Float[Tensor, "candidates dim"]:
    """Stack stored vectors.

    Raises:
        InputError: They differ in length.
    """
    sizes: Int[np.ndarray, " candidates"] = np.array([len(vector) for vector in vectors])
    if len(set(sizes.tolist())) > 1:
        raise InputError(f"stored vectors have {sorted(set(sizes.tolist()))} dimensions; expected one size")
    return torch.tensor(vectors, dtype=torch.float32)
