"""A document and its chunks, ready to be embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_embed.errors import InputError
from rag_embed.spans import CharSpan


@dataclass(frozen=True, slots=True)
class ChunkedText:
    """A document and its chunks.

    Attributes:
        text: The whole document.
        spans: Characters of each chunk, in any order; they may overlap and leave gaps.
        head: Stands before every window: a title, a heading path.
        alone: What each chunk is when embedded alone; None is its characters.
    """

    text: str
    spans: Sequence[CharSpan]
    head: str = ""
    alone: Sequence[str] | None = None

    @property
    def texts(self) -> Sequence[str]:
        """What each chunk is when embedded alone.

        Raises:
            InputError: There is not one text per chunk.
        """
        if self.alone is None:
            return [self.text[span.start : span.end] for span in self.spans]
        if len(self.alone) != len(self.spans):
            raise InputError(
                f"{len(self.alone)} texts for {len(self.spans)} chunks; expected one text per chunk"
            )
        return self.alone
