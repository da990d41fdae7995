"""The nodes of one document: where an inner parser's nodes stand in it, and the names they get."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, RelatedNodeType, TextNode

from rag_embed.errors import AlignmentError, InputError
from rag_embed.spans import CharSpan, align_chunks

_ID_NAMESPACE = uuid.UUID("6f1c1d8e-6a55-5c0e-9d3e-52a1f7b0c9aa")


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
            nodes.append(node)
        else:
            blanks[node.node_id] = node
    for node in nodes:
        node.relationships = _bypass(node.relationships, blanks)
    return nodes


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
    if len(spans) != len(nodes):
        raise AlignmentError(
            f"{len(nodes)} chunks have {len(spans)} different ids or places; expected a tree of parents "
            "and children"
        )
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
