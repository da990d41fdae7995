"""Late interaction as a function of states, and what is kept of a token state.

Khattab & Zaharia 2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
over BERT", arXiv:2004.12832, section 3: each token of the query finds the most similar token of the chunk.
Differs in: the mean over the query's tokens instead of their sum, so that questions of any length compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad

from rag_embed.errors import DimensionMismatchError, InputError

TokenEncoding: TypeAlias = Literal["float16", "int8"]
"""Numbers of a token vector on their way to a store, which may keep fewer bits."""

KeptTokens: TypeAlias = npt.NDArray[np.int8] | npt.NDArray[np.float16]
"""What is kept of a chunk's token states, a row per token vector."""

_LEVELS = 127


@dataclass(frozen=True, slots=True)
class TokenForm:
    """What is kept of the token states of a chunk.

    Attributes:
        encoding: Numbers of a token vector.
        neighbours: How many tokens in reading order are averaged into one vector; 1 keeps every token.
    """

    encoding: TokenEncoding = "int8"
    neighbours: int = 4

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; expected at least 1, which keeps every token")

    def __str__(self) -> str:
        pooled = f", {self.neighbours} tokens to a vector" if self.neighbours > 1 else ""
        return f"{self.encoding}{pooled}"

    def keep(self, token_states: Float[Tensor, "tokens dim"]) -> Tensor:
        """Keep the token states of a chunk.

        Args:
            token_states: In reading order, at least one.

        Returns:
            A row per vector, on the device of the states: neighbours averaged as unit vectors, in the numbers
            of the encoding. Only the directions of the rows count; `to_units` makes unit vectors of them.
        """
        units: Tensor = normalize(token_states.float())
        missing = -len(units) % self.neighbours
        pooled = pad(units, (0, 0, 0, missing)).unflatten(0, (-1, self.neighbours)).sum(dim=1)
        if self.encoding == "float16":
            return normalize(pooled).half()
        largest = pooled.abs().amax(dim=1, keepdim=True)
        scaled: Tensor = pooled / torch.where(largest > 0, largest, 1.0) * _LEVELS
        return scaled.round().to(torch.int8)


DEFAULT_FORM = TokenForm()
"""Four neighbours averaged: behind a hybrid search no worse than every token by itself, behind vectors alone
three quarters of its gain, at a quarter of the bytes (docs/benchmarks.md)."""


def to_units(states: npt.NDArray[np.generic]) -> Float[np.ndarray, "tokens dim"]:
    """Scale each row to length 1, as float32; one of no length stays as it is and is similar to nothing."""
    states = states.astype(np.float32)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    return np.asarray(states / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def max_sim(
    query_vectors: Float[np.ndarray, "query_tokens dim"], chunk_vectors: Float[np.ndarray, "vectors dim"]
) -> float:
    """Mean over the query's tokens of the largest cosine with any token vector of the chunk.

    Args:
        query_vectors: Unit vectors, at least one.
        chunk_vectors: Unit vectors, at least one.

    Raises:
        DimensionMismatchError: They have different sizes.
    """
    if query_vectors.shape[1] != chunk_vectors.shape[1]:
        raise DimensionMismatchError(
            f"token vectors of the query have {query_vectors.shape[1]} dimensions, those of the chunk "
            f"{chunk_vectors.shape[1]}; compare what one model made"
        )
    return float((query_vectors @ chunk_vectors.T).max(axis=1).mean())


def max_sims(
    query_vectors: Float[np.ndarray, "query_tokens dim"],
    chunks: Sequence[Float[np.ndarray, "_ dim"]],
) -> Float[np.ndarray, " chunks"]:
    """Compare a query with several chunks, as `max_sim` does with one."""
    return np.array([max_sim(query_vectors, vectors) for vectors in chunks], dtype=np.float32)
