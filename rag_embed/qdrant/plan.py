"""What a store wants of its collection: how it is made, and what it must hold if it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qdrant_client import models

from rag_embed.errors import FingerprintMismatchError, StoreError
from rag_embed.qdrant.cluster import NO_CLUSTER, ClusterOptions
from rag_embed.qdrant.filters import DOCUMENT_INDEXES, to_path
from rag_embed.qdrant.legs import Legs, check_tokens
from rag_embed.qdrant.points import PointBatch
from rag_embed.qdrant.port import CollectionInfo, Engine
from rag_embed.qdrant.schema import (
    CollectionSchema,
    make_record,
    read_record,
    read_schema,
)
from rag_embed.qdrant.settings import CollectionSettings
from rag_embed.qdrant.storage import VectorStorage


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """What was asked for when the store was made.

    Attributes:
        name: Of the collection.
        vector_name: The vector of a new collection, and the preferred one of an existing.
        settings: Of a new collection.
        indexes: More payload keys to index, before anything is written.
        tenant_key: The one among them that separates tenants.
        fingerprint: What the collection must hold; None accepts what it holds.
        storage: How it must keep vectors; None accepts what is there.
        legs: What a new one keeps beside the dense vector, and an existing one must.
        cluster: Which shards chunks are written to.
    """

    name: str
    vector_name: str
    settings: CollectionSettings
    indexes: Mapping[str, models.PayloadFieldSchema]
    tenant_key: str | None
    fingerprint: str | None
    storage: VectorStorage | None
    legs: Legs
    cluster: ClusterOptions = NO_CLUSTER

    def __post_init__(self) -> None:
        self.settings.check_storage(self.storage)
        self._indexes()  # a key that no path names is refused now

    async def read(self, engine: Engine) -> CollectionSchema | None:
        """Read what the collection holds; None if it does not exist.

        Raises:
            FingerprintMismatchError: It holds vectors of another fingerprint.
            StoreError: It keeps them in another way.
        """
        info = await engine.describe()
        if info is None:
            return None
        schema = await self._to_schema(engine, info)
        if self.fingerprint is not None:
            schema.check_fingerprint(self.fingerprint, "the store was opened for vectors that")
        return schema

    async def prepare(self, engine: Engine, batch: PointBatch) -> CollectionSchema:
        """Make a collection ready for a batch, or refuse the batch before anything is written.

        The collection is made if it is not there, its first write recorded, and missing indexes are made.
        """
        self.cluster.check_points(batch.points)
        info = await engine.describe() or await self._create(engine, batch)
        schema = await self._to_schema(engine, info)
        schema.check_dim(batch.dim, "the embedding of the nodes")
        schema.check_fingerprint(batch.fingerprint, "what is added")
        self._check_own_fingerprint(batch)
        if schema.is_open:
            await engine.set_metadata(make_record(batch.dim, batch.fingerprint, schema.legs))
            schema = replace(schema, fingerprint=batch.fingerprint, is_open=False)
        for key, index in self._indexes().items():
            if key not in info.indexed:
                await engine.create_index(key, index)
        return schema

    async def _create(self, engine: Engine, batch: PointBatch) -> CollectionInfo:
        """Make the collection; if somebody else makes it meanwhile, theirs is taken, and checked."""
        self._check_own_fingerprint(batch)
        if self.legs.tokens is not None and not batch.token_dim:
            check_tokens(batch.points, self.name)
        request = self.settings.to_request(
            self.vector_name,
            batch.dim,
            batch.fingerprint,
            storage=self.storage,
            has_tenants=self.tenant_key is not None,
            legs=self.legs,
            token_dim=batch.token_dim,
        )
        refusal: StoreError | None = None
        try:
            await engine.create(request)
        except StoreError as error:
            refusal = error
        info = await engine.describe()
        if info is None:
            raise refusal or StoreError(
                f"collection {self.name!r} vanished from {engine.where} while it was written; index again"
            )
        return info

    async def _to_schema(self, engine: Engine, info: CollectionInfo) -> CollectionSchema:
        has_record = read_record(info.metadata) is not None
        points = [] if has_record else (await engine.scroll(None, None, 1, None))[0]
        schema = read_schema(info, self.name, preferred=self.vector_name, points=points)
        schema.legs.check(self.legs, self.name)
        if self.storage is None:
            return schema
        schema.check_storage(self.storage)
        return replace(schema, oversampling=self.storage.oversampling or schema.oversampling)

    def _indexes(self) -> dict[str, models.PayloadFieldSchema]:
        indexes = {to_path(key): index for key, index in {**DOCUMENT_INDEXES, **self.indexes}.items()}
        if self.tenant_key is not None:
            indexes[to_path(self.tenant_key)] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True
            )
        return indexes

    def _check_own_fingerprint(self, batch: PointBatch) -> None:
        if self.fingerprint is not None and batch.fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"the store of {self.name!r} was opened for fingerprint {self.fingerprint!r}; what is "
                f"added has {batch.fingerprint!r}. Open it without fingerprint=, or embed in that way"
            )
