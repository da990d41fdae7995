"""Which tokens of a text a multi-vector model was trained to compare, as vocabulary ids.

Khattab & Zaharia 2020, arXiv:2004.12832, sections 3.2 and 3.3: documents without punctuation, queries filled
up with [MASK]. Differs in: a query that is longer than its fill is read whole instead of being cut, and a
chunk of punctuation alone keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from rag_embed.errors import UnsupportedModelError
from rag_embed.guards import Side
from rag_embed.profiles import Profile

Ids = Int[np.ndarray, " _"]


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """The rules of one checkpoint.

    Attributes:
        skipped_ids: Tokens that are not compared.
        skipping_sides: Whose tokens are skipped.
        query_length: Tokens up to which a query is filled, special tokens included; 0 if it is not.
        expansion_id: What it is filled with.
        is_expansion_attended: Whether its own tokens see those.
    """

    skipped_ids: tuple[int, ...]
    skipping_sides: tuple[str, ...]
    query_length: int = 0
    expansion_id: int = 0
    is_expansion_attended: bool = False

    def find(self, ids: Ids, side: Side) -> Bool[np.ndarray, " _"]:
        """Say of each token whether it is compared."""
        if side not in self.skipping_sides:
            return np.ones(len(ids), dtype=bool)
        return ~np.isin(ids, self.skipped_ids)

    def expand(self, ids: Ids) -> tuple[Ids, int]:
        """Fill up a query.

        Args:
            ids: The whole query, special tokens included.

        Returns:
            The query with what stands behind it, and how many tokens of that the others do not see.
        """
        count = max(self.query_length - len(ids), 0)
        expanded = np.concatenate([ids, np.full(count, self.expansion_id)]).astype(np.int64)
        return expanded, 0 if self.is_expansion_attended else count


def resolve_scored_tokens(
    profile: Profile, find_id: Callable[[str], int | None], *, default_expansion_id: int | None
) -> ScoredTokens | None:
    """Look up what a checkpoint names by words.

    Args:
        profile: Of the checkpoint.
        find_id: Id of a token; None if the vocabulary has none. A word without one can be in no text.
        default_expansion_id: Of the token that fills queries where none is named.

    Returns:
        The rules; None for a model that was not trained to compare tokens.

    Raises:
        UnsupportedModelError: The token that fills queries does not exist, or they would be longer than the
            model reads.
    """
    declared = profile.multi_vector
    if declared is None:
        return None
    found = [find_id(word) for word in declared.skipped_words]
    skipped_ids = tuple(token_id for token_id in found if token_id is not None)
    expansion = declared.expansion
    if expansion is None:
        return ScoredTokens(skipped_ids, declared.skipping_sides)
    expansion_id = default_expansion_id if expansion.token is None else find_id(expansion.token)
    if expansion_id is None:
        raise UnsupportedModelError(
            f"{profile.name} fills up queries with {expansion.token or 'its mask token'!r}, which its "
            "tokenizer does not know; expected a token of the vocabulary in query_expansion"
        )
    if expansion.length > profile.max_tokens:
        raise UnsupportedModelError(
            f"{profile.name} fills up queries to {expansion.length} tokens and reads at most "
            f"{profile.max_tokens}; expected a shorter query_expansion"
        )
    return ScoredTokens(
        skipped_ids, declared.skipping_sides, expansion.length, expansion_id, expansion.is_attended
    )
