"""Settings of a new collection."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from qdrant_client import models

from rag_embed.errors import DimensionMismatchError, InputError
from rag_embed.qdrant.cluster import ClusterOptions
from rag_embed.qdrant.legs import Legs
from rag_embed.qdrant.schema import make_record
from rag_embed.qdrant.storage import VectorStorage

TENANT_HNSW = models.HnswConfigDiff(m=0, payload_m=16)
"""No graph over all tenants, one inside each: every query of a tenant stays in its own."""

Positive = Annotated[int, Field(ge=1)]


class CollectionSettings(BaseModel):
    """How a collection is made; without effect on one that exists. None leaves the choice to Qdrant.

    Attributes:
        dim: Length of the vectors; None takes that of the first ones.
        distance: How vectors compare. Under Cosine they are normalised when stored, and come back so.
        datatype: Storage of a component: float32, float16 or uint8. Left out where `storage` says it.
        on_disk: Whether whole vectors stay on disk rather than in memory.
        on_disk_payload: The same for payloads.
        hnsw_config: The graph; with a tenant key it defaults to one graph per tenant.
        quantization_config: Compression of the vectors that are searched. Left out where `storage` says it.
        optimizers_config: When segments are merged and indexed; for servers.
        shard_number: Shards of the collection; for clusters, like the next two.
        replication_factor: Copies of each shard.
        write_consistency_factor: Copies that must confirm a write.
        sharding_method: Whether the server chooses a chunk's shard ("auto"), or the store names it
            ("custom", which `ClusterOptions` with shard keys imply). Fixed when the collection is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: Positive | None = None
    distance: models.Distance = models.Distance.COSINE
    datatype: models.Datatype | None = None
    on_disk: bool | None = None
    on_disk_payload: bool | None = None
    hnsw_config: models.HnswConfigDiff | None = None
    quantization_config: models.QuantizationConfig | None = None
    optimizers_config: models.OptimizersConfigDiff | None = None
    shard_number: Positive | None = None
    replication_factor: Positive | None = None
    write_consistency_factor: Positive | None = None
    sharding_method: models.ShardingMethod | None = None

    @property
    def of_clusters(self) -> dict[str, object]:
        """What only a cluster does."""
        names = ("shard_number", "replication_factor", "write_consistency_factor", "sharding_method")
        return {name: getattr(self, name) for name in names}

    def for_cluster(self, cluster: ClusterOptions) -> CollectionSettings:
        """Make them those of a collection whose shards are named, if the store names them.

        Raises:
            InputError: They leave the shards to the server.
        """
        if not cluster.is_sharded or self.sharding_method is models.ShardingMethod.CUSTOM:
            return self
        if self.sharding_method is not None:
            raise InputError(
                "sharding_method is auto, and the store is given shard keys; expected custom. Leave it out"
            )
        return self.model_copy(update={"sharding_method": models.ShardingMethod.CUSTOM})

    def check_storage(self, storage: VectorStorage | None) -> None:
        """Refuse to be told the same thing twice.

        Raises:
            InputError: A storage, and settings that it decides.
        """
        given = [name for name in ("datatype", "quantization_config") if getattr(self, name) is not None]
        if storage is not None and given:
            raise InputError(
                f"storage={storage} and settings with {' and '.join(given)}; expected one of them. "
                "Leave out storage= to choose every setting yourself"
            )

    def check_copied(self) -> None:
        """Refuse to say of a copy what it takes from its original.

        Raises:
            InputError: Names the settings.
        """
        own = ("dim", "distance", "datatype", "on_disk", "quantization_config")
        given = [name for name in own if name in self.model_fields_set]
        if given:
            raise InputError(
                f"settings of the copy say {', '.join(given)}; a copy takes that from its original. "
                "Leave it out"
            )

    def to_request(
        self,
        vector_name: str,
        dim: int,
        fingerprint: str | None,
        *,
        storage: VectorStorage | None,
        has_tenants: bool,
        legs: Legs,
        token_dim: int,
    ) -> models.CreateCollection:
        """Build the request that creates the collection.

        Raises:
            InputError: A storage that does not suit the vectors.
            DimensionMismatchError: Vectors of another length than `dim`.
        """
        if self.dim not in (None, dim):
            raise DimensionMismatchError(
                f"the settings of the collection say dim={self.dim}; the first vectors have {dim}. Leave out "
                "dim, or embed with the model that it was meant for"
            )
        plain = models.VectorParams(
            size=dim,
            distance=self.distance,
            datatype=self.datatype,
            on_disk=self.on_disk,
            quantization_config=self.quantization_config,
        )
        vectors = storage.to_vectors(vector_name, plain) if storage else {vector_name: plain}
        if legs.names and not vector_name:
            raise InputError(
                f"vector_name is '' and the collection is to keep {legs}; expected a name, which vectors "
                "beside others must have. Leave vector_name out"
            )
        vectors |= legs.to_vectors(token_dim)
        return models.CreateCollection(
            vectors=vectors if vector_name else vectors[""],
            sparse_vectors=legs.to_sparse(),
            shard_number=self.shard_number,
            replication_factor=self.replication_factor,
            write_consistency_factor=self.write_consistency_factor,
            sharding_method=self.sharding_method,
            on_disk_payload=self.on_disk_payload,
            hnsw_config=self.hnsw_config or (TENANT_HNSW if has_tenants else None),
            optimizers_config=self.optimizers_config,
            metadata=make_record(dim, fingerprint, legs),
        )
