"""What a collection is made of, read from one engine to make an equal one in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import TypeAdapter
from qdrant_client import models

from rag_embed.errors import StoreError
from rag_embed.qdrant.port import CollectionInfo, Engine
from rag_embed.qdrant.settings import CollectionSettings
from rag_embed.stamp import STAMP_KEY

KEPT_KEY = "rag_embed_kept_settings"
"""Key in a collection's metadata: settings of its original that the engine it is in does not keep.

The client's local mode has no payload indexes and no graph; without this note a collection that went through
memory would come back without its tenants."""

_INDEXES = TypeAdapter(dict[str, models.PayloadFieldSchema])


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A collection without its points.

    Attributes:
        info: All that its engine says, and what is noted beside it.
    """

    info: CollectionInfo

    @property
    def names(self) -> list[str]:
        """What its vectors are called: one with one vector for each point first, then all others."""
        vectors = self.info.vectors
        several = sorted(vectors, key=lambda name: vectors[name].multivector_config is not None)
        return [*several, *self.info.sparse]

    @classmethod
    async def read(cls, engine: Engine) -> Blueprint | None:
        """Read the blueprint of a collection; None if it does not exist."""
        info = await engine.describe()
        if info is None:
            return None
        metadata = dict(info.metadata)
        kept = metadata.pop(KEPT_KEY, None)
        if isinstance(kept, Mapping):
            hnsw = kept.get("hnsw")
            info = replace(
                info,
                indexed={**_INDEXES.validate_python(kept.get("indexed", {})), **info.indexed},
                hnsw=info.hnsw or (models.HnswConfigDiff.model_validate(hnsw) if hnsw else None),
            )
        return cls(replace(info, metadata=metadata))

    def to_request(self, settings: CollectionSettings) -> models.CreateCollection:
        """Build the request that makes an equal collection.

        Args:
            settings: Of the place where it is made: its shards and copies, graph, optimizer, and disk. All
                else is as in the original.
        """
        vectors = dict(self.info.vectors)
        return models.CreateCollection(
            vectors=vectors[""] if [*vectors] == [""] else vectors,
            sparse_vectors=dict(self.info.sparse) or None,
            shard_number=settings.shard_number,
            replication_factor=settings.replication_factor,
            write_consistency_factor=settings.write_consistency_factor,
            sharding_method=settings.sharding_method,
            on_disk_payload=self.info.on_disk_payload
            if settings.on_disk_payload is None
            else settings.on_disk_payload,
            hnsw_config=settings.hnsw_config or self.info.hnsw,
            optimizers_config=settings.optimizers_config,
            metadata=dict(self.info.metadata),
        )

    def check_same(self, other: Blueprint, place: str) -> None:
        """Refuse a collection that holds something else.

        How it is searched and where it is kept (graph, disk, shards) may differ.

        Args:
            other: The collection that is there.
            place: Names it.

        Raises:
            StoreError: With the first difference.
        """
        pairs: dict[str, tuple[object, object]] = {
            "the dense vectors": (_essence(self.info), _essence(other.info)),
            "the sparse vectors": (_words(self.info), _words(other.info)),
        }
        record = other.info.metadata.get(STAMP_KEY)
        if record is not None:  # servers before 1.16 have none, nor has a collection that was made by hand
            pairs["how the vectors were made"] = (self.info.metadata.get(STAMP_KEY), record)
        for what, (wanted, found) in pairs.items():
            if wanted != found:
                raise StoreError(
                    f"{place} is there already and differs in {what}: found {found}, expected {wanted}. Name "
                    "another collection, or delete that one first"
                )

    async def complete(self, engine: Engine) -> None:
        """Bring the rest of it to a collection that is there: metadata, payload indexes, and a note."""
        there = await engine.describe()
        assert there is not None
        for key, schema in self.info.indexed.items():
            if key not in there.indexed:
                await engine.create_index(key, schema)
        there = await engine.describe()
        assert there is not None
        metadata = dict(self.info.metadata)
        if self.info.indexed.keys() - there.indexed.keys() or (self.info.hnsw and not there.hnsw):
            hnsw = self.info.hnsw
            metadata[KEPT_KEY] = {
                "indexed": _INDEXES.dump_python(dict(self.info.indexed), mode="json", exclude_none=True),
                **({"hnsw": hnsw.model_dump(mode="json", exclude_none=True)} if hnsw else {}),
            }
        if not metadata.items() <= dict(there.metadata).items():
            await engine.set_metadata(metadata)


def _essence(info: CollectionInfo) -> dict[str, object]:
    """What of the vectors decides which numbers come back, and how they compare."""
    return {
        name: {
            "size": params.size,
            "distance": params.distance.value,
            "datatype": (params.datatype or models.Datatype.FLOAT32).value,
            "multivector": params.multivector_config.comparator.value if params.multivector_config else None,
        }
        for name, params in sorted(info.vectors.items())
    }


def _words(info: CollectionInfo) -> dict[str, object]:
    return {
        name: params.modifier.value if params.modifier else "none"
        for name, params in sorted(info.sparse.items())
    }
