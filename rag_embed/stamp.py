"""What a chunk knows of its document: one flat string beside the link to it.

An embedding transform of LlamaIndex is handed nodes and never the document. The stamp carries the little that
is needed to put the document together again from its chunks (where each stands, and what stood between them)
and to see afterwards how the vector beside it was made. It stands in the metadata of the node's link to its
source document, which travels and is stored with the node, and which no metadata mode shows to a model: in
the node's own metadata every extractor that reads all of them would hand it to its LLM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

from rag_embed.errors import InputError

STAMP_KEY = "rag_embed"
"""Key of the stamp in the metadata of a node's link to its source document."""


@runtime_checkable
class SourceLink(Protocol):
    """LlamaIndex's link from a node to its document."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """What is known of the document, and the stamp."""


@runtime_checkable
class LinkedNode(Protocol):
    """A node of LlamaIndex, seen without importing it."""

    @property
    def source_node(self) -> SourceLink | None:
        """The link to its document."""


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
        """Serialise to the one string that is kept."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_node(cls, node: LinkedNode) -> ChunkStamp | None:
        """Read the stamp of a node; None if it carries none.

        Raises:
            InputError: There is a stamp and it is not one that this version wrote.
        """
        source = node.source_node
        text = source.metadata.get(STAMP_KEY) if source is not None else None
        if text is None:
            return None
        try:
            return cls(**json.loads(str(text)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{STAMP_KEY!r} in the node's source holds {str(text)[:80]!r}, not a stamp of this version "
                "of rag-embed; parse the document again with LateChunkingNodeParser"
            ) from error
