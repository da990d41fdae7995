"""Embed the chunks of one collection anew, into a second one, document by document.

The text comes out of the collection itself: every chunk says by its stamp where it stands, so documents are
put together from their chunks and need no source file. As in `corpus.py` there is no record of progress that
could be lost or wrong: a document is done when the second collection holds its chunks, made by the new model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from rag_embed.errors import InputError, StoreError, UnsupportedModelError
from rag_embed.llamaindex.chunk_digest import digest_chunk
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.stamp import ChunkStamp, hash_text

if TYPE_CHECKING:
    from rag_embed.qdrant import QdrantChunkStore

GROUP_CHUNKS = 64
"""Chunks of short documents that are read and embedded together."""

State: TypeAlias = Literal["embedded", "unchanged", "removed", "failed", "left"]
Advance: TypeAlias = Callable[[str, int], None]
OnFailure: TypeAlias = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class ReembeddingReport:
    """What one pass did.

    Attributes:
        embedded: Ids of documents that were embedded and stored.
        unchanged: Ids of documents that were done already.
        removed: Ids of documents that the source no longer has.
        failed: Ids of documents that could not be embedded or stored.
        left: Ids of documents that are not done yet, or were not looked at, because `most` was reached.
        chunks: How many chunks went through the model.
    """

    embedded: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    chunks: int = 0

    @property
    def found_nothing_to_do(self) -> bool:
        """Whether both collections were in step before the pass began, as far as it can tell."""
        return not (self.embedded or self.removed or self.failed or self.left)


class Reembedding:
    """Keeps a second collection in step with a first one, with vectors of its own.

    Args:
        source: The chunks, with their stamps. Nothing is written to it.
        target: Where the new vectors go; made by the first write if it is not there.
        embed_model: Makes them.
    """

    def __init__(
        self, source: QdrantChunkStore, target: QdrantChunkStore, *, embed_model: ContextualEmbedding
    ) -> None:
        self._source = source
        self._target = target
        self._embed_model = embed_model
        self._fingerprint = embed_model.fingerprint()

    def run(
        self,
        *,
        most: int | None = None,
        advance: Advance | None = None,
        on_failure: OnFailure | None = None,
    ) -> ReembeddingReport:
        """Go once over all documents.

        May be interrupted at any moment and called again: each document is written whole, and what is done is
        not embedded again. The order is that of hashes of the ids, so that the documents which are done first
        are a fair sample of all.

        Args:
            most: Embed no more documents than that.
            advance: Called for each document when it is done, with its id and its number of chunks.
            on_failure: Called with the id of a document that cannot be embedded or stored, and why; the
                others go on. None raises. What a store cannot do, or the model (it cannot be loaded), always
                raises.

        Raises:
            InputError: The source holds chunks that belong to no document.
        """
        counts = self._source.count_by_document()
        if (strays := self._source.count() - sum(counts.values())) > 0:
            raise InputError(
                f"collection {self._source.collection_name!r} holds {strays} chunks that belong to no "
                "document; expected chunks with a source document, by which they are embedded. Index them "
                "again, or delete them with delete_nodes"
            )
        states: dict[str, State] = {}
        chunk_count = 0
        room = sum(counts.values()) if most is None else most  # more than there are documents
        for group in _group(counts):
            if room <= 0:
                states |= dict.fromkeys(group, "left")
                continue
            found, embedded = self._run_group(group, room, on_failure)
            chunk_count += embedded
            room -= sum(state == "embedded" for state in found.values())
            states |= found
            for document_id in group:
                if advance is not None:
                    advance(document_id, counts[document_id])
        for document_id in self._target.count_by_document().keys() - counts.keys():
            self._target.delete(document_id)
            states[document_id] = "removed"

        def ids(wanted: State) -> tuple[str, ...]:
            return tuple(document_id for document_id, state in states.items() if state == wanted)

        return ReembeddingReport(
            ids("embedded"), ids("unchanged"), ids("removed"), ids("failed"), ids("left"), chunk_count
        )

    def _run_group(
        self, document_ids: Sequence[str], room: int, on_failure: OnFailure | None
    ) -> tuple[dict[str, State], int]:
        """Embed together what of some documents is not done, and store them one by one."""
        there, done = _fetch(self._source, document_ids), _fetch(self._target, document_ids)
        states: dict[str, State] = {}
        pending: dict[str, list[BaseNode]] = {}
        for document_id in filter(there.__contains__, document_ids):
            if self._is_done(there[document_id], done.get(document_id, [])):
                states[document_id] = "unchanged"
            elif len(pending) < room:
                pending[document_id] = there[document_id]
            else:
                states[document_id] = "left"
        for nodes in pending.values():
            for node in nodes:
                node.embedding = None
        # Whose fault an error is shows when each is embedded by itself; vectors that are made stay.
        with suppress(Exception):
            self._embed_model([node for nodes in pending.values() for node in nodes])
        for document_id, nodes in pending.items():
            try:
                self._embed_model(nodes)
                self._target.replace_document(document_id, nodes)
                states[document_id] = "embedded"
            except (StoreError, UnsupportedModelError, OSError, MemoryError):
                raise
            except Exception as error:
                if on_failure is None:
                    raise
                on_failure(document_id, error)
                states[document_id] = "failed"
        embedded = [name for name in pending if states[name] == "embedded"]
        return states, sum(len(pending[name]) for name in embedded)

    def _is_done(self, nodes: Sequence[BaseNode], stored: Sequence[BaseNode]) -> bool:
        wanted = {node.node_id: digest_chunk(node, self._fingerprint) for node in nodes}
        return wanted == {node.node_id: digest_chunk(node) if node.embedding else "" for node in stored}


def _group(counts: Mapping[str, int]) -> Iterator[list[str]]:
    """Documents that are read and embedded together, in the order of hashes of their ids."""
    group: list[str] = []
    size = 0
    for document_id in sorted(counts, key=hash_text):
        if group and size + counts[document_id] > GROUP_CHUNKS:
            yield group
            group, size = [], 0
        group.append(document_id)
        size += counts[document_id]
    if group:
        yield group


def _fetch(store: QdrantChunkStore, document_ids: Sequence[str]) -> dict[str, list[BaseNode]]:
    """All chunks of some documents, each document's in reading order."""
    own = MetadataFilter(key="doc_id", value=list(document_ids), operator=FilterOperator.IN)
    found: dict[str, list[BaseNode]] = {}
    for node in store.get_nodes(filters=MetadataFilters(filters=[own])):
        found.setdefault(str(node.ref_doc_id), []).append(node)
    for nodes in found.values():
        nodes.sort(key=_place)
    return found


def _place(node: BaseNode) -> tuple[int, int, str]:
    stamp = ChunkStamp.from_node(node)
    return (stamp.start, -stamp.end, node.node_id) if stamp else (0, 0, node.node_id)
