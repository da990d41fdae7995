"""A LlamaIndex postprocessor that reranks by stored vectors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from pydantic import Field, SerializeAsAny, field_validator, model_validator
from torch import Tensor

from rag_embed.errors import (
    ContextOverflowError,
    DimensionMismatchError,
    EmptyTextError,
    FingerprintMismatchError,
    InputError,
    MissingVectorError,
    NonFiniteError,
)
from rag_embed.listwise import as_matrix, cosine_scores, embed_list, fuse_scores, move_to_feedback
from rag_embed.llamaindex.arguments import RERANK_WORDS, take_arguments
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.pickling import make_state
from rag_embed.prompts import LIST_PROMPTS
from rag_embed.stamp import ChunkStamp

dispatcher = get_dispatcher(__name__)
logger = logging.getLogger(__name__)

RETRIEVAL_SCORE = "retrieval_score"
"""Metadata key of a returned node: its score before reranking."""
SHOWN_TOKENS = "rerank_shown_tokens"
"""Metadata key of a returned node: how much of it the list prompt held, such as "24/181"; absent if
nothing."""
SKIPPED = "rerank_skipped"
"""Metadata key of a returned node: why the first stage's order was kept; absent if it was not."""


class ListwiseRerank(BaseNodePostprocessor):
    """Rerank candidates by comparing their stored vectors with a better query vector.

    No document is encoded again and no second model is needed: "listwise" runs the embedding model's encoder
    once over the query and its first candidates, "feedback" not at all. A query so long that the list prompt
    has no room for the candidates leaves them in the first stage's order: a warning and the metadata key
    `rerank_skipped` say so.

    Attributes:
        embed_model: The model that the collection was built with.
        top_n: Most nodes to return.
        vector_store: Where to fetch vectors that the candidates do not carry, in one call.
        method: "listwise" (one forward pass) or "feedback" (Rocchio, none).
        weight: Share of the new score in the final one, the rest is the first stage's; from 0 to 1.
        prompt_candidates: How many candidates the list prompt shows; all are reranked.
        feedback_candidates: How many candidates feedback takes as relevant.
        feedback_weight: How far feedback moves the query vector towards them.

    Raises:
        InputError: There is no query, or it is blank.
        MissingVectorError: Candidates carry no vector and no store has one.
        DimensionMismatchError: Stored vectors have another size than `embed_model` makes.
        FingerprintMismatchError: A candidate's vector was made in another way than `embed_model` makes them.
    """

    embed_model: SerializeAsAny[ContextualEmbedding] = Field(default_factory=ContextualEmbedding)
    top_n: int = Field(default=10, gt=0)
    vector_store: BasePydanticVectorStore | None = Field(default=None, exclude=True)
    method: Literal["listwise", "feedback"] = "listwise"
    weight: float = Field(default=0.5, ge=0, le=1)
    prompt_candidates: int = Field(default=20, gt=0)
    feedback_candidates: int = Field(default=3, gt=0)
    feedback_weight: float = Field(default=0.3, ge=0)

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "ListwiseRerank"

    @model_validator(mode="before")
    @classmethod
    def _take_arguments(cls, given: Any) -> Any:
        return take_arguments(cls, given, RERANK_WORDS)

    @field_validator("embed_model", mode="before")
    @classmethod
    def _load_embed_model(cls, value: object) -> object:
        return ContextualEmbedding.from_dict(value) if isinstance(value, dict) else value

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        missing = _without_vectors(nodes)
        fetched = _fetch_vectors(self.vector_store, missing) if missing and self.vector_store else {}
        return self._postprocess(nodes, query_bundle, fetched)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        missing = _without_vectors(nodes)
        fetched = await _afetch_vectors(self.vector_store, missing) if missing and self.vector_store else {}
        return await asyncio.to_thread(self._postprocess, nodes, query_bundle, fetched)

    def _postprocess(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None, fetched: Mapping[str, list[float]]
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("there is no query to rerank by; pass query_bundle or query_str")
        if not query_bundle.query_str.strip():
            raise EmptyTextError(f"the query is {query_bundle.query_str!r}; expected a question")
        dispatcher.event(
            ReRankStartEvent(
                query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.embed_model.model_name
            )
        )
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: self.embed_model.model_name,
                EventPayload.QUERY_STR: query_bundle.query_str,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            result = self._rerank(nodes, query_bundle, fetched) if nodes else []
            event.on_end(payload={EventPayload.NODES: result})
        dispatcher.event(ReRankEndEvent(nodes=result))
        return result

    def _rerank(
        self, nodes: list[NodeWithScore], query: QueryBundle, fetched: Mapping[str, list[float]]
    ) -> list[NodeWithScore]:
        candidates = sorted(nodes, key=lambda node: -(node.score or 0.0))
        self._check_fingerprints([candidate.node for candidate in candidates])
        stored = self._stored_vectors([candidate.node for candidate in candidates], fetched)
        scores = self._first_scores(candidates, query, stored)
        notes: list[dict[str, object]] = [{} for _ in candidates]
        try:
            vector = self._better_vector(candidates, query, stored, notes)
            scores = fuse_scores(scores, _score_each(vector, stored), weight=self.weight)
        except ContextOverflowError as error:
            logger.warning("the first stage's order is kept: %s", error)
            notes = [{SKIPPED: str(error)} for _ in candidates]
        order = scores.argsort(descending=True, stable=True).tolist()[: self.top_n]
        return [_with_score(candidates[index], float(scores[index]), notes[index]) for index in order]

    def _better_vector(
        self,
        candidates: Sequence[NodeWithScore],
        query: QueryBundle,
        stored: Float[Tensor, "candidates dim"],
        notes: list[dict[str, object]],
    ) -> Float[Tensor, " dim"]:
        """The query vector that the method makes; what it showed of the candidates is noted."""
        if self.method == "feedback":
            feedback = stored[: self.feedback_candidates]
            return move_to_feedback(self._query_vector(query), feedback, weight=self.feedback_weight)
        shown = candidates[: self.prompt_candidates]
        texts = [candidate.node.get_content(metadata_mode=MetadataMode.NONE) for candidate in shown]
        prompt = LIST_PROMPTS[self.embed_model.profile.family.list_prompt]
        listed = embed_list(self.embed_model.encoder, query.query_str, texts, prompt=prompt)
        for note, part, whole in zip(notes, listed.shown_tokens, listed.total_tokens, strict=False):
            note[SHOWN_TOKENS] = f"{part}/{whole}"
        return listed.vector[: self.embed_model.dim]

    def _first_scores(
        self, candidates: Sequence[NodeWithScore], query: QueryBundle, stored: Float[Tensor, "candidates dim"]
    ) -> Float[Tensor, " candidates"]:
        """The first stage's scores; where it gave none, the cosine with the query vector."""
        scores = [candidate.score for candidate in candidates]
        if any(score is None for score in scores):
            return _score_each(self._query_vector(query), stored)
        return as_matrix([[score] for score in scores if score is not None])[:, 0]

    def _query_vector(self, query: QueryBundle) -> Float[Tensor, " dim"]:
        """The query vector that the retriever left in the bundle, or a new one."""
        if query.embedding is not None:
            return as_matrix([query.embedding])[0]
        return self.embed_model.embed_query(query.query_str)

    def _check_fingerprints(self, nodes: Sequence[BaseNode]) -> None:
        own = self.embed_model.fingerprint()
        for node in nodes:
            stamp = ChunkStamp.from_node(node)
            if stamp is not None and stamp.fingerprint not in {own, None}:
                raise FingerprintMismatchError(
                    f"node {node.node_id!r} has a vector of {stamp.fingerprint!r}; this reranker makes "
                    f"{own!r}. "
                    "Rerank with the embed_model that the collection was built with"
                )

    def _stored_vectors(
        self, nodes: Sequence[BaseNode], fetched: Mapping[str, list[float]]
    ) -> Float[Tensor, "candidates dim"]:
        vectors = {
            **fetched,
            **{node.node_id: node.embedding for node in nodes if node.embedding is not None},
        }
        if absent := [node for node in nodes if node.node_id not in vectors]:
            raise MissingVectorError(
                f"{len(absent)} of {len(nodes)} candidates come without a vector, the first is "
                f"{absent[0].node_id!r}; {self._advise(absent[0])}"
            )
        strangers = [node for node in nodes if _is_embedded_without_its_document(node)]
        if strangers:
            raise FingerprintMismatchError(
                f"node {strangers[0].node_id!r} was parsed to be embedded in its document, and its vector "
                "was made without it. Index it again with LateChunkingNodeParser(embed_model=...)"
            )
        stored = as_matrix([vectors[node.node_id] for node in nodes])
        profile = self.embed_model.profile
        dim = self.embed_model.dim or profile.dim
        if stored.shape[1] != dim:
            raise DimensionMismatchError(
                f"stored vectors have {stored.shape[1]} dimensions; encoder {profile.name!r} makes "
                f"{dim}. Rerank with the model that the collection was built with"
            )
        if not bool(stored.isfinite().all()):
            raise NonFiniteError("a stored vector holds NaN or infinity; index the collection again")
        return stored

    def _advise(self, absent: BaseNode) -> str:
        if absent.child_nodes:
            return (
                "it is a parent that AutoMergingRetriever put in the place of its chunks, and the index "
                "holds the chunks alone. Rerank what the retriever inside it finds, before merging, or add "
                "the parents to the vector store too: LateChunkingNodeParser(embed_model=...) embeds them"
            )
        if self.vector_store is None:
            return "pass ListwiseRerank(vector_store=...), or let the store return vectors"
        return "the vector store has none for them: index them again"

    def __getstate__(self) -> dict[str, Any]:
        # A store holds a connection or a folder lock: it stays in its process, like callbacks.
        return make_state(self, local={"callback_manager", "vector_store"})


def _without_vectors(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [scored.node.node_id for scored in nodes if scored.node.embedding is None]


def _is_embedded_without_its_document(node: BaseNode) -> bool:
    stamp = ChunkStamp.from_node(node)
    return stamp is not None and stamp.fingerprint is None


def _fetch_vectors(store: BasePydanticVectorStore, node_ids: list[str]) -> dict[str, list[float]]:
    """Ask a store for the vectors that it has, in one call."""
    if isinstance(store, SimpleVectorStore):  # keeps vectors and no nodes
        return {i: store.get(i) for i in node_ids if i in store.data.embedding_dict}
    return _vectors_of(store.get_nodes(node_ids=node_ids))


async def _afetch_vectors(store: BasePydanticVectorStore, node_ids: list[str]) -> dict[str, list[float]]:
    """Do the same, awaiting; a store that has only an async client can do no other."""
    if isinstance(store, SimpleVectorStore):
        return _fetch_vectors(store, node_ids)
    return _vectors_of(await store.aget_nodes(node_ids=node_ids))


def _vectors_of(nodes: Sequence[BaseNode]) -> dict[str, list[float]]:
    return {node.node_id: node.embedding for node in nodes if node.embedding is not None}


def _score_each(
    vector: Float[Tensor, " dim"], stored: Float[Tensor, "candidates dim"]
) -> Float[Tensor, " candidates"]:
    """Cosines, one by one: a matrix product rounds its rows differently, and equal vectors must stay tied."""
    return torch.cat([cosine_scores(vector, one[None]) for one in stored])


def _with_score(candidate: NodeWithScore, score: float, notes: Mapping[str, object]) -> NodeWithScore:
    """Copy a candidate with its new score; what was known of the old one goes into the metadata."""
    added: dict[str, object] = {RETRIEVAL_SCORE: candidate.score, **notes}
    node = candidate.node.model_copy(update={"metadata": {**candidate.node.metadata, **added}})
    for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        keys = getattr(node, name)
        setattr(node, name, [*keys, *(key for key in added if key not in keys)])
    return NodeWithScore(node=node, score=score)
