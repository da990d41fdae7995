"""A text cut into tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


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
