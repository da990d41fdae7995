"""What a store says to a cluster: which shards to write to and to read from, and how consistently.

All of it is Qdrant's own, passed through. A folder and the client's local mode have one shard and one copy,
and refuse these options rather than ignore them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from qdrant_client import models

from rag_embed.errors import InputError
from rag_embed.qdrant.filters import to_path
from rag_embed.qdrant.port import Payload, StoredPoint

Selector: TypeAlias = int | str | list[int | str]
ONE_SHARD = (
    "a folder and :memory: are one shard and one copy. Pass url= of a Qdrant cluster, or leave it out; "
    "tenants get their own part of the graph by tenant_key="
)


class ClusterOptions(BaseModel):
    """How a collection is spread over a cluster, and read; see docs/operations.md.

    Attributes:
        shard_key: Metadata key whose value names the shard of a chunk. A write puts each chunk there; a read
            whose filter demands a value of it asks that shard alone, and any other read asks all.
        shard_keys: Values of it. Their shards are made with the collection, and a chunk with another value is
            refused before anything is written. Empty leaves that to the server.
        shard_key_selector_fn: Turns the `shard_identifier` that a call is given into shard keys; None takes
            it as it is. LlamaIndex's own.
        read_consistency: How many copies must agree on what is read: a number, "majority", "quorum" or "all".
        write_ordering: Whether writes of one point are ordered across copies: "weak", "medium" or "strong".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shard_key: str | None = None
    shard_keys: tuple[models.ShardKey, ...] = ()
    shard_key_selector_fn: Callable[..., Any] | None = Field(default=None, exclude=True)
    read_consistency: models.ReadConsistency | None = None
    write_ordering: models.WriteOrdering | None = None

    @model_validator(mode="after")
    def _check_key(self) -> ClusterOptions:
        if self.shard_key is not None:
            to_path(self.shard_key)  # a key that no path names is refused now
        return self

    @property
    def is_sharded(self) -> bool:
        """Whether shards are named, rather than chosen by the server."""
        return self.shard_key is not None or bool(self.shard_keys) or self.shard_key_selector_fn is not None

    def select(self, shard_identifier: object) -> list[int | str]:
        """Turn what a call was given into shard keys.

        Raises:
            InputError: It is none.
        """
        choose = self.shard_key_selector_fn
        chosen = choose(shard_identifier) if choose else shard_identifier
        keys = list(chosen) if isinstance(chosen, list | tuple) else [chosen]
        strange = [key for key in keys if isinstance(key, bool) or not isinstance(key, int | str)]
        if strange or not keys:
            raise InputError(
                f"shard_identifier={shard_identifier!r} means {chosen!r}; expected a shard key (text or a "
                "whole number), or a list of them"
            )
        return cast("list[int | str]", keys)

    def check_points(self, points: Iterable[StoredPoint]) -> None:
        """Refuse chunks that no shard is for, before any of them is written.

        Raises:
            InputError: Names the first.
        """
        if self.shard_key is not None:
            for point in points:
                self.key_of(point)

    def key_of(self, point: StoredPoint) -> int | str:
        """Find the shard of a point in its payload.

        Raises:
            InputError: It names none, or one that there is not.
        """
        payload: Payload = point.payload
        value = payload.get(self.shard_key or "")
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InputError(
                f"point {point.id} has {self.shard_key}={value!r} in its metadata, which names its shard; "
                "expected text or a whole number. Set it on every node"
            )
        if self.shard_keys and value not in self.shard_keys:
            raise InputError(
                f"point {point.id} has {self.shard_key}={value!r}; expected one of the shard keys "
                f"{list(self.shard_keys)}. Make that shard with create_shard_key({value!r}) and name it in "
                "shard_keys"
            )
        return value

    def keys_of(self, condition: models.Filter | None) -> list[int | str] | None:
        """Find the shards that can hold what satisfies a condition; None if it may be any."""
        if condition is None or self.shard_key is None:
            return None
        path = to_path(self.shard_key)
        found: list[int | str] | None = None
        for item in condition.must if isinstance(condition.must, list) else [condition.must]:
            keys: Sequence[object] | None = None
            if isinstance(item, models.Filter):
                keys = self.keys_of(item)
            elif isinstance(item, models.FieldCondition) and item.key == path:
                if isinstance(item.match, models.MatchValue):
                    keys = [item.match.value]
                elif isinstance(item.match, models.MatchAny):
                    keys = list(item.match.any)
            if keys is not None:
                named = [key for key in keys if isinstance(key, int | str) and not isinstance(key, bool)]
                found = named if found is None else [key for key in found if key in named]
        return found or None  # where nothing can satisfy it, every shard finds nothing

    def reading(self, condition: models.Filter | None, pinned: Sequence[int | str]) -> dict[str, Any]:
        """Build the client's arguments of a read, but those that say nothing."""
        keys = list(pinned) or self.keys_of(condition)
        consistency = self.read_consistency
        return {
            **({"shard_key_selector": keys} if keys else {}),
            **({"consistency": consistency} if consistency is not None else {}),
        }

    def groups(
        self, points: Sequence[StoredPoint], pinned: Sequence[int | str]
    ) -> list[tuple[dict[str, Any], list[StoredPoint]]]:
        """Split points by their shards, with the client's arguments of a write to each."""
        if self.shard_key is None or pinned:
            return [(self.writing(pinned), list(points))]
        shards: dict[int | str, list[StoredPoint]] = {}
        for point in points:
            shards.setdefault(self.key_of(point), []).append(point)
        return [(self.writing([key]), group) for key, group in shards.items()]

    def writing(self, keys: Sequence[int | str]) -> dict[str, Any]:
        """Build the client's arguments of a write to these shards; to the server's choice if none."""
        selector: Selector = keys[0] if len(keys) == 1 else list(keys)
        return {
            **({"shard_key_selector": selector} if keys else {}),
            **({"ordering": self.write_ordering} if self.write_ordering is not None else {}),
        }


NO_CLUSTER = ClusterOptions()


def check_one_shard(cluster: ClusterOptions, settings: Mapping[str, object], where: str) -> None:
    """Refuse in a folder or in memory what only a cluster does.

    Args:
        cluster: Options of the store.
        settings: Settings of the collection that only a cluster has; 1 is what there is anyway.
        where: Names the place.

    Raises:
        InputError: Names the options.
    """
    given = [f"cluster.{name}" for name in ClusterOptions.model_fields if getattr(cluster, name)]
    given += [f"settings.{name}" for name, value in settings.items() if value not in (None, 1, "auto")]
    if given:
        raise InputError(f"{', '.join(given)} for a collection in {where}: {ONE_SHARD}")
