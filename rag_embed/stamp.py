"""What a chunk knows of its document: one flat string in the node's metadata.

An embedding transform of LlamaIndex is handed nodes and never the document. The stamp carries the little that
is needed to put the document together again from its chunks (where each stands, and what stood between them)
and to see afterwards how the vector beside it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rag_embed.errors import InputError

STAMP_KEY = "rag_embed"
"""Metadata key of the stamp; excluded from what embedding models and LLMs are shown."""


def hash_text(text: str) -> str:
    """Name a text by its content: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ChunkStamp:
    """Position of one chunk in its context text, and the origin of its vector.

    Attributes:
        context: Names the whole text the chunk is read in (its document, or several joined ones): `hash_text`
            of it, and behind a slash whose it is.
        start: First character of the chunk in the context text.
        end: One past its last character.
        before: Context text between the furthest end of all earlier chunks and `start`; mostly white space.
        after: Rest of the context text, on the chunk that reaches furthest; empty on all others.
        fingerprint: How the node's vector was made; None while it has none.
    """

    context: str
    start: int
    end: int
    before: str = ""
    after: str = ""
    fingerprint: str | None = None

    def to_text(self) -> str:
        """Serialise to the one string that is kept in the metadata."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> ChunkStamp | None:
        """Read the stamp of a node's metadata; None if it carries none.

        Raises:
            InputError: There is a stamp and it is not one that this version wrote.
        """
        text = metadata.get(STAMP_KEY)
        if text is None:
            return None
        try:
            return cls(**json.loads(str(text)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"metadata {STAMP_KEY!r} holds {str(text)[:80]!r}, not a stamp of this version of rag-embed; "
                "parse the document again with LateChunkingNodeParser"
            ) from error
