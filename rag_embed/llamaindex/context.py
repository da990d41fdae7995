"""The context of chunks: the stamps that describe it, and its text put together again from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo

from rag_embed.errors import AlignmentError
from rag_embed.max_sim import KeptTokens
from rag_embed.spans import CharSpan
from rag_embed.stamp import STAMP_KEY, ChunkStamp, hash_text

_SEPARATOR = "\n\n"


def make_stamps(context: str, places: Sequence[tuple[int, CharSpan]], *, owner: str = "") -> list[ChunkStamp]:
    """Describe chunks so that any one level of them rebuilds the context.

    Args:
        context: The whole text.
        places: Level (0 for the coarsest) and span of each chunk.
        owner: Id of the document.

    Returns:
        One stamp per chunk in the given order.
    """
    name = name_context(context, owner)
    stamps: dict[int, ChunkStamp] = {}
    order = sorted(range(len(places)), key=lambda index: (places[index][0], places[index][1]))
    for _, members in groupby(order, key=lambda index: places[index][0]):
        level = list(members)
        covered = 0
        for index in level:
            span = places[index][1]
            stamps[index] = ChunkStamp(name, span.start, span.end, before=context[covered : span.start])
            covered = max(covered, span.end)
        last = max(level, key=lambda index: places[index][1].end)
        stamps[last] = replace(stamps[last], after=context[covered:])
    return [stamps[index] for index in range(len(places))]


def make_joined_stamps(texts: Sequence[str], levels: Sequence[int], *, owner: str) -> list[ChunkStamp]:
    """Describe chunks that stand in no common text: those of a level, one after the other, are their context.

    Args:
        texts: The chunks in reading order.
        levels: Of each, 0 for the coarsest.
        owner: Id of their document.
    """
    stamps: dict[int, ChunkStamp] = {}
    for level in set(levels):
        members = [index for index, own in enumerate(levels) if own == level]
        spans: list[CharSpan] = []
        for index in members:
            start = spans[-1].end + len(_SEPARATOR) if spans else 0
            spans.append(CharSpan(start, start + len(texts[index])))
        context = _SEPARATOR.join(texts[index] for index in members)
        made = make_stamps(context, [(level, span) for span in spans], owner=owner)
        stamps.update(zip(members, made, strict=True))
    return [stamps[index] for index in range(len(texts))]


def stamp_node(node: BaseNode, stamp: ChunkStamp, *, tokens: KeptTokens | None = None) -> None:
    """Put a stamp beside a node's link to its document, where no metadata mode shows it.

    A node that belongs to no document is made one of the context's.
    """
    source = node.source_node or RelatedNodeInfo(node_id=stamp.context)
    # Nodes of one document share the link and the dictionary in it: each gets copies of its own.
    stamped = source.model_copy(update={"metadata": {**source.metadata, STAMP_KEY: stamp.to_text(tokens)}})
    node.relationships = {**node.relationships, NodeRelationship.SOURCE: stamped}


def name_context(text: str, owner: str) -> str:
    """Name the text that chunks are read in; equal texts of two owners are two contexts."""
    return f"{hash_text(text)}/{hash_text(owner)[:8]}"


def group_by_context(
    nodes: Sequence[BaseNode], *, need_stamps: bool
) -> tuple[dict[str, list[tuple[BaseNode, ChunkStamp]]], list[BaseNode]]:
    """Nodes with their stamps by the context that these name, and the nodes without a stamp.

    Raises:
        AlignmentError: There are some of the latter, and all need stamps.
    """
    contexts: dict[str, list[tuple[BaseNode, ChunkStamp]]] = {}
    unstamped: list[BaseNode] = []
    for node in nodes:
        stamp = ChunkStamp.from_node(node)
        if stamp is None:
            unstamped.append(node)
        else:
            contexts.setdefault(stamp.context, []).append((node, stamp))
    if unstamped and need_stamps:
        raise AlignmentError(
            f"{len(unstamped)} of {len(nodes)} nodes carry no stamp of their document, the first is "
            f"{unstamped[0].node_id!r} of document {unstamped[0].ref_doc_id!r}; parse with "
            "LateChunkingNodeParser(node_parser=...) before embedding, or use strategy='isolated'"
        )
    return contexts, unstamped


def rebuild_context(members: Sequence[tuple[BaseNode, ChunkStamp]]) -> str:
    """Put a context text together from its chunks and what stood between them."""
    pieces = [(node.get_content(metadata_mode=MetadataMode.NONE), stamp) for node, stamp in members]
    length = max(stamp.end + len(stamp.after) for _, stamp in pieces)
    characters: list[str | None] = [None] * length
    for text, stamp in pieces:
        whole = stamp.before + text + stamp.after
        start = stamp.start - len(stamp.before)
        characters[start : start + len(whole)] = whole
    context = "".join(character for character in characters if character is not None)
    edited = sum(context[stamp.start : stamp.end] != text for text, stamp in pieces)
    if edited or not pieces[0][1].context.startswith(hash_text(context)):
        raise AlignmentError(
            f"{len(pieces)} nodes do not add up to document {members[0][0].ref_doc_id!r} they were cut from "
            f"({characters.count(None)} of {length} characters are missing, {edited} texts are not where "
            "they were). Hand over all chunks of a document together, unchanged: put "
            "LateChunkingNodeParser(embed_model=...) into the pipeline instead of embedding its nodes in "
            "parts or behind transformations that edit text"
        )
    return context


def shared_keys(nodes: Sequence[BaseNode]) -> list[str]:
    """Name the metadata to be embedded that all chunks of a document have in common."""
    return [
        key
        for key, value in nodes[0].metadata.items()
        if all(
            key in node.metadata
            and node.metadata[key] == value
            and key not in node.excluded_embed_metadata_keys
            for node in nodes
        )
    ]


def shared_metadata(nodes: Sequence[BaseNode]) -> str:
    """Render what all chunks of a document have in common, as LlamaIndex renders a node's metadata."""
    metadata = {key: nodes[0].metadata[key] for key in shared_keys(nodes)}
    rendered = nodes[0].model_copy(update={"metadata": metadata}).get_metadata_str(mode=MetadataMode.EMBED)
    return f"{rendered}\n\n" if rendered else ""


def chunk_texts(nodes: Sequence[BaseNode], *, with_shared: bool) -> list[str]:
    """Texts of the chunks to be embedded alone, behind their metadata.

    Args:
        nodes: All chunks of a document.
        with_shared: Whether the metadata that all of them have in common is there.
    """
    hidden = [] if with_shared else shared_keys(nodes)
    return [
        node.model_copy(
            update={"excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *hidden]}
        ).get_content(metadata_mode=MetadataMode.EMBED)
        for node in nodes
    ]
