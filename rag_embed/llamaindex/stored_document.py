"""A document put together again from its chunks in a store, with what is missing left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from rag_embed.errors import AlignmentError, InputError, SpanOutOfRangeError
from rag_embed.llamaindex.store_access import StoreAccess
from rag_embed.stamp import ChunkStamp, hash_text


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive characters of a document.

    Attributes:
        start: The first.
        end: One past the last.
        text: What stands there; None where no stored chunk says it.
    """

    start: int
    end: int
    text: str | None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What a store knows of a document's text.

    Attributes:
        document_id: Its id.
        stretches: In reading order, without overlaps, from character 0 on.
        is_whole: Whether every character is there, shown by the hash of the text that the chunks were cut
            from. If not, more may follow behind the last stretch than anybody knows.
    """

    document_id: str
    stretches: tuple[Stretch, ...]
    is_whole: bool

    @property
    def length(self) -> int:
        """One past the last character that is known."""
        return self.stretches[-1].end if self.stretches else 0

    def read(self, start: int = 0, end: int | None = None) -> tuple[Stretch, ...]:
        """Take the characters from `start` to `end`, or to the last one that is known.

        Raises:
            SpanOutOfRangeError: The span leaves the document, or ends before it starts.
        """
        stop = self.length if end is None else end
        if not 0 <= start <= stop <= self.length:
            raise SpanOutOfRangeError(
                f"characters {start} to {stop} were asked for; document {self.document_id!r} has characters "
                f"0 to {self.length}. Ask for a span inside them"
            )
        return tuple(
            Stretch(
                max(each.start, start),
                min(each.end, stop),
                each.text and each.text[max(start - each.start, 0) : stop - each.start],
            )
            for each in self.stretches
            if max(each.start, start) < min(each.end, stop)
        )

    @classmethod
    def fetch(cls, store: BasePydanticVectorStore, document_id: str) -> StoredDocument:
        """Fetch all chunks of a document from a store that keeps them, in one call.

        Raises:
            InputError: The store has no chunk of it, or chunks that do not say where they stand.
            AlignmentError: Its chunks contradict each other, as those of two versions of it do.
        """
        nodes = StoreAccess(store).get_documents([document_id])
        if not nodes:
            raise InputError(
                f"the store has no document {document_id!r}; expected the id of one that was indexed. Search "
                "results and the list of documents name them"
            )
        return cls.from_chunks(document_id, nodes)

    @classmethod
    def from_chunks(cls, document_id: str, nodes: Sequence[BaseNode]) -> StoredDocument:
        """Put a document together from chunks of it, in any order.

        Raises:
            InputError: A chunk does not say where it stands.
            AlignmentError: They contradict each other.
        """
        pieces = sorted((_locate(node) for node in nodes), key=lambda piece: (piece.start, -piece.end))
        contexts = {piece.context for piece in pieces}
        if len(contexts) > 1:
            raise AlignmentError(
                f"the store holds chunks of {len(contexts)} versions of document {document_id!r}; expected "
                "one. Index the document again"
            )
        stretches: list[Stretch] = []
        text, start, end = "", 0, 0
        for piece in pieces:
            if piece.start > end:
                stretches += [Stretch(start, end, text)] if text else []
                stretches.append(Stretch(end, piece.start, None))
                text, start, end = "", piece.start, piece.start
            shared = min(end, piece.end) - max(piece.start, start)
            if text[piece.start - start :][:shared] != piece.text[:shared]:
                raise AlignmentError(
                    f"two stored chunks of document {document_id!r} say different things of its characters "
                    f"{piece.start} to {piece.start + shared}; something has edited them. Index it again"
                )
            text += piece.text[max(end - piece.start, 0) :]
            end = max(end, piece.end)
        stretches += [Stretch(start, end, text)] if text else []
        is_whole = len(stretches) == 1 and (pieces[0].context or "").startswith(hash_text(text))
        return cls(document_id, tuple(stretches), is_whole)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some text and where it stands; the context is None if a foreign parser cut it."""

    start: int
    end: int
    text: str
    context: str | None


def _locate(node: BaseNode) -> _Piece:
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    stamp = ChunkStamp.from_node(node)
    if stamp is not None:
        whole = stamp.before + text + stamp.after
        start = stamp.start - len(stamp.before)
        return _Piece(start, start + len(whole), whole, stamp.context)
    if isinstance(node, TextNode) and node.start_char_idx is not None:
        return _Piece(node.start_char_idx, node.start_char_idx + len(text), text, None)
    raise InputError(
        f"chunk {node.node_id!r} does not say where it stands in its document; expected one that was cut by "
        "LateChunkingNodeParser. Index the document again with it"
    )
