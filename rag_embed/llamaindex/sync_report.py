"""What bringing a store up to date did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

State = Literal["added", "changed", "unchanged", "removed", "kept", "failed"]


@dataclass(frozen=True, slots=True)
class SyncStep:
    """One document is done.

    Attributes:
        document_id: Which.
        state: What was done.
        characters: Length of its text; 0 for a removed one.
    """

    document_id: str
    state: State
    characters: int


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What bringing a store up to date took.

    Attributes:
        added: Ids of documents of which the store had nothing.
        changed: Ids of documents of which the store had something else.
        removed: Ids of documents that are gone.
        unchanged: Ids of documents that were complete already.
        kept: Ids of documents that are gone, or not to be seen at present, and stay.
        failed: Ids of documents that could not be chunked, embedded or stored; the store has of them what it
            had before.
        chunks: Chunks of all present documents.
        embedded: Chunks that went through the model.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[str, ...]
    chunks: int
    embedded: int

    @classmethod
    def join(cls, parts: Sequence[SyncReport], order: Sequence[str]) -> SyncReport:
        """Say of several what one would.

        Args:
            parts: Of different documents.
            order: All their ids; each list of the result is in this order.
        """
        place = {document_id: position for position, document_id in enumerate(order)}

        def ids(*lists: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(sorted(chain.from_iterable(lists), key=place.__getitem__))

        return cls(
            added=ids(*(part.added for part in parts)),
            changed=ids(*(part.changed for part in parts)),
            removed=ids(*(part.removed for part in parts)),
            unchanged=ids(*(part.unchanged for part in parts)),
            kept=ids(*(part.kept for part in parts)),
            failed=ids(*(part.failed for part in parts)),
            chunks=sum(part.chunks for part in parts),
            embedded=sum(part.embedded for part in parts),
        )
