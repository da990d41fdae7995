"""What the store does, step by step, with any engine: check everything first, then write.

Each method is one coroutine over the port; the store runs it blocking or on an event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryResult
from qdrant_client import models

from rag_embed.errors import FingerprintMismatchError, InputError, MissingVectorError, StoreError
from rag_embed.qdrant.filters import (
    DOCUMENT_INDEXES,
    all_of,
    has_node_ids,
    is_of_documents,
    to_condition,
    to_path,
)
from rag_embed.qdrant.points import (
    NO_DOCUMENT,
    PointBatch,
    nodes_to_points,
    point_to_node,
    possible_point_ids,
)
from rag_embed.qdrant.port import CollectionInfo, Engine, PointId, StoredPoint, scroll_all, to_pages
from rag_embed.qdrant.queries import check_query, to_search
from rag_embed.qdrant.schema import (
    CollectionSchema,
    CollectionSettings,
    make_record,
    read_record,
    read_schema,
)
from rag_embed.qdrant.storage import VectorStorage

_NEARER_IS_LESS = (models.Distance.EUCLID, models.Distance.MANHATTAN)


class Collection:
    """The rules of one collection.

    Args:
        name: Its name.
        vector_name: The vector of a new collection, and the preferred one of an existing.
        settings: Of a new collection.
        indexes: More payload keys to index, before anything is written.
        tenant_key: The one among them that separates tenants.
        fingerprint: What the collection must hold; None accepts what it holds.
        storage: How it must keep vectors; None accepts what is there.
        text_key: Payload key of the text of points that hold no LlamaIndex node.
    """

    def __init__(
        self,
        name: str,
        *,
        vector_name: str,
        settings: CollectionSettings,
        indexes: Mapping[str, models.PayloadFieldSchema],
        tenant_key: str | None,
        fingerprint: str | None,
        storage: VectorStorage | None,
        text_key: str,
    ) -> None:
        settings.check_storage(storage)
        self._name = name
        self._vector_name = vector_name
        self._settings = settings
        self._indexes = {to_path(key): schema for key, schema in {**DOCUMENT_INDEXES, **indexes}.items()}
        if tenant_key is not None:
            self._indexes[to_path(tenant_key)] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            )
        self._has_tenants = tenant_key is not None
        self._fingerprint = fingerprint
        self._storage = storage
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
        info = await engine.describe()
        self._cached = None if info is None else await self._to_schema(engine, info)
        if self._cached is not None and self._fingerprint is not None:
            self._cached.check_fingerprint(self._fingerprint, "the store was opened for vectors that")
        return self._cached

    async def add(self, engine: Engine, nodes: Sequence[BaseNode]) -> list[str]:
        """Check the nodes, then store them; return their ids."""
        node_ids = await self._store(engine, nodes)
        if node_ids:
            await engine.flush()
        return node_ids

    async def _store(self, engine: Engine, nodes: Sequence[BaseNode]) -> list[str]:
        batch = nodes_to_points(nodes)
        if batch.points:
            schema = await self._prepare(engine, batch)
            for points in batch.requests(prefix_dim=schema.prefix.dim if schema.prefix else 0):
                await engine.upsert(points, schema.vector_name, schema.prefix)
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
        node_ids = await self._store(engine, nodes)
        if await self._schema(engine) is not None:
            others = models.Filter(
                must=[is_of_documents([ref_doc_id])],
                must_not=[has_node_ids(node_ids)] if node_ids else None,
            )
            await engine.delete(others)
            await engine.flush()
        return node_ids

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
        self, engine: Engine, node_ids: Sequence[str] | None, filters: MetadataFilters | None
    ) -> list[BaseNode]:
        """Fetch, with embeddings, all nodes that have one of the ids and pass the filters."""
        condition = to_condition(filters)
        schema = await self._schema(engine)
        if schema is None:
            return []
        points: list[StoredPoint] = []
        for page in to_pages(node_ids) if node_ids is not None else [None]:
            both = all_of(has_node_ids(page) if page is not None else None, condition)
            points += await scroll_all(engine, both, schema.vector_name)
        nodes = [point_to_node(point, self._text_key) for point in points]
        if node_ids is not None:
            order = {node_id: rank for rank, node_id in enumerate(node_ids)}
            nodes.sort(key=lambda node: order.get(node.node_id, len(order)))
        return nodes

    async def get_vectors(self, engine: Engine, node_ids: Sequence[str]) -> dict[str, list[float]]:
        """Fetch the stored vectors of nodes, in the order of the ids."""
        wanted: dict[PointId, str] = {
            id_: node_id for node_id in node_ids for id_ in possible_point_ids(node_id)
        }
        found: dict[str, list[float]] = {}
        schema = await self._schema(engine) if wanted else None
        if schema is not None:
            for page in to_pages(list(wanted)):
                for point in await engine.retrieve(page, schema.vector_name):
                    if point.vector is not None:
                        found[wanted[point.id]] = point.vector
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

    async def query(
        self, engine: Engine, query: VectorStoreQuery, *, with_vectors: bool, options: Mapping[str, object]
    ) -> VectorStoreQueryResult:
        """Find the chunks nearest to a query vector.

        Args:
            engine: Where.
            query: Mode DEFAULT or MMR, ids, documents, filters and number of results.
            with_vectors: Whether the nodes carry their stored vectors.
            options: LlamaIndex's `vector_store_kwargs`: mmr_threshold, mmr_prefetch_k, mmr_prefetch_factor.
        """
        check_query(query)
        schema = await self._schema(engine)
        if schema is None:
            raise StoreError(
                f"collection {self._name!r} does not exist in {engine.where}; expected one with chunks. "
                "Add nodes first, or check collection_name"
            )
        points = await engine.search(to_search(query, schema, with_vectors=with_vectors, options=options))
        nodes = [point_to_node(point, self._text_key) for point in points]
        sign = -1.0 if schema.distance in _NEARER_IS_LESS else 1.0
        return VectorStoreQueryResult(
            nodes=nodes,
            similarities=[sign * (point.score or 0.0) for point in points],
            ids=[node.node_id for node in nodes],
        )

    async def _schema(self, engine: Engine) -> CollectionSchema | None:
        return self._cached or await self.read_schema(engine)

    async def _to_schema(self, engine: Engine, info: CollectionInfo) -> CollectionSchema:
        has_record = read_record(info.metadata) is not None
        points = [] if has_record else (await engine.scroll(None, None, 1, None))[0]
        schema = read_schema(info, self._name, preferred=self._vector_name, points=points)
        if self._storage is None:
            return schema
        schema.check_storage(self._storage)
        return replace(schema, oversampling=self._storage.oversampling or schema.oversampling)

    async def _prepare(self, engine: Engine, batch: PointBatch) -> CollectionSchema:
        """Check a batch against the collection, making the collection and its indexes where they lack."""
        info = await engine.describe()
        if info is None:
            self._check_own_fingerprint(batch)
            request = self._settings.to_request(
                self._vector_name,
                batch.dim,
                batch.fingerprint,
                storage=self._storage,
                has_tenants=self._has_tenants,
            )
            try:
                await engine.create(request)
            except StoreError:
                if await engine.describe() is None:
                    raise
                # Somebody else made it meanwhile; whether it suits this batch is checked below.
            info = await engine.describe()
        if info is None:
            raise StoreError(f"collection {self._name!r} vanished from {engine.where} while it was written")
        schema = self._cached = await self._to_schema(engine, info)
        schema.check_dim(batch.dim, "the embedding of the nodes")
        schema.check_fingerprint(batch.fingerprint, "what is added")
        self._check_own_fingerprint(batch)
        if schema.is_open:
            await engine.set_metadata(make_record(batch.dim, batch.fingerprint))
            self._cached = None
        for key, index in self._indexes.items():
            if key not in info.indexed:
                await engine.create_index(key, index)
        return schema

    def _check_own_fingerprint(self, batch: PointBatch) -> None:
        if self._fingerprint is not None and batch.fingerprint != self._fingerprint:
            raise FingerprintMismatchError(
                f"the store of {self._name!r} was opened for fingerprint {self._fingerprint!r}; what is "
                f"added has {batch.fingerprint!r}. Open it without fingerprint=, or embed in that way"
            )


def _check_document(ref_doc_id: str) -> None:
    if not ref_doc_id.strip() or ref_doc_id == NO_DOCUMENT:
        raise InputError(
            f"ref_doc_id is {ref_doc_id!r}; expected the id of one document. "
            f"({NO_DOCUMENT!r} is what chunks without a document carry: delete those by delete_nodes)"
        )
