"""A LlamaIndex embedding model that sees documents where LlamaIndex hands it chunks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode
from llama_index.core.utils import get_tqdm_iterable
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from rag_embed.adapter import Adapter, find_adapter, locate_adapter
from rag_embed.encoder import Dtype, Encoder, load_encoder
from rag_embed.errors import EmptySpanError, EmptyTextError
from rag_embed.guards import Guard, Side, check_prefixes
from rag_embed.late_chunking import Strategy, WindowOptions, embed_chunks, embed_isolated
from rag_embed.llamaindex.arguments import EMBEDDING_WORDS, take_arguments
from rag_embed.llamaindex.context import (
    chunk_texts,
    group_by_context,
    rebuild_context,
    shared_metadata,
    stamp_node,
)
from rag_embed.llamaindex.pickling import make_state
from rag_embed.llamaindex.vector_space import name_vector_space
from rag_embed.modes import Precision
from rag_embed.profiles import EMBEDDED_MODEL, Profile, locate_checkpoint
from rag_embed.spans import CharSpan
from rag_embed.stamp import ChunkStamp
from rag_embed.vector_form import VectorForm

dispatcher = get_dispatcher(__name__)
logger = logging.getLogger(__name__)


class ContextualEmbedding(BaseEmbedding):
    """Embeds each chunk with its document's context, by one encoder that rerankers and parsers share.

    As a transformation it takes the nodes of a `LateChunkingNodeParser`, puts their documents together again
    and fills `node.embedding`. Nodes that already carry a vector of the same fingerprint are left as they
    are. A string given to `get_text_embedding` is embedded alone: that is all a string can be.

    Attributes:
        model: The embedded encoder, a local folder, or a hub id.
        revision: Commit of the hub repository.
        device: A torch device; by default an accelerator.
        dtype: "auto" picks what the processor computes fast.
        batch_tokens: Most tokens in one forward pass.
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
        show_progress: Whether there is a progress bar over documents.

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
    batch_tokens: int = Field(default=1024, gt=0)
    strategy: Strategy = "blend"
    alpha: float = Field(default=0.5, ge=0, le=1)
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
    show_progress: bool = False

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
    def encoder(self) -> Encoder:
        """The encoder, loaded at first use and shared by all in this process that ask for the same."""
        return self._load_encoder(None)

    @property
    def context_encoder(self) -> Encoder:
        """The encoder that reads windows: the same, or with the adapter merged into it."""
        return self._load_encoder(self.located_adapter)

    def _load_encoder(self, adapter: Adapter | None) -> Encoder:
        return load_encoder(
            self.model,
            revision=self.revision,
            device=self.device,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
            adapter=adapter.folder if adapter else None,
            insist=self.insist,
        )

    @property
    def located_adapter(self) -> Adapter | None:
        """The adapter that "auto", a name or a folder stands for; None where no window is read."""
        if self.adapter is None or self.strategy in {"isolated", "native"}:
            return None
        if self.adapter == "auto":
            return find_adapter(self.profile.weights_sha256)
        return locate_adapter(self.adapter)

    @property
    def profile(self) -> Profile:
        """What the checkpoint says of itself, without loading weights."""
        return locate_checkpoint(self.model, revision=self.revision)

    def fingerprint(self) -> str:
        """Name the vector space: everything that changes a vector by more than rounding.

        Not device, batch size and an automatic dtype: an index can be used on another machine.
        """
        relevant = ["head", "overlap_tokens", "head_tokens"]
        relevant += ["alpha"] * (self.strategy == "blend") + ["dtype"] * (self.dtype != "auto")
        relevant += ["dim", "precision"] * (self.form != VectorForm())
        options = {name: getattr(self, name) for name in relevant}
        options["window_tokens"] = self._window_options.window_tokens
        prefixes = (self._prefix("query"), self._prefix("document"))
        adapter = self.located_adapter
        return name_vector_space(
            self.profile, self.strategy, adapter=adapter, options=options, prefixes=prefixes
        )

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
        for members, text in get_tqdm_iterable(pending, show_progress, "Embedding documents"):
            self._embed_context(members, text, fingerprint)
        if unstamped:
            super().__call__(unstamped, show_progress=show_progress)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do the same in a worker thread."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _embed_context(
        self, members: Sequence[tuple[BaseNode, ChunkStamp]], text: str, fingerprint: str
    ) -> None:
        """Embed the chunks of one context and put vector and fingerprint on their nodes."""
        nodes = [node for node, _ in members]
        spans = [CharSpan(stamp.start, stamp.end) for _, stamp in members]
        # What the head says is not said again by the half of a blend that stands for the chunk alone.
        texts = chunk_texts(nodes, with_shared=self.strategy != "blend" or self.head == "none")
        payload = self.to_payload()
        dispatcher.event(EmbeddingStartEvent(model_dict=payload))
        with self.callback_manager.event(
            CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: payload}
        ) as event:
            embeddings = self._embed_spans(text, spans, texts, shared_metadata(nodes)).tolist()
            event.on_end(payload={EventPayload.CHUNKS: texts, EventPayload.EMBEDDINGS: embeddings})
        dispatcher.event(EmbeddingEndEvent(chunks=texts, embeddings=embeddings))
        for (node, stamp), embedding in zip(members, embeddings, strict=True):
            node.embedding = embedding
            stamp_node(node, replace(stamp, fingerprint=fingerprint))

    def _embed_spans(
        self, text: str, spans: Sequence[CharSpan], texts: Sequence[str], metadata: str
    ) -> Float[Tensor, "chunks dim"]:
        try:
            return embed_chunks(
                self.encoder,
                text,
                spans,
                context_encoder=self.context_encoder,
                strategy=self.strategy,
                alpha=self.alpha,
                isolated_texts=texts,
                prefix=self._prefix("document"),
                head=metadata if self.head == "metadata" else "",
                options=self._window_options,
                form=self.form,
            )
        except (EmptySpanError, EmptyTextError) as error:
            # Characters that the tokenizer drops, such as a zero-width space alone, have no state anywhere.
            empty = set(error.indices) if isinstance(error, EmptySpanError) else set(range(len(spans)))
            logger.warning("%d chunks without a token are embedded alone: %s", len(empty), error)
        result = torch.empty(len(spans), self.dim or self.encoder.dim)
        result[sorted(empty)] = self._embed_alone("document", [texts[index] for index in sorted(empty)])
        if rest := sorted(set(range(len(spans))) - empty):
            rest_spans, rest_texts = [spans[i] for i in rest], [texts[i] for i in rest]
            result[rest] = self._embed_spans(text, rest_spans, rest_texts, metadata)
        return result

    def embed_query(self, query: str) -> Float[Tensor, " dim"]:
        """Embed a query, with the query prefix.

        Raises:
            EmptyTextError: The query is blank.
            InputError: It carries a prefix already.
        """
        if not query.strip():
            raise EmptyTextError(f"the query is {query!r}; expected a question")
        return self._embed_alone("query", [query])[0]

    def _embed_alone(self, side: Side, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        own, other = self._prefix(side), self._prefix("document" if side == "query" else "query")
        check_prefixes(texts, own=own, other=other, side=side, insist=self.insist)
        prefixed, options = [own + text for text in texts], self._window_options
        return embed_isolated(self.encoder, prefixed, options=options, form=self.form)

    @property
    def form(self) -> VectorForm:
        """Size and numbers of the vectors."""
        return VectorForm(self.dim, self.precision)

    @property
    def _window_options(self) -> WindowOptions:
        adapter = self.located_adapter
        trained_tokens = adapter.window_tokens if adapter else self.profile.trained_tokens
        return WindowOptions(self.window_tokens or trained_tokens, self.overlap_tokens, self.head_tokens)

    def _prefix(self, side: Side) -> str:
        given: str | None = getattr(self, f"{side}_prefix")
        declared: str = getattr(self.profile, f"{side}_prefix")
        return declared if given is None else given

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.embed_query(query).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed_alone("document", [text])[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed_alone("document", texts).tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def __getstate__(self) -> dict[str, Any]:
        return make_state(self, local={"callback_manager", "rate_limiter"})  # workers load the encoder anew
