"""A LlamaIndex embedding model that sees documents where LlamaIndex hands it chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode
from llama_index.core.utils import get_tqdm_iterable
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor
from typing_extensions import Self

from rag_embed.adapter import Adapter
from rag_embed.chunk_embedder import ChunkEmbedder, Embedded
from rag_embed.chunked_text import ChunkedText
from rag_embed.devices import Dtype
from rag_embed.guards import Guard
from rag_embed.late_chunking import Strategy
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex.arguments import EMBEDDING_WORDS, take_arguments
from rag_embed.llamaindex.chunked_nodes import make_document, read_tokens
from rag_embed.llamaindex.context import group_by_context, rebuild_context, stamp_node
from rag_embed.llamaindex.lookup import Lookup
from rag_embed.llamaindex.pickling import make_state
from rag_embed.llamaindex.served import ServedModel
from rag_embed.max_sim import KeptTokens, TokenForm
from rag_embed.modes import ALPHA, Precision
from rag_embed.passes import TokenEncoder, WindowOptions
from rag_embed.profiles import EMBEDDED_MODEL, Profile
from rag_embed.recipe import Recipe
from rag_embed.stamp import ChunkStamp
from rag_embed.vector_form import VectorForm

dispatcher = get_dispatcher(__name__)


class ContextualEmbedding(ServedModel, BaseEmbedding):
    """Embeds each chunk with its document's context, by one encoder that rerankers and parsers share.

    As a transformation it takes the nodes of a `LateChunkingNodeParser`, puts their documents together again
    and fills `node.embedding`. Nodes that already carry a vector of the same fingerprint are left as they
    are. A string given to `get_text_embedding` is embedded alone: that is all a string can be.

    Attributes:
        model: The embedded encoder, a local folder, or a hub id.
        revision: Commit of the hub repository.
        device: A torch device; by default an accelerator.
        dtype: "auto" is float32 on a CPU, and bfloat16 on accelerators that have it.
        batch_tokens: Most tokens in one forward pass; None is 1024 on a CPU and 16384 on an accelerator.
        strategy: "isolated", "late", "blend", or "native" for models that embed a document's chunks together.
        alpha: Share of the late vector in a blend.
        adapter: Merged into the encoder that reads windows, and no other: "auto" is the shipped adapter of
            these weights if there is one; else a name, a folder, or None.
        head: What stands before every window: nothing, or the metadata that all chunks of the document share
            and that is not excluded from embedding; the isolated half of a blend then goes without it.
        window_tokens: Most tokens of a window; None is what adapter or checkpoint were trained for.
        overlap_tokens: Fewest tokens that neighbouring windows share.
        head_tokens: Most tokens of the head; a longer head is cut there.
        query_prefix: Put before queries; None takes what the checkpoint declares, here and in the next.
        document_prefix: Put before windows and isolated chunks.
        dim: Dimensions that are kept of a vector (Matryoshka); None keeps all.
        precision: "float", or "int8" or "binary" codes.
        insist: Guards that are lifted, see `rag_embed.guards`.
        token_neighbours: Tokens averaged into each token vector beside a chunk vector; None keeps none.
        window_cache: File in which windows are kept, so that an edited document costs what was edited.
        show_progress: Whether there is a progress bar over documents.
        server, context_server, engine, api_key: Token states from a server; see `ServedModel`.

    Raises:
        MissingExtraError: The embedded encoder is not installed.
        UnsupportedModelError: The checkpoint cannot be used, or was not trained for what is asked.
        AlignmentError: Nodes come without a stamp, or without others of their document.
        EmptyTextError: A query is empty.
    """

    model: str = EMBEDDED_MODEL
    revision: str | None = None
    device: str | None = None
    dtype: Dtype = "auto"
    batch_tokens: int | None = Field(default=None, gt=0)
    strategy: Strategy = "blend"
    alpha: float = Field(default=ALPHA, ge=0, le=1)
    adapter: str | None = "auto"
    head: Literal["none", "metadata"] = "metadata"
    window_tokens: int | None = Field(default=None, gt=0)
    overlap_tokens: int = Field(default=32, ge=0)
    head_tokens: int = Field(default=64, ge=0)
    query_prefix: str | None = None
    document_prefix: str | None = None
    dim: int | None = Field(default=None, gt=0)
    precision: Precision = "float"
    insist: tuple[Guard, ...] = ()
    token_neighbours: int | None = Field(default=4, gt=0)
    window_cache: str | None = None
    show_progress: bool = False

    _lookup: Lookup = PrivateAttr(default_factory=Lookup)

    @model_validator(mode="before")
    @classmethod
    def _take_arguments(cls, given: Any) -> Any:
        return take_arguments(cls, given, EMBEDDING_WORDS)

    @model_validator(mode="after")
    def _name(self) -> Self:
        self.__dict__["model_name"] = self.model  # without marking the field as set
        return self

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "ContextualEmbedding"

    @property
    def recipe(self) -> Recipe:
        """How vectors are made; reading it loads no weights, and looks at the checkpoint once."""
        return self._lookup.recipe(
            Recipe(**{name: getattr(self, name) for name in Recipe.__dataclass_fields__})
        )

    @property
    def embedder(self) -> ChunkEmbedder:
        """What makes the vectors, without LlamaIndex; its encoders are shared by all who ask for the same."""
        return self._lookup.embedder(
            self.recipe,
            device=self.device,
            batch_tokens=self.batch_tokens,
            insist=self.insist,
            token_form=TokenForm(neighbours=self.token_neighbours or 1),
            server=self.connection_options,
            window_cache=Path(self.window_cache) if self.window_cache else None,
        )

    @property
    def encoder(self) -> TokenEncoder:
        """The encoder, loaded at first use and shared by all in this process that ask for the same."""
        return self.embedder.encoder

    @property
    def context_encoder(self) -> TokenEncoder:
        """The encoder that reads windows: the same, or with the adapter merged into it."""
        return self.embedder.context_encoder

    @property
    def located_adapter(self) -> Adapter | None:
        """The adapter that "auto", a name or a folder stands for; None where no window is read."""
        return self.recipe.located_adapter

    @property
    def profile(self) -> Profile:
        """What the checkpoint says of itself."""
        return self.recipe.profile

    @property
    def window_options(self) -> WindowOptions:
        """How documents are cut into forward passes."""
        return self.recipe.window_options

    @property
    def form(self) -> VectorForm:
        """Size and numbers of the vectors."""
        return self.recipe.form

    def fingerprint(self) -> str:
        """Name the vector space: everything that changes a vector by more than rounding.

        Not device, batch size and an automatic dtype: an index can be used on another machine.
        """
        return self.recipe.fingerprint()

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Fill the vectors of nodes, document by document.

        Args:
            nodes: Chunks of a `LateChunkingNodeParser`; all chunks of a document (or of one level of it)
                must be among them. With strategy "isolated" any nodes.
            **kwargs: `show_progress` as LlamaIndex passes it.

        Returns:
            The same nodes in the same order, with vectors and this model's fingerprint.
        """
        fingerprint = self.fingerprint()
        contexts, unstamped = group_by_context(nodes, need_stamps=self.strategy != "isolated")
        # All documents are put together before the first is embedded: an error leaves every node as it was.
        pending = [
            (members, "" if self.strategy == "isolated" else rebuild_context(members))
            for members in contexts.values()
            if any(node.embedding is None or stamp.fingerprint != fingerprint for node, stamp in members)
        ]
        show_progress = bool(kwargs.get("show_progress")) or self.show_progress
        if pending:
            recipe = self.recipe
            documents = [make_document(recipe, members, text) for members, text in pending]
            vectors = self._embed(documents)
            shown = get_tqdm_iterable(pending, show_progress, "Embedding documents")
            for (members, _), document in zip(shown, documents, strict=True):
                self._fill(members, document, vectors, fingerprint)
        if unstamped:
            super().__call__(unstamped, show_progress=show_progress)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same in a worker thread."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _embed(self, documents: Sequence[ChunkedText]) -> Iterator[Embedded]:
        """The vectors of each document's chunks, with their token vectors if these are kept."""
        if self.token_neighbours is not None:
            yield from self.embedder.embed_with_tokens(documents)
        else:
            for vectors in self.embedder.embed_documents(documents):
                yield vectors, [None] * len(vectors)

    def _fill(
        self,
        members: Sequence[tuple[BaseNode, ChunkStamp]],
        document: ChunkedText,
        vectors: Iterator[Embedded],
        fingerprint: str,
    ) -> None:
        """Put the next vectors and the fingerprint on the chunks of one document."""
        payload = self.to_payload()
        dispatcher.event(EmbeddingStartEvent(model_dict=payload))
        with self.callback_manager.event(
            CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload}
        ) as event:
            matrix, tokens = next(vectors)
            embeddings, texts = matrix.tolist(), list(document.texts)
            event.on_end(payload={EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: embeddings})
        dispatcher.event(EmbeddingEndEvent(chunks=texts, embeddings=embeddings))
        for (node, stamp), embedding, kept in zip(members, embeddings, tokens, strict=True):
            node.embedding = embedding
            stamp_node(node, replace(stamp, fingerprint=fingerprint), tokens=kept)

    def embed_query(self, query: str) -> Float[Tensor, " dim"]:
        """Embed a query, with the query prefix.

        Raises:
            EmptyTextError: The query is blank.
            InputError: It carries a prefix already.
        """
        return self.embedder.embed_query(query)

    def embed_query_tokens(self, query: str) -> TokenVectors:
        """Make the token vectors of a query, for late interaction.

        Raises:
            EmptyTextError: The query is blank.
            ContextOverflowError: It is longer than the encoder reads at once.
            UnsupportedModelError: The model's token states mean nothing by themselves.
        """
        return self.embedder.embed_query_tokens(query)

    def read_tokens(self, nodes: Sequence[BaseNode], *, members: Sequence[BaseNode] = ()) -> list[KeptTokens]:
        """Read again the token vectors of some chunks of one document.

        Args:
            nodes: Chunks with stamps.
            members: All chunks of their document, which is put together from them; without any, the nodes are
                read alone, as documents of their own.

        Raises:
            AlignmentError: The members are not all chunks of the document.
            UnsupportedModelError: The model's token states mean nothing by themselves.
        """
        return read_tokens(self.recipe, self.embedder, nodes, members)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.embed_query(query).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.embedder.embed_texts([text])[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self.embedder.embed_texts(texts).tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def __getstate__(self) -> dict[str, Any]:
        return make_state(self, local={"callback_manager", "rate_limiter", "api_key"})
