"""A text cut into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from rag_embed.errors import ContextOverflowError


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text without special tokens.

    Attributes:
        ids: Vocabulary ids in reading order.
        starts: First character of each token in the text.
        ends: One past its last character.
    """

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " tokens"]
    ends: Int[np.ndarray, " tokens"]

    def __len__(self) -> int:
        return len(self.ids)


def surround(
    sequences: Iterable[Int[np.ndarray, " _"]],
    prefix: Sequence[int],
    suffix: Sequence[int],
    *,
    max_tokens: int,
    name: str,
) -> Iterator[Int[np.ndarray, " _"]]:
    """Put special tokens around sequences, one by one as they are asked for.

    Args:
        sequences: Vocabulary ids.
        prefix: Before each.
        suffix: Behind each.
        max_tokens: Most that the model reads, special tokens included.
        name: Of the model, for the message.

    Raises:
        ContextOverflowError: One is longer than the model reads.
    """
    capacity = max_tokens - len(prefix) - len(suffix)
    for ids in sequences:
        if len(ids) > capacity:
            raise ContextOverflowError(
                f"{len(ids)} tokens in one sequence; {name} reads at most {capacity} at once. Split the text "
                "into windows first"
            )
        yield np.concatenate([prefix, ids, suffix]).astype(np.int64)
