"""Documents out of a store: their text put together again from their chunks, and which there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from rag_embed.chat.passages import locate, title_of
from rag_embed.errors import AlignmentError, InputError
from rag_embed.llamaindex.context import group_by_context, rebuild_context
from rag_embed.qdrant import QdrantChunkStore


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One document as its chunks tell it.

    Attributes:
        document: Its id.
        title: What people call it.
        text: Its characters; passages and quotes give their places in it.
        is_whole: Whether all of it is stored. Otherwise the text has blanks where nothing is known.
    """

    document: str
    title: str
    text: str
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """One document of a store.

    Attributes:
        document: Its id.
        title: What people call it.
        chunks: How many it has.
        characters: Where its last chunk ends.
    """

    document: str
    title: str
    chunks: int
    characters: int


def read_document(store: QdrantChunkStore, document: str) -> StoredDocument:
    """Put a document together again.

    Raises:
        InputError: The store has no document of that name.
    """
    nodes = fetch_nodes(store, [document])
    if not nodes:
        raise InputError(f"there is no document {document!r} in this index; take a name that a search gave")
    return rebuild(document, nodes)


def list_documents(
    store: QdrantChunkStore, *, filters: MetadataFilters | None = None
) -> list[ListedDocument]:
    """Name the documents of a store by id; this reads all chunks that pass the filters."""
    groups: dict[str, list[BaseNode]] = {}
    for node in store.get_nodes(filters=filters):
        groups.setdefault(node.ref_doc_id or node.node_id, []).append(node)
    return [
        ListedDocument(name, title_of(nodes[0]), len(nodes), max(locate(node)[1] for node in nodes))
        for name, nodes in sorted(groups.items())
    ]


def fetch_nodes(store: QdrantChunkStore, documents: Sequence[str]) -> list[BaseNode]:
    """Fetch all chunks of documents in one request."""
    names = list(dict.fromkeys(documents))
    if not names:
        return []
    one = MetadataFilter(key="doc_id", value=names, operator=FilterOperator.IN)
    return store.get_nodes(filters=MetadataFilters(filters=[one]))


def rebuild(document: str, nodes: Sequence[BaseNode]) -> StoredDocument:
    """Put a document together from its chunks and what their stamps say stood between them."""
    contexts, unstamped = group_by_context(nodes, need_stamps=False)
    members = max(contexts.values(), key=len, default=[])
    title = title_of(nodes[0])
    if members and len(contexts) == 1 and not unstamped:
        try:
            return StoredDocument(document, title, rebuild_context(members))
        except AlignmentError:  # not all of it is there
            pass
    text: list[str] = []
    for node in nodes:
        start, end = locate(node)
        text += [" "] * (end - len(text))
        text[start:end] = node.get_content(metadata_mode=MetadataMode.NONE)[: end - start]
    return StoredDocument(document, title, "".join(text), is_whole=False)
