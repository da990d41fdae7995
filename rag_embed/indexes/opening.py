"""Find an index again, and the model that it was made with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from rag_embed.devices import Dtype
from rag_embed.errors import FingerprintMismatchError, RagEmbedError, StoreError
from rag_embed.late_chunking import Strategy
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.edge_folder import collection_folder
from rag_embed.qdrant.schema import CollectionSchema
from rag_embed.qdrant.secrecy import check_address
from rag_embed.served import Engine

NO_ADAPTER = "none"
CURRENT_KEY = "rag_embed_current"
"""Key in a collection's metadata: which has taken its place, see `rag_embed.indexes.migrating`."""
FINGERPRINT = re.compile(
    r"(?P<model>.+?)@[0-9a-f]{8}(\+(?P<adapter>.+)@[0-9a-f]{8})?/(?P<strategy>\w+)(-(?P<dtype>b?float\d+))?"
    r"(-(?P<engine>\w+))?/[0-9a-f]{12}"
)

_ENGINES: Mapping[Engine, str] = {
    "torch": "this package itself",
    "vllm": "a vLLM server",
    "tei": "a text-embeddings-inference server",
}
_SERVER_ADVICE: Mapping[Engine, str] = {
    "torch": "Leave out --server and --engine",
    "vllm": "Pass --engine vllm and --server with its address",
    "tei": "Pass --engine tei and --server with its address",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index is.

    Attributes:
        collection: Its name. The index keeps it when it gets a new encoder, and with that a new collection.
        folder: Of the embedded engine; not used with `url`.
        url: Of a server.
        api_key: Of that server.
    """

    collection: str
    folder: Path
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_address(self.url)

    def __str__(self) -> str:
        return f"collection {self.collection!r} in {self.url or self.folder}"

    def open(self, **options: Any) -> QdrantChunkStore:
        """Open the store, or the one that has taken its place, making the folder if there is none."""
        store = self.open_named(self.collection, **options)
        try:
            current = store.read_metadata().get(CURRENT_KEY)
        except BaseException:
            store.close()
            raise
        if not isinstance(current, str):
            return store
        store.close()
        return self.open_named(current, **options)

    def open_named(self, collection: str, **options: Any) -> QdrantChunkStore:
        """Open a collection of the same folder or server."""
        if self.url is not None:
            return QdrantChunkStore(collection, url=self.url, api_key=self.api_key, **options)
        return QdrantChunkStore(collection, path=self.folder, **options)

    def open_existing(self, **options: Any) -> tuple[QdrantChunkStore, CollectionSchema] | None:
        """Open the store and read its schema; None, and nothing made, if there is no collection."""
        if self.url is None and not collection_folder(self.folder, self.collection).is_dir():
            return None
        store = self.open(**options)
        try:
            schema = store.info()
        except BaseException:
            store.close()
            raise
        if schema is None:
            store.close()
            return None
        return store, schema

    def open_for_writing(self, *, words: bool | None = None, tokens: bool | None = None) -> QdrantChunkStore:
        """Open the store as it is, or ready to be made: with words, unless somebody wants none.

        Args:
            words: Whether the words of the chunks are kept; None is as it is, and in a new one yes.
            tokens: Whether their token vectors are; None is as it is, and in a new one no.

        Raises:
            StoreError: The collection is there without what was asked for.
        """
        existing = self.open_existing()
        if existing is None:
            return self.open(lexical=words is not False, tokens=bool(tokens))
        existing[0].close()
        # None takes what is there; what was asked for and is not there is refused by the store.
        return self.open(lexical=words or None, tokens=tokens or None)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user said about the model; None where nothing was said.

    Attributes:
        model: The embedded model's name, a folder, or a hub id.
        strategy: How a chunk is embedded.
        alpha: Share of the late vector in a blend.
        adapter: Name of a shipped adapter, a folder, or "none".
        dtype: Precision of weights and states.
        server: Address of a server of the model, which computes token states; None computes here.
        context_server: Address of the server of the weights with the adapter merged.
        engine: What runs on these servers; "torch" is no server.
    """

    model: str | None = None
    strategy: Strategy | None = None
    alpha: float | None = None
    adapter: str | None = None
    dtype: Dtype = "auto"
    server: str | None = None
    context_server: str | None = None
    engine: Engine = "torch"

    def make(self) -> ContextualEmbedding:
        """Make the model, with defaults for what was not said."""
        given = {"model": self.model, "strategy": self.strategy, "alpha": self.alpha, "adapter": self.adapter}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.adapter == NO_ADAPTER:
            options["adapter"] = None
        where = {"server": self.server, "context_server": self.context_server, "engine": self.engine}
        return ContextualEmbedding(dtype=self.dtype, **where, **options)

    def make_for(self, store: QdrantChunkStore) -> ContextualEmbedding:
        """Make the model a collection was made with, or a new one for a new collection.

        Beside words the second pass of a blend gains nothing (docs/benchmarks.md): there the default reads
        once, unless a share of context was asked for, which only a blend has.
        """
        schema = store.info()
        if schema is not None and not schema.is_open:
            return self.recall(schema)
        reads_once = store.lexical is not None and self.alpha is None
        return replace(self, strategy=self.strategy or ("late" if reads_once else "blend")).make()

    def recall(self, schema: CollectionSchema) -> ContextualEmbedding:
        """Make the model whose fingerprint a collection carries, filling in from there what was not said.

        A fingerprint spells out model, adapter and strategy. The weight of a blend is only in its digest: it
        is found by trying hundredths.

        Raises:
            FingerprintMismatchError: No options that agree with what was said have that fingerprint.
        """
        name, adapter, strategy, dtype, engine = _read_fingerprint(schema)
        if engine != self.engine:
            raise FingerprintMismatchError(
                f"collection {schema.collection_name!r} stores vectors whose token states were computed by "
                f"{_ENGINES[engine]}; found {_ENGINES[self.engine]}. {_SERVER_ADVICE[engine]}, or name "
                "another --collection"
            )
        filled = replace(
            self,
            model=self.model or name,
            strategy=self.strategy or strategy,
            adapter=self.adapter or adapter,
            dtype=dtype,
        )
        try:
            model = filled.make()
            found = model.fingerprint()
        except RagEmbedError as error:
            if self.model is not None and self.adapter is not None:
                raise
            raise StoreError(
                f"collection {schema.collection_name!r} was made with a model called {name!r} and an adapter "
                f"called {adapter!r}; one of them is not found under that name ({error}). Pass --model or "
                "--adapter with its folder"
            ) from error
        if found == schema.fingerprint:
            return model
        if self.alpha is None and model.strategy == "blend":
            for hundredths in range(101):
                other = replace(filled, alpha=hundredths / 100).make()
                if other.fingerprint() == schema.fingerprint:
                    return other
        raise FingerprintMismatchError(
            f"collection {schema.collection_name!r} stores vectors made by {schema.fingerprint!r}; "
            f"this model has fingerprint {found!r}. Leave out --model, --adapter, --strategy and --alpha to "
            "use what the collection was made with, name another --collection, or run "
            "`rag-embed index --rebuild` to delete it and index again"
        )


def _read_fingerprint(schema: CollectionSchema) -> tuple[str, str, Strategy, Dtype, Engine]:
    """Take apart "model@digest+adapter@digest/strategy-dtype-engine/digest"."""
    if match := FINGERPRINT.fullmatch(schema.fingerprint or ""):
        dtypes = [dtype for dtype in get_args(Dtype) if dtype == (match["dtype"] or "auto")]
        engines = [engine for engine in get_args(Engine) if engine == (match["engine"] or "torch")]
        for strategy in get_args(Strategy):
            if match["strategy"] == strategy and dtypes and engines:
                return match["model"], match["adapter"] or NO_ADAPTER, strategy, dtypes[0], engines[0]
    raise StoreError(
        f"collection {schema.collection_name!r} carries the fingerprint {schema.fingerprint!r}; expected one "
        "that this rag-embed wrote. Name another --collection, or run `rag-embed index --rebuild` to replace "
        "it"
    )
