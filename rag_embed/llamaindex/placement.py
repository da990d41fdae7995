"""The nodes of one document: where an inner parser's nodes stand in it, and the names they get.

A node of which that cannot be said, because the parser rewrote its text, is read among the others instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import (
    BaseNode,
    Document,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    RelatedNodeType,
    TextNode,
)
from pydantic_core import PydanticSerializationError, to_jsonable_python

from rag_embed.errors import AlignmentError, InputError
from rag_embed.llamaindex.context import make_joined_stamps, make_stamps, stamp_node
from rag_embed.llamaindex.given_spans import SpanNodeParser, given_place
from rag_embed.llamaindex.pages import split_pages
from rag_embed.spans import CharSpan, align_chunks

_ID_NAMESPACE = uuid.UUID("6f1c1d8e-6a55-5c0e-9d3e-52a1f7b0c9aa")


def check_documents(nodes: Sequence[BaseNode], inner_name: str) -> None:
    """Refuse chunks where documents are expected: each would be read without the rest of its document.

    Raises:
        InputError: Names the first of them, or the first document with half of a character in it.
    """
    for node in nodes:
        try:
            node.get_content(metadata_mode=MetadataMode.ALL).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"document {node.node_id!r} holds {error.object[error.start]!r}, a lone surrogate, in its "
                "text or metadata; expected Unicode text. Decode it again, or replace it"
            ) from error
    chunks = [node for node in nodes if not isinstance(node, Document) and node.source_node is not None]
    if chunks:
        raise InputError(
            f"LateChunkingNodeParser was handed {len(chunks)} chunks, the first is {chunks[0].node_id!r} of "
            f"document {chunks[0].ref_doc_id!r}; expected documents. Take the parser before it out of the "
            f"list and put it inside, in the place of {inner_name}: LateChunkingNodeParser(node_parser=...)"
        )


def parse_in_place(parser: NodeParser, document: BaseNode) -> tuple[list[TextNode], AlignmentError | None]:
    """Cut a document into stamped nodes; the error says why they have no place in it, if they have none."""
    text = document.get_content(metadata_mode=MetadataMode.NONE)
    has_places = isinstance(parser, SpanNodeParser)
    nodes: list[TextNode] = []
    spans: list[CharSpan] = []
    failure: AlignmentError | None = None
    for offset, page in [(0, document)] if has_places else split_pages(document):
        found = parse_document(parser, page)
        nodes += found
        page_text = page.get_content(metadata_mode=MetadataMode.NONE)
        try:
            places = (
                [CharSpan(*given_place(n)) for n in found] if has_places else locate_nodes(found, page_text)
            )
            spans += [CharSpan(offset + place.start, offset + place.end) for place in places]
        except AlignmentError as error:
            failure = failure or AlignmentError(f"document {document.node_id!r}: {error}")
    depths = measure_depths(nodes)
    if failure:
        for node in nodes:
            node.start_char_idx = node.end_char_idx = None
        stamps = make_joined_stamps([node.text for node in nodes], depths, owner=document.node_id)
    else:
        for node, span in zip(nodes, spans, strict=True):
            node.text = text[span.start : span.end]
            node.start_char_idx, node.end_char_idx = span.start, span.end
        stamps = make_stamps(text, list(zip(depths, spans, strict=True)), owner=document.node_id)
    rename_nodes(nodes, document)
    for node, stamp in zip(nodes, stamps, strict=True):
        stamp_node(node, stamp)
    return nodes, failure


def to_json_form(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write metadata as a store gives them back: tuples as lists, sets as sorted lists, dates as text.

    So they read the same when a chunk is embedded and when it is compared with the stored one, whatever the
    process's hash seed. What JSON has no form for is left to the store to refuse.
    """
    result: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            result[key] = to_jsonable_python(_sort_sets(value), inf_nan_mode="constants")
        except PydanticSerializationError:
            result[key] = value
    return result


def _sort_sets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sort_sets(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_sort_sets(part) for part in value), key=repr)
    return [_sort_sets(part) for part in value] if isinstance(value, list | tuple) else value


