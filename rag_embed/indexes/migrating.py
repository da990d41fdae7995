"""A new encoder for an index that goes on being searched: a second collection, then a switch.

    documents ───────────────── old vectors, searched by old queries, or by new ones through a map
        │  rag_embed_migration: which collection is being filled, and for which vectors
        ▼
    documents-5f1d2c3b4a59 ──── new vectors, searched by nobody
        │  when every document is there
        ▼
    documents: rag_embed_current = documents-5f1d2c3b4a59      one write; from then on it is searched

A search reads one collection, and all vectors of a collection are of one space: scores of two never mix.
Named vectors in one collection could stand side by side too (the engines add them to existing ones), but
stamps, token vectors and prefixes of a chunk are its encoder's as well, and could not change in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from rag_embed.errors import FingerprintMismatchError, InputError, StoreError
from rag_embed.indexes.opening import CURRENT_KEY, FINGERPRINT, ModelOptions, Place
from rag_embed.late_chunking import Strategy
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.mapped_embedding import MappedEmbedding
from rag_embed.llamaindex.reembedding import Advance, OnFailure, Reembedding, ReembeddingReport
from rag_embed.qdrant import QdrantChunkStore, VectorStorage
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.qdrant.storage import Encoding
from rag_embed.query_map import MapKind, QueryMap, learn_map
from rag_embed.stamp import STAMP_KEY

MIGRATION_KEY = "rag_embed_migration"
"""Key in the metadata of a collection that is being migrated: `Migration.to_record`."""
FORMER_KEY = "rag_embed_former"
"""Key beside `CURRENT_KEY`: the collections that were current before."""
SAMPLE_CHUNKS = 2_000
"""Chunks that a map is learned from, at most."""

_OWN = {STAMP_KEY, CURRENT_KEY, MIGRATION_KEY, FORMER_KEY}


@dataclass(frozen=True, slots=True)
class Migration:
    """A collection on its way to other vectors.

    Attributes:
        target: The collection that is being filled.
        fingerprint: Of its vectors.
    """

    target: str
    fingerprint: str

    @classmethod
    def read(cls, store: QdrantChunkStore) -> Migration | None:
        """Read what a collection says; None if it is not being migrated."""
        found = store.read_metadata().get(MIGRATION_KEY)
        return cls(str(found["target"]), str(found["fingerprint"])) if isinstance(found, Mapping) else None

    def to_record(self) -> dict[str, object]:
        """Write it as JSON can hold it."""
        return {MIGRATION_KEY: {"target": self.target, "fingerprint": self.fingerprint}}


@dataclass(frozen=True, slots=True)
class Migrated:
    """How far a migration has come.

    Attributes:
        source: The collection it began with.
        target: The collection with the new vectors.
        fingerprint: Of these.
        passes: What was done, in this run.
        is_switched: Whether the index is the target now.
    """

    source: str
    target: str
    fingerprint: str
    passes: tuple[ReembeddingReport, ...]
    is_switched: bool


def migrate(
    place: Place,
    options: ModelOptions,
    *,
    most: int | None = None,
    begin: Callable[[int], Advance] = lambda chunks: lambda document_id, count: None,
    on_failure: OnFailure | None = None,
) -> Migrated:
    """Embed an index anew beside the old vectors, and switch to the new ones when all are there.

    Killed at any moment and called again it goes on; the end equals an index made with the new model. Passes
    are repeated until one finds nothing to do, so documents that are written meanwhile are not lost; what is
    written between that pass and the switch has to be indexed again.

    Args:
        place: The index.
        options: The new model. What is not said of strategy is as it was.
        most: Embed no more documents than that in this call.
        begin: Called before each pass with the number of chunks; what it returns is told of each document.
        on_failure: As for `Reembedding.run`. The switch waits until no document fails.

    Raises:
        InputError: There is no such index, or it is empty.
        StoreError: A server that keeps no metadata, or a storage that only the collection's settings know.
    """
    existing = place.open_existing()
    if existing is None:
        raise InputError(f"there is no {place}; make it with `rag-embed index FOLDER`")
    source, schema = existing
    with closing(source):
        if not source.count():
            raise InputError(f"{place} is empty; fill it with `rag-embed index FOLDER`")
        model = fill_in(options, schema).make()
        fingerprint = model.fingerprint()
        if fingerprint == schema.fingerprint:
            return Migrated(source.collection_name, source.collection_name, fingerprint, (), True)
        migration = Migration(f"{place.collection}-{fingerprint.rpartition('/')[2]}", fingerprint)
        legs = {"lexical": schema.legs.lexical, "tokens": schema.legs.tokens}
        with closing(
            place.open_named(migration.target, fingerprint=fingerprint, storage=_carry_over(schema), **legs)
        ) as target:
            _announce(source, migration)
            passes = _bring_in_step(
                Reembedding(source, target, embed_model=model), source, most, begin, on_failure
            )
            is_switched = passes[-1].found_nothing_to_do
            if is_switched:
                _switch(place, source, target)
        return Migrated(source.collection_name, migration.target, fingerprint, passes, is_switched)


def _bring_in_step(
    reembedding: Reembedding,
    source: QdrantChunkStore,
    most: int | None,
    begin: Callable[[int], Advance],
    on_failure: OnFailure | None,
) -> tuple[ReembeddingReport, ...]:
    """Make passes until one finds nothing to do, or cannot do what there is."""
    passes: list[ReembeddingReport] = []
    while True:
        done = sum(len(report.embedded) for report in passes)
        room = None if most is None else most - done
        report = reembedding.run(most=room, advance=begin(source.count()), on_failure=on_failure)
        passes.append(report)
        if report.found_nothing_to_do or report.failed or report.left:
            return tuple(passes)


def fill_in(options: ModelOptions, schema: CollectionSchema) -> ModelOptions:
    """Take the strategy of the old vectors where none was said."""
    match = FINGERPRINT.fullmatch(schema.fingerprint or "")
    known = [strategy for strategy in get_args(Strategy) if match and match["strategy"] == strategy]
    return replace(options, strategy=options.strategy or (known[0] if known else None))


def drop_former(place: Place) -> int:
    """Delete the chunks of collections that were current before; returns how many.

    The one that bears the index's name stays, empty: it says which has taken its place.
    """
    with closing(place.open_named(place.collection)) as root:
        former = root.read_metadata().get(FORMER_KEY)
        count = 0
        for name in former if isinstance(former, list) else []:
            if name == place.collection:
                while ids := [node.node_id for node in root.get_nodes(limit=1_000)]:
                    root.delete_nodes(ids)
                    count += len(ids)
                root.optimize()
            else:
                with closing(place.open_named(str(name))) as store:
                    count += store.count()
                    store.clear()
        if former:
            root.update_metadata({FORMER_KEY: []})
    return count


def count_done(place: Place, store: QdrantChunkStore) -> tuple[Migration, int] | None:
    """How many chunks a migration that is under way has embedded anew; None if there is none."""
    migration = Migration.read(store)
    if migration is None:
        return None
    with closing(place.open_named(migration.target)) as target:
        return migration, target.count()


def recall_for_asking(
    place: Place, options: ModelOptions, store: QdrantChunkStore, schema: CollectionSchema
) -> ContextualEmbedding:
    """Make the model that asks an index: the one it was made with, or a new one through a map.

    During a migration a model that was named and is the new one asks the old vectors by mapped queries. If
    both read queries by the same weights, no map is needed, and the old options are taken.

    Raises:
        InputError: Too few chunks have been embedded by both.
        FingerprintMismatchError: The model is neither the old nor the new one.
    """
    migration = Migration.read(store) if options.model is not None else None
    if migration is not None:
        with suppress(FingerprintMismatchError):
            model = options.recall(replace(schema, fingerprint=migration.fingerprint))
            if _weights(migration.fingerprint) == _weights(schema.fingerprint):
                return replace(options, strategy=None, alpha=None, adapter=None).recall(schema)
            with closing(place.open_named(migration.target)) as target:
                return MappedEmbedding.of(model, learn_from(target, store))
    return options.recall(schema)


def learn_from(
    new: QdrantChunkStore, old: QdrantChunkStore, *, kind: MapKind = "procrustes", most: int = SAMPLE_CHUNKS
) -> QueryMap:
    """Learn a map from the chunks that two collections share.

    Raises:
        InputError: They share fewer than 2.
    """
    sample = {node.node_id: node.embedding for node in new.get_nodes(limit=most)}
    pairs = [
        (sample[node.node_id], node.embedding)
        for node in old.get_nodes(list(sample))
        if node.embedding and sample[node.node_id]
    ]
    if len(pairs) < 2:
        raise InputError(
            f"{len(pairs)} chunks of collection {old.collection_name!r} have been embedded by the new model "
            "too; expected at least 2, from which a map is learned. Let `rag-embed migrate --most 50` embed "
            "some documents, or ask with the model that the index was made with (leave out --model)"
        )
    new_vectors, old_vectors = (np.array(side) for side in zip(*pairs, strict=True))
    return learn_map(kind, new_vectors, old_vectors)


def _announce(source: QdrantChunkStore, migration: Migration) -> None:
    """Write down that there is a migration, before its collection is made."""
    source.update_metadata(migration.to_record())
    if Migration.read(source) != migration:
        raise StoreError(
            f"collection {source.collection_name!r} does not keep what is written about it; expected a "
            "Qdrant server of version 1.16 or later, because the switch is such a note. Upgrade the server"
        )


def _switch(place: Place, source: QdrantChunkStore, target: QdrantChunkStore) -> None:
    """Let the target be the index: what is known of the source is copied, then one write changes over."""
    known = {name: value for name, value in source.read_metadata().items() if name not in _OWN}
    target.update_metadata({**known, MIGRATION_KEY: None})
    with closing(place.open_named(place.collection)) as root:
        former = root.read_metadata().get(FORMER_KEY)
        others = former if isinstance(former, list) else []
        names = [name for name in [*others, source.collection_name] if name != target.collection_name]
        root.update_metadata({CURRENT_KEY: target.collection_name, FORMER_KEY: list(dict.fromkeys(names))})
    source.update_metadata({MIGRATION_KEY: None})


def _carry_over(schema: CollectionSchema) -> VectorStorage | None:
    """The storage of the old vectors, for the new ones."""
    known = [encoding for encoding in get_args(Encoding) if encoding == schema.encoding]
    if not known:
        raise StoreError(
            f"collection {schema.collection_name!r} keeps its vectors as {schema.encoding!r}, by settings of "
            f"its own; expected one of {', '.join(get_args(Encoding))}. Use "
            "rag_embed.llamaindex.reembedding.Reembedding with a target that you have made"
        )
    return VectorStorage(encoding=known[0], prefix_dim=schema.prefix.dim if schema.prefix else None)


def _weights(fingerprint: str | None) -> str:
    """The checkpoint in "model@digest+adapter@digest/strategy/digest": adapters do not read queries."""
    return (fingerprint or "").partition("/")[0].partition("+")[0]
