"""LlamaIndex nodes as points and back, with the payload that LlamaIndex's own QdrantVectorStore has."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores.utils import (
    legacy_metadata_dict_to_node,
    metadata_dict_to_node,
    node_to_metadata_dict,
)

from rag_embed.errors import (
    DimensionMismatchError,
    FingerprintMismatchError,
    InputError,
    MissingVectorError,
    NonFiniteError,
)
from rag_embed.qdrant.legs import read_token_dim
from rag_embed.qdrant.port import Payload, PointId, StoredPoint
from rag_embed.qdrant.records import count_numbers
from rag_embed.qdrant.values import check_metadata, check_text
from rag_embed.stage_scores import STAGE_KEYS, with_hidden_metadata
from rag_embed.stamp import ChunkStamp

ID_NAMESPACE = uuid.UUID("6f1d5a0e-2f0b-5a83-9c55-5d0b4a0f3c11")
"""Namespace of the uuid5 of node ids that are no UUIDs; changing it would orphan every stored chunk."""

BATCH_BYTES = 4_000_000
"""Estimated size of one upsert request; the server refuses 32 MB, proxies much less."""

BATCH_POINTS = 1_000
BYTES_PER_NUMBER = 20
"""One component of a vector as JSON text, at most."""

NO_DOCUMENT = "None"
"""What LlamaIndex writes as the document id of a node that has none."""


@dataclass(frozen=True, slots=True)
class PointBatch:
    """Nodes that passed every check which needs no collection.

    Attributes:
        points: One per node, in order.
        dim: Length of every vector; 0 if there are no points.
        fingerprint: How all the vectors were made; None if no node says so.
        token_dim: Length of every token vector; 0 if no node has any.
    """

    points: list[StoredPoint]
    dim: int
    fingerprint: str | None
    token_dim: int = 0


def split_requests(points: Iterable[StoredPoint], *, prefix_dim: int = 0) -> Iterator[list[StoredPoint]]:
    """Split points into requests of bounded size, each point with a prefix of that many components."""
    request: list[StoredPoint] = []
    size_bytes = 0
    for point in points:
        point_bytes = _wire_bytes(point) + BYTES_PER_NUMBER * prefix_dim
        if request and (size_bytes + point_bytes > BATCH_BYTES or len(request) == BATCH_POINTS):
            yield request
            request, size_bytes = [], 0
        request.append(point)
        size_bytes += point_bytes
    if request:
        yield request


def point_id(node_id: str) -> str:
    """Name the point of a node: the id itself where it is a UUID, else its uuid5.

    A UUID names one point however it is spelled: in upper case, without hyphens, in braces or as a URN.

    Raises:
        InputError: An id that is no Unicode text.
    """
    try:
        return str(uuid.UUID(node_id))
    except ValueError:
        return str(uuid.uuid5(ID_NAMESPACE, check_text(node_id, "the node id")))


def possible_point_ids(node_id: str) -> list[PointId]:
    """List the points that a node id may mean; a number may also be that of a foreign point."""
    ids: list[PointId] = [point_id(node_id)]
    if node_id.isascii() and node_id.isdigit() and len(node_id) <= 20 and int(node_id) < 2**64:
        ids.append(int(node_id))
    return ids


def nodes_to_points(nodes: Sequence[BaseNode]) -> PointBatch:
    """Check nodes and convert them.

    Raises:
        MissingVectorError: A node has no embedding.
        DimensionMismatchError: Embeddings differ in length.
        NonFiniteError: An embedding has a value that is not finite in float32.
        FingerprintMismatchError: The nodes' stamps name several fingerprints, or a stamp has none.
        InputError: Metadata that would not come back, or two spellings of one UUID.
    """
    vectors = _checked_vectors(nodes)
    points = [
        StoredPoint(id=point_id(node.node_id), payload=_payload(node), vector=vector)
        for node, vector in zip(nodes, vectors.tolist(), strict=True)
    ]
    _check_spellings(nodes, points)
    return PointBatch(
        points,
        dim=vectors.shape[1],
        fingerprint=_common_fingerprint(nodes),
        token_dim=read_token_dim(nodes),
    )


def check_vector(vector: Sequence[float], what: str) -> list[float]:
    """Refuse a vector that no engine can compare.

    Raises:
        NonFiniteError: A value is not finite in float32.
    """
    array = np.asarray(vector, dtype=np.float64)
    _check_finite(array[np.newaxis, :], [what])
    return cast("list[float]", array.tolist())


def point_to_node(point: StoredPoint, text_key: str) -> BaseNode:
    """Rebuild the node of a point, with its embedding if the point carries its vector.

    Args:
        point: Of ours, of LlamaIndex's store, or of anything that keeps text in a payload key.
        text_key: That key, for points that hold no LlamaIndex node.
    """
    payload = dict(point.payload)
    node: BaseNode
    if payload.get("_node_content") is not None:
        node = metadata_dict_to_node(payload)
    else:
        text = payload.pop(text_key, "")
        metadata, _, relationships = legacy_metadata_dict_to_node(payload)
        node = TextNode(
            id_=str(point.id), text=str(text or ""), metadata=metadata, relationships=relationships
        )
    if point.vector is not None:
        node.embedding = point.vector
    return with_hidden_metadata(node, point.stages) if point.stages else node


def _checked_vectors(nodes: Sequence[BaseNode]) -> npt.NDArray[np.float64]:
    missing = [node.node_id for node in nodes if node.embedding is None]
    if missing:
        raise MissingVectorError(
            f"{len(missing)} of {len(nodes)} nodes have no embedding (first: {missing[0]!r}); "
            "embed the nodes before adding them"
        )
    if not nodes:
        return np.empty((0, 0))
    lengths = sorted({len(node.get_embedding()) for node in nodes})
    if len(lengths) > 1 or lengths[0] == 0:
        raise DimensionMismatchError(
            f"the embeddings of {len(nodes)} nodes have lengths {lengths}; expected one length above 0. "
            "Embed all of them with one model"
        )
    vectors = np.asarray([node.get_embedding() for node in nodes], dtype=np.float64)
    _check_finite(vectors, [f"the embedding of node {node.node_id!r}" for node in nodes])
    return vectors


def _check_finite(vectors: npt.NDArray[np.float64], names: Sequence[str]) -> None:
    with np.errstate(over="ignore"):
        finite = np.isfinite(vectors.astype(np.float32))
    if finite.all():
        return
    row, column = np.argwhere(~finite)[0]
    raise NonFiniteError(
        f"{names[row]} holds {vectors[row, column]} at position {column}; expected numbers that float32 can "
        "hold. Embed it again; an engine would take it and never find anything near it"
    )


def _check_spellings(nodes: Sequence[BaseNode], points: Sequence[StoredPoint]) -> None:
    """Refuse two nodes that would overwrite each other although their ids differ."""
    spellings: dict[PointId, str] = {}
    for node, point in zip(nodes, points, strict=True):
        earlier = spellings.setdefault(point.id, node.node_id)
        if earlier != node.node_id:
            raise InputError(
                f"node ids {earlier!r} and {node.node_id!r} spell one UUID, which names one point; expected "
                "every chunk to have an id of its own"
            )


def _common_fingerprint(nodes: Sequence[BaseNode]) -> str | None:
    fingerprints: dict[str | None, str] = {}
    for node in nodes:
        stamp = ChunkStamp.from_node(node)
        if stamp is not None and stamp.fingerprint is None:
            raise FingerprintMismatchError(
                f"node {node.node_id!r} was cut by LateChunkingNodeParser, but its vector was made of its "
                "text alone; expected a vector with a fingerprint. Let the parser embed too, "
                "transformations=[LateChunkingNodeParser(embed_model=embed_model)], or embed in the next "
                "transformation: [LateChunkingNodeParser(), embed_model]"
            )
        fingerprints.setdefault(stamp.fingerprint if stamp else None, node.node_id)
    if len(fingerprints) > 1:
        found = ", ".join(f"{value!r} (node {node_id!r})" for value, node_id in fingerprints.items())
        raise FingerprintMismatchError(
            f"the nodes' vectors were made in {len(fingerprints)} ways: {found}; expected one. "
            "Embed all of them with one model and its options"
        )
    return next(iter(fingerprints), None)


def _payload(node: BaseNode) -> Payload:
    check_metadata(node.metadata, f"node {node.node_id!r}")
    for related in node.relationships.values():
        for neighbour in related if isinstance(related, list) else [related]:
            check_metadata(neighbour.metadata, f"what node {node.node_id!r} says of {neighbour.node_id!r}")
    try:
        # Without its embedding: dumping it only to throw it away costs more than all the rest.
        kept = {key: value for key, value in node.metadata.items() if key not in STAGE_KEYS}
        payload: Payload = node_to_metadata_dict(
            node.model_copy(update={"embedding": None, "metadata": kept})
        )
        str(payload["_node_content"]).encode()
    except (TypeError, ValueError) as error:  # among them pydantic's and UnicodeEncodeError
        raise InputError(
            f"node {node.node_id!r} cannot be written as JSON ({error}); expected text without lone "
            "surrogates, and metadata of numbers, strings, lists and dicts"
        ) from error
    return payload


def _wire_bytes(point: StoredPoint) -> int:
    """Estimate the size of a point as JSON."""
    # The node as a JSON string holds all its metadata and text; beside it the metadata stand once more.
    payload_bytes = 2 * len(str(point.payload.get("_node_content", "")).encode())
    numbers = len(point.vector or ()) + sum(map(count_numbers, point.others.values()))
    return payload_bytes + BYTES_PER_NUMBER * numbers
