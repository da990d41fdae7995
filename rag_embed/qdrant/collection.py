"""What the store does, step by step, with any engine: check everything first, then write.

Each method is one coroutine over the port; the store runs it blocking or on an event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from qdrant_client import models

from rag_embed.errors import InputError, MissingVectorError
from rag_embed.qdrant.filters import DOCUMENT_KEY, all_of, has_node_ids, is_of_documents, to_condition
from rag_embed.qdrant.hybrid import to_hybrid_search, to_lexical_search, to_token_search
from rag_embed.qdrant.legs import TOKENS_NAME, check_tokens
from rag_embed.qdrant.paging import scroll_all, to_pages
from rag_embed.qdrant.plan import CollectionPlan
from rag_embed.qdrant.points import (
    NO_DOCUMENT,
    PointBatch,
    nodes_to_points,
    point_id,
    point_to_node,
    possible_point_ids,
)
from rag_embed.qdrant.port import Engine, PointId, StoredPoint, Vectors
from rag_embed.qdrant.queries import LEXICAL_MODES, check_query, to_query_condition, to_search
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.qdrant.writing import empty_document, replace_chunks, write_points
from rag_embed.stamp import ChunkStamp


class Collection:
    """The rules of one collection.

    Args:
        plan: What the store wants of it.
        text_key: Payload key of the text of points that hold no LlamaIndex node.
    """

    def __init__(self, plan: CollectionPlan, *, text_key: str) -> None:
        self._plan = plan
        self._name = plan.name
        self._text_key = text_key
        self._cached: CollectionSchema | None = None

    def forget(self) -> None:
        """Read the collection's schema again when it is next needed."""
        self._cached = None

    async def read_schema(self, engine: Engine) -> CollectionSchema | None:
        """Read what the collection holds now; None if it does not exist.

        Raises:
            FingerprintMismatchError: It holds vectors of another fingerprint than the store was opened for.
            StoreError: It keeps them in another way.
        """
        self._cached = await self._plan.read(engine)
        return self._cached

    async def add(self, engine: Engine, nodes: Sequence[BaseNode]) -> list[str]:
        """Check the nodes, then store them; return their ids."""
        batch = nodes_to_points(nodes)
        if batch.points:
            schema = self._cached = await self._plan.prepare(engine, batch)
            await write_points(engine, schema, await self._with_legs(engine, schema, nodes, batch))
            await engine.flush()
        return [node.node_id for node in nodes]

    async def replace_document(self, engine: Engine, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        """Store the new chunks of a document, then delete its other ones."""
        _check_document(ref_doc_id)
        strays = [node.node_id for node in nodes if node.ref_doc_id != ref_doc_id]
        if strays:
            raise InputError(
                f"{len(strays)} of {len(nodes)} nodes (first: {strays[0]!r}) do not belong to document "
                f"{ref_doc_id!r}; expected nodes whose ref_doc_id is that"
            )
        batch = nodes_to_points(nodes)
        if batch.points:
            schema = self._cached = await self._plan.prepare(engine, batch)
            points = await self._with_legs(engine, schema, nodes, batch)
            await replace_chunks(engine, schema, ref_doc_id, points)
        elif await self._schema(engine) is not None:
            await empty_document(engine, ref_doc_id)
        else:
            return []
        await engine.flush()
        return [node.node_id for node in nodes]

    async def delete_document(self, engine: Engine, ref_doc_id: str) -> None:
        """Delete every chunk of a document."""
        _check_document(ref_doc_id)
        if await self._schema(engine) is not None:
            await engine.delete(models.Filter(must=[is_of_documents([ref_doc_id])]))
            await engine.flush()

    async def delete_nodes(
        self, engine: Engine, node_ids: Sequence[str] | None, filters: MetadataFilters | None
    ) -> None:
        """Delete the nodes that have one of the ids and pass the filters."""
        condition = to_condition(filters)
        if not node_ids and condition is None:
            raise InputError(
                f"delete_nodes was given node_ids={node_ids!r} and filters={filters!r}; expected ids or "
                "filters. To delete everything call clear()"
            )
        if node_ids is not None and not node_ids:
            return
        if await self._schema(engine) is None:
            return
        for page in to_pages(node_ids) if node_ids is not None else [None]:
            both = all_of(has_node_ids(page) if page is not None else None, condition)
            if both is not None:
                await engine.delete(both)
        await engine.flush()

    async def clear(self, engine: Engine) -> None:
        """Delete the collection, with its fingerprint and dimension."""
        await engine.drop()
        self._cached = None

    async def get_nodes(
        self,
        engine: Engine,
        node_ids: Sequence[str] | None,
        filters: MetadataFilters | None,
        limit: int | None,
    ) -> list[BaseNode]:
        """Fetch, with embeddings, the nodes that have one of the ids and pass the filters."""
        condition = to_condition(filters)
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}; expected at least 1, or None for all")
        schema = await self._schema(engine)
        if schema is None:
            return []
        points: list[StoredPoint] = []
        for page in to_pages(node_ids) if node_ids is not None else [None]:
            if limit is None or len(points) < limit:
                both = all_of(has_node_ids(page) if page is not None else None, condition)
                missing = None if limit is None else limit - len(points)
                points += await scroll_all(engine, both, schema.vector_name, limit=missing)
        nodes = [point_to_node(point, self._text_key) for point in points]
        if node_ids is not None:
            order = {point_id(node_id): rank for rank, node_id in reversed(list(enumerate(node_ids)))}
            nodes.sort(key=lambda node: order.get(point_id(node.node_id), len(order)))
        return nodes

    async def get_vectors(self, engine: Engine, node_ids: Sequence[str]) -> dict[str, list[float]]:
        """Fetch the stored vectors of nodes, in the order of the ids."""
        wanted: dict[PointId, list[str]] = {}  # several, where one UUID is spelled in several ways
        for node_id in node_ids:
            for id_ in possible_point_ids(node_id):
                wanted.setdefault(id_, []).append(node_id)
        found: dict[str, list[float]] = {}
        schema = await self._schema(engine) if wanted else None
        if schema is not None:
            for page in to_pages(list(wanted)):
                for point in await engine.retrieve(page, schema.vector_name):
                    if point.vector is not None:
                        found.update(dict.fromkeys(wanted[point.id], point.vector))
        missing = [node_id for node_id in dict.fromkeys(node_ids) if node_id not in found]
        if missing:
            shown = ", ".join(repr(node_id) for node_id in missing[:5]) + (", ..." if missing[5:] else "")
            raise MissingVectorError(
                f"collection {self._name!r} has no vector for {len(missing)} of {len(set(node_ids))} nodes: "
                f"{shown}; expected nodes that were added to it. Add them, or check collection_name"
            )
        return {node_id: found[node_id] for node_id in node_ids}

    async def count(self, engine: Engine, filters: MetadataFilters | None) -> int:
        """Count the chunks that pass the filters."""
        condition = to_condition(filters)
        return await engine.count(condition) if await self._schema(engine) is not None else 0

    async def count_by_document(self, engine: Engine, filters: MetadataFilters | None) -> dict[str, int]:
        """Count the chunks of each document, reading no more of them than whose they are."""
        condition = to_condition(filters)
        if await self._schema(engine) is None:
            return {}
        points = await scroll_all(engine, condition, None, keys=[DOCUMENT_KEY])
        counts = Counter(str(point.payload.get(DOCUMENT_KEY, NO_DOCUMENT)) for point in points)
        return {document: counts[document] for document in sorted(counts) if document != NO_DOCUMENT}

    async def query(
        self, engine: Engine, query: VectorStoreQuery, *, with_vectors: bool, options: Mapping[str, object]
    ) -> VectorStoreQueryResult:
        """Find the chunks nearest to a query vector.

        Args:
            engine: Where.
            query: Its mode, ids, documents, filters and number of results.
            with_vectors: Whether the nodes carry their stored vectors.
            options: Those of LlamaIndex's `vector_store_kwargs` that are not None.
        """
        check_query(query, options)
        schema = await self._schema(engine)
        if schema is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        points = await self._find(engine, query, schema, with_vectors=with_vectors, options=options)
        nodes = [point_to_node(point, self._text_key) for point in points]
        return VectorStoreQueryResult(
            nodes=nodes,
            similarities=[point.score or 0.0 for point in points],
            ids=[node.node_id for node in nodes],
        )

    async def _find(
        self,
        engine: Engine,
        query: VectorStoreQuery,
        schema: CollectionSchema,
        *,
        with_vectors: bool,
        options: Mapping[str, object],
    ) -> list[StoredPoint]:
        """Search as the mode says; scores are such that higher is better."""
        condition = to_query_condition(query, options)
        if query.mode in LEXICAL_MODES:
            words = to_lexical_search(query, schema, condition, with_vectors=with_vectors)
            return await engine.search(words) if words else []
        dense = to_search(query, schema, condition, with_vectors=with_vectors, options=options)
        if query.mode == VectorStoreQueryMode.HYBRID or "query_tokens" in options:
            hybrid = to_hybrid_search(query, schema, dense, options)
            return hybrid.rank(await engine.search_legs(hybrid.legs))
        sign = -1.0 if schema.has_distances else 1.0
        return [replace(point, score=sign * (point.score or 0.0)) for point in await engine.search(dense)]

    async def score_tokens(
        self, engine: Engine, node_ids: Sequence[str], query_vectors: Float[np.ndarray, "query_tokens dim"]
    ) -> dict[str, float]:
        """Compare a query's token vectors with those of stored chunks; chunks without any are left out."""
        schema = await self._schema(engine)
        if schema is None or schema.legs.tokens is None:
            return {}
        wanted = {id_: node_id for node_id in node_ids for id_ in possible_point_ids(node_id)}
        scores: dict[str, float] = {}
        for page in to_pages(list(wanted)):
            for point in await engine.search(to_token_search(query_vectors, schema, page)):
                scores[wanted[point.id]] = (point.score or 0.0) / len(query_vectors)
        return scores

    async def _with_legs(
        self, engine: Engine, schema: CollectionSchema, nodes: Sequence[BaseNode], batch: PointBatch
    ) -> list[StoredPoint]:
        """Give points what the collection keeps beside the dense vector.

        Nodes that come without token vectors, as they come out of the store, keep those that are stored if
        these are of the same reading of the chunk: of the same place in the same context, by the same model.
        """
        points = schema.legs.add_to(nodes, batch.points)
        if schema.legs.tokens is None:
            return points
        bare = {
            point.id: stamp
            for node, point in zip(nodes, points, strict=True)
            if TOKENS_NAME not in point.others and (stamp := ChunkStamp.from_node(node))
        }
        kept: dict[PointId, Vectors] = {}
        for page in to_pages(list(bare)):
            condition = models.Filter(must=[models.HasIdCondition(has_id=list(page))])
            stored, _ = await engine.scroll(condition, None, len(page), None)
            same = [point.id for point in stored if self._stamp_of(point) == bare[point.id]]
            if same:
                found = await engine.retrieve(same, schema.vector_name, (TOKENS_NAME,))
                kept.update((point.id, point.others) for point in found)
        points = [replace(point, others={**point.others, **kept.get(point.id, {})}) for point in points]
        check_tokens(points, self._name)
        return points

    def _stamp_of(self, point: StoredPoint) -> ChunkStamp | None:
        return ChunkStamp.from_node(point_to_node(point, self._text_key))

    async def _schema(self, engine: Engine) -> CollectionSchema | None:
        return self._cached or await self.read_schema(engine)


def _check_document(ref_doc_id: str) -> None:
    if not ref_doc_id.strip() or ref_doc_id == NO_DOCUMENT:
        raise InputError(
            f"ref_doc_id is {ref_doc_id!r}; expected the id of one document. "
            f"({NO_DOCUMENT!r} is what chunks without a document carry: delete those by delete_nodes)"
        )