def parse_document(parser: NodeParser, document: BaseNode) -> list[TextNode]:
    """Run the inner parser on one document; blank chunks and copied vectors are left out."""
    nodes: list[TextNode] = []
    blanks: dict[str, TextNode] = {}
    for node in parser.get_nodes_from_documents([document]):  # type: ignore[list-item]  # as core's __call__ does
        if not isinstance(node, TextNode):
            raise InputError(
                f"{type(parser).__name__} made a {type(node).__name__}; expected text nodes. "
                "Parse other media in a transformation of their own"
            )
        if node.text.strip():
            node.embedding = None
            node.metadata = to_json_form(node.metadata)
            if node.source_node is None:
                source = document.as_related_node_info()
                node.relationships = {**node.relationships, NodeRelationship.SOURCE: source}
            nodes.append(node)
        else:
            blanks[node.node_id] = node
    for node in nodes:
        node.relationships = _bypass(node.relationships, blanks)
    _check_tree(nodes, f"{type(parser).__name__} made of document {document.node_id!r}")
    return nodes


def _check_tree(nodes: Sequence[TextNode], origin: str) -> None:
    """Refuse nodes of which one would overwrite another, or that are ancestors of themselves."""
    parents = {node.node_id: _parent_id(node) for node in nodes}
    if len(parents) < len(nodes):
        raise InputError(f"{len(nodes)} nodes that {origin} have {len(parents)} ids; expected one each")
    for node in nodes:
        current, steps = parents[node.node_id], 0
        while current in parents:
            current, steps = parents[current], steps + 1
            if steps > len(nodes):
                raise InputError(f"a node that {origin} is its own ancestor; expected parents and children")


def _bypass(
    relationships: Mapping[NodeRelationship, RelatedNodeType], dropped: Mapping[str, TextNode]
) -> dict[NodeRelationship, RelatedNodeType]:
    """Lead relationships past dropped nodes, to the next neighbour that is left."""
    result: dict[NodeRelationship, RelatedNodeType] = {}
    for kind, related in relationships.items():
        target: RelatedNodeType | None = related
        while isinstance(target, RelatedNodeInfo) and target.node_id in dropped:
            target = dropped[target.node_id].relationships.get(kind)
        if isinstance(target, list):
            target = [info for info in target if info.node_id not in dropped]
        if target is not None:
            result[kind] = target
    return result


def _parent_id(node: BaseNode) -> str | None:
    parent = node.relationships.get(NodeRelationship.PARENT)
    return parent.node_id if isinstance(parent, RelatedNodeInfo) else None


def measure_depths(nodes: Sequence[BaseNode]) -> list[int]:
    """Count the ancestors of each node among its document's nodes."""
    parents = {node.node_id: _parent_id(node) for node in nodes}
    depths: list[int] = []
    for node in nodes:
        depth, current = 0, parents[node.node_id]
        while current in parents:
            depth, current = depth + 1, parents[current]
        depths.append(depth)
    return depths


def locate_nodes(nodes: Sequence[TextNode], text: str) -> list[CharSpan]:
    """Align the nodes of a document level by level: children are sought inside their parent."""
    known = {node.node_id for node in nodes}
    families: dict[str | None, list[TextNode]] = {}
    for node in nodes:
        parent = _parent_id(node)
        families.setdefault(parent if parent in known else None, []).append(node)
    spans: dict[str, CharSpan] = {}
    pending: list[tuple[str | None, CharSpan]] = [(None, CharSpan(0, len(text)))]
    while pending:
        parent, outer = pending.pop()
        family = families.get(parent, [])
        for node, span in zip(
            family, align_chunks(text[outer.start : outer.end], [node.text for node in family]), strict=True
        ):
            spans[node.node_id] = CharSpan(outer.start + span.start, outer.start + span.end)
            pending.append((node.node_id, spans[node.node_id]))
    return [spans[node.node_id] for node in nodes]


def rename_nodes(nodes: Sequence[TextNode], document: BaseNode) -> None:
    """Give nodes ids that a second run gives again, and carry them into the nodes' relationships."""
    names = {
        node.node_id: str(uuid.uuid5(_ID_NAMESPACE, f"{document.node_id}\0{index}\0{node.text}"))
        for index, node in enumerate(nodes)
    }

    def renamed(info: RelatedNodeInfo) -> RelatedNodeInfo:
        # The hash in a relationship was taken before the stamp and would be stale.
        return (
            info.model_copy(update={"node_id": names[info.node_id], "hash": None})
            if info.node_id in names
            else info
        )

    for node in nodes:
        node.id_ = names[node.node_id]
        node.relationships = {
            kind: [renamed(info) for info in related] if isinstance(related, list) else renamed(related)
            for kind, related in node.relationships.items()
        }
