"""The LlamaIndex vector store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
)
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from rag_embed.qdrant.client_engine import ClientEngine
from rag_embed.qdrant.cluster import ClusterOptions, check_one_shard
from rag_embed.qdrant.collection import Collection
from rag_embed.qdrant.connect import BlockingEngine, Connection
from rag_embed.qdrant.legs import DEFAULT_TOKEN_STORAGE, Legs, TokenStorage
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.qdrant.names import translate_fields
from rag_embed.qdrant.operations import StoreOperations
from rag_embed.qdrant.plan import CollectionPlan
from rag_embed.qdrant.queries import check_options
from rag_embed.qdrant.reading import StoreReading
from rag_embed.qdrant.retry import RetryPolicy
from rag_embed.qdrant.secrecy import without_secrets
from rag_embed.qdrant.settings import CollectionSettings
from rag_embed.qdrant.storage import VectorStorage

DEFAULT_VECTOR_NAME = "dense"


class QdrantChunkStore(StoreReading, StoreOperations, BasePydanticVectorStore):
    """Chunks and their vectors in a Qdrant collection.

    The collection is made by the first write, and remembers its dimension and how its vectors were made.
    Payloads are those of LlamaIndex's own QdrantVectorStore: each store reads what the other wrote.

    Args:
        collection_name: The collection, which need not exist yet.
        path: Folder of the embedded engine (extra `local`); one process at a time.
        url: Server, such as "http://127.0.0.1:6333".
        location: ":memory:" for the client's local mode, which forgets everything at exit.
        client: A QdrantClient, used instead of the three above and left open.
        aclient: An AsyncQdrantClient beside or instead of it. Without one, async methods use `client` on a
            thread; with `url`, they use an async client of their own.
        api_key: Key of the server. Not part of `to_dict` and pickles: an unpickled store takes that of the
            environment variable QDRANT_API_KEY.
        prefer_grpc: Whether to talk gRPC to the server.
        timeout_s: Longest time from a request to the end of its answer, for each of the attempts of `retry`.
        client_options: More arguments of QdrantClient, such as grpc_port, https or headers. Only numbers and
            switches among them are shown, serialised and pickled.
        retry: How patiently a failing server is asked again.
        lexical: Keep the words of each chunk too, for hybrid and lexical search: True for English, a language
            such as "german", or a `LexicalForm`. None is none for a new collection, and what is there for an
            existing one.
        tokens: Keep token vectors too, for late interaction: True for "int4", or "int8" or "float16". None as
            for `lexical`.
        vector_name: Vector of a new collection; in an existing one the only vector is used, however called.
        storage: How vectors are kept and searched: "float32", "float16", "int8", "binary", or a VectorStorage
            with a prefix. None is float32 for a new collection, and what is there for an existing one.
        settings: Other settings of a new collection.
        cluster: Shards by key, and consistency of reads and writes; for clusters.
        payload_indexes: Metadata keys to index and how; made before anything is written.
        tenant_key: Metadata key that separates tenants; indexed so that each has its own part of the graph.
        fingerprint: What the collection must hold. Checked now if it exists, else at the first write.
        return_vectors: Whether queries return nodes with their stored embedding.
        text_key: Payload key of the text, for points that no LlamaIndex store wrote.
        fields: All of these but the first four. Names of LlamaIndex's QdrantVectorStore are taken where they
            mean the same; what would have no effect is refused.

    Raises:
        InputError: Not exactly one place for the collection, a url with credentials, an unknown argument, or
            settings that contradict `storage`.
        StoreError: The collection keeps its vectors in another way than `storage` says.
        StoreLockedError: Another process has the folder open.
        StoreUnavailableError: The server does not answer (asked now only if `fingerprint` is given).
        FingerprintMismatchError: The collection holds other vectors than `fingerprint`.
        MissingExtraError: `path` without the extra `local`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)
    stores_text: bool = True
    flat_metadata: ClassVar[bool] = False

    collection_name: str
    path: str | None = None
    url: str | None = None
    location: str | None = None
    api_key: str | None = Field(default=None, exclude=True, repr=False)
    prefer_grpc: bool = False
    timeout_s: int = 60
    client_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    vector_name: str = DEFAULT_VECTOR_NAME
    storage: VectorStorage | None = None
    lexical: LexicalForm | None = None
    tokens: TokenStorage | None = None
    settings: CollectionSettings = Field(default_factory=CollectionSettings)
    cluster: ClusterOptions = Field(default_factory=ClusterOptions)
    payload_indexes: dict[str, models.PayloadFieldSchema] = Field(default_factory=dict)
    tenant_key: str | None = None
    fingerprint: str | None = None
    return_vectors: bool = False
    text_key: str = "text"

    @field_validator("lexical", "tokens", mode="before")
    @classmethod
    def _take_true_for_the_default(cls, value: object, info: ValidationInfo) -> object:
        if value is False:
            return None
        if value is True:
            return LexicalForm() if info.field_name == "lexical" else DEFAULT_TOKEN_STORAGE
        return value

    _connection: Connection = PrivateAttr()
    _collection: Collection = PrivateAttr()
    _is_closed: bool = PrivateAttr(default=False)

    def __init__(
        self,
        collection_name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        client: QdrantClient | None = None,
        aclient: AsyncQdrantClient | None = None,
        **fields: Any,
    ) -> None:
        given = translate_fields(fields, type(self).model_fields.keys())
        folder = os.fspath(path) if path is not None else None
        super().__init__(collection_name=collection_name, path=folder, **given)
        options = {
            "api_key": self.api_key,
            "prefer_grpc": self.prefer_grpc,
            "timeout": self.timeout_s,
            **self.client_options,
        }
        self._connection = Connection(
            collection_name,
            path=self.path,
            url=self.url,
            location=self.location,
            client=client,
            aclient=aclient,
            options=options,
            retry=self.retry,
            cluster=self.cluster,
        )
        if self._connection.one_shard is not None:
            check_one_shard(self.cluster, self.settings.of_clusters, self._connection.one_shard)
        plan = CollectionPlan(
            collection_name,
            vector_name=self.vector_name,
            settings=self.settings.for_cluster(self.cluster),
            cluster=self.cluster,
            indexes=self.payload_indexes,
            tenant_key=self.tenant_key,
            fingerprint=self.fingerprint,
            storage=self.storage,
            legs=Legs(self.lexical, self.tokens),
        )
        self._collection = Collection(plan, text_key=self.text_key)
        if self.path is not None or (self.fingerprint is not None and (client or aclient is None)):
            try:
                self.info()
            except BaseException:
                self.close()
                raise

    @field_serializer("client_options")
    def _hide_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(options)

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "QdrantChunkStore"

    @property
    def client(self) -> QdrantClient | AsyncQdrantClient | BlockingEngine:
        """The client behind the store; the engine itself for an embedded folder."""
        if self._connection.client is None and self._connection.aclient is not None:
            return self._connection.aclient
        engine = self._connection.blocking()
        return engine.client if isinstance(engine, ClientEngine) else engine

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes with their embeddings, all or, if any of them is unfit, none.

        Nodes that are there already are overwritten: adding twice changes nothing.

        Args:
            nodes: With embeddings, all made in one way.
            kwargs: shard_identifier, the shards of these nodes; LlamaIndex passes it on from `insert_nodes`.

        Returns:
            The nodes' ids.

        Raises:
            MissingVectorError: A node without an embedding.
            NonFiniteError: An embedding with NaN or infinity.
            DimensionMismatchError: Embeddings of another length than the collection's.
            FingerprintMismatchError: Embeddings made in another way than the collection's.
            InputError: Metadata that JSON cannot hold.
            StoreUnavailableError: The server does not answer. What was sent before is stored; add again.
        """
        check_options(kwargs, method="add")
        return self._write(lambda engine: self._collection.add(engine, nodes), kwargs)

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do what `add` does, awaiting."""
        check_options(kwargs, method="async_add")
        return await self._awrite(lambda engine: self._collection.add(engine, nodes), kwargs)

    def replace_document(self, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        """Put new chunks in the place of all that a document has.

        The new ones are stored first and the rest deleted then, so that a search finds the document at any
        moment; in between it may find old and new chunks. Of several calls at once, in whatever process, one
        remains whole and nothing of the others. After a crash, calling it again completes it.

        Args:
            ref_doc_id: The document.
            nodes: All its chunks, as for `add`; none if it has become empty.

        Returns:
            The nodes' ids.

        Raises:
            InputError: A blank id, or nodes of other documents.
        """
        return self._write(lambda engine: self._collection.replace_document(engine, ref_doc_id, nodes))

    async def areplace_document(self, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        """Do what `replace_document` does, awaiting."""
        return await self._awrite(lambda engine: self._collection.replace_document(engine, ref_doc_id, nodes))

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete every chunk of a document; nothing happens if it has none.

        Raises:
            InputError: A blank id.
        """
        check_options(delete_kwargs, method="delete")
        self._write(lambda engine: self._collection.delete_document(engine, ref_doc_id), delete_kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do what `delete` does, awaiting."""
        check_options(delete_kwargs, method="adelete")
        await self._awrite(lambda engine: self._collection.delete_document(engine, ref_doc_id), delete_kwargs)

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete the nodes that have one of the ids and pass the filters.

        Raises:
            InputError: Neither ids nor filters. To delete everything there is `clear`.
            UnsupportedQueryError: A filter that Qdrant cannot evaluate.
        """
        check_options(delete_kwargs, method="delete_nodes")
        self._write(lambda engine: self._collection.delete_nodes(engine, node_ids, filters), delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Do what `delete_nodes` does, awaiting."""
        check_options(delete_kwargs, method="adelete_nodes")
        await self._awrite(
            lambda engine: self._collection.delete_nodes(engine, node_ids, filters), delete_kwargs
        )

    def clear(self) -> None:
        """Delete the collection with all it remembers; the next write makes a new one."""
        self._write(self._collection.clear)

    async def aclear(self) -> None:
        """Do what `clear` does, awaiting."""
        await self._awrite(self._collection.clear)
