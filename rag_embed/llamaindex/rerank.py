"""A LlamaIndex postprocessor that reranks with the encoder that made the vectors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rag_embed.errors import ContextOverflowError, EmptyTextError, FingerprintMismatchError, InputError
from rag_embed.fusion import best_first, fuse
from rag_embed.guards import check_list_prompt
from rag_embed.listwise import embed_list
from rag_embed.llamaindex.arguments import RERANK_WORDS, take_arguments
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.pickling import make_state
from rag_embed.llamaindex.store_access import StoreAccess
from rag_embed.llamaindex.stored_vectors import fetch_vectors
from rag_embed.llamaindex.token_states import score_candidates
from rag_embed.prompts import LIST_PROMPTS
from rag_embed.stage_scores import (
    LEXICAL_SCORE,
    RETRIEVAL_SCORE,
    SHOWN_TOKENS,
    SKIPPED,
    TOKEN_SCORE,
    TOKENS_FROM,
    with_hidden_metadata,
)
from rag_embed.stamp import ChunkStamp

dispatcher = get_dispatcher(__name__)
logger = logging.getLogger(__name__)

Method = Literal["late_interaction", "listwise"]
HYBRID_WEIGHT, DENSE_WEIGHT = 0.25, 0.5
"""Share of late interaction behind a hybrid search, which has looked at the words already, and behind a dense
one; docs/benchmarks.md has them next to others."""


class ListwiseRerank(BaseNodePostprocessor):
    """Rerank candidates with the embedding model's own encoder; no second model is needed.

    "late_interaction" compares each token of the query with the token vectors of each candidate, which know
    their document: inside the store where it keeps them (`QdrantChunkStore(tokens=True)`), else by reading
    the windows around the candidates again. "listwise" runs the encoder once over the query and its first
    candidates, for checkpoints that were trained for such a prompt (E2Rank).

    Attributes:
        embed_model: The model that the collection was built with.
        top_n: Most nodes to return.
        vector_store: Where the candidates are.
        method: None is "listwise" for a model that was trained for it, else "late_interaction".
        weight: Share of the new score in the final one, the rest is the first stage's; from 0 to 1. None is
            0.5, and 0.25 for late interaction behind a hybrid search.
        prompt_candidates: How many candidates the list prompt shows; all are reranked.

    Raises:
        InputError: There is no query, or it is blank.
        UnsupportedModelError: The model was not trained for the method.
        MissingVectorError: "listwise", and candidates carry no vector and no store has one.
        DimensionMismatchError: Stored vectors have another size than `embed_model` makes.
        FingerprintMismatchError: A candidate's vector was made in another way than `embed_model` makes them.
    """

    embed_model: SerializeAsAny[ContextualEmbedding] = Field(default_factory=ContextualEmbedding)
    top_n: int = Field(default=10, gt=0)
    vector_store: BasePydanticVectorStore | None = Field(default=None, exclude=True)
    method: Method | None = None
    weight: float | None = Field(default=None, ge=0, le=1)
    prompt_candidates: int = Field(default=20, gt=0)

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
        return self._postprocess(nodes, query_bundle, StoreAccess(self.vector_store))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        store = StoreAccess(self.vector_store, asyncio.get_running_loop())
        return await asyncio.to_thread(self._postprocess, nodes, query_bundle, store)

    def _postprocess(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None, store: StoreAccess
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
            result = self._rerank(nodes, query_bundle, store) if nodes else []
            event.on_end(payload={EventPayload.NODES: result})
        dispatcher.event(ReRankEndEvent(nodes=result))
        return result

    @property
    def chosen_method(self) -> Method:
        """The method that None stands for."""
        return self.method or ("listwise" if self.embed_model.profile.has_list_prompt else "late_interaction")

    def _rerank(
        self, nodes: list[NodeWithScore], query: QueryBundle, store: StoreAccess
    ) -> list[NodeWithScore]:
        candidates = sorted(nodes, key=lambda node: -(node.score or 0.0))
        self._check_fingerprints([candidate.node for candidate in candidates])
        score = self._score_list if self.chosen_method == "listwise" else self._score_tokens
        try:
            scores, notes = score(candidates, query, store)
        except ContextOverflowError as error:
            logger.warning("the first stage's order is kept: %s", error)
            kept = candidates[: self.top_n]
            return [_with_score(each, each.score, {SKIPPED: str(error)}) for each in kept]
        first = [candidate.score for candidate in candidates]
        final = scores
        if all(value is not None for value in first):
            final = fuse(np.array(first, dtype=np.float64), scores, weight=self._weight(candidates))
        order = best_first(final)[: self.top_n]
        return [_with_score(candidates[index], float(final[index]), notes[index]) for index in order]

    def _weight(self, candidates: Sequence[NodeWithScore]) -> float:
        if self.weight is not None:
            return self.weight
        is_hybrid = any(LEXICAL_SCORE in candidate.node.metadata for candidate in candidates)
        return HYBRID_WEIGHT if is_hybrid and self.chosen_method == "late_interaction" else DENSE_WEIGHT

    def _score_tokens(
        self, candidates: Sequence[NodeWithScore], query: QueryBundle, store: StoreAccess
    ) -> tuple[Float[np.ndarray, " candidates"], list[dict[str, object]]]:
        found = score_candidates(
            self.embed_model,
            self.embed_model.embed_query_tokens(query.query_str),
            [candidate.node for candidate in candidates],
            store=store,
        )
        notes: list[dict[str, object]] = [{TOKEN_SCORE: score, TOKENS_FROM: place} for score, place in found]
        return np.array([score for score, _ in found], dtype=np.float64), notes

    def _score_list(
        self, candidates: Sequence[NodeWithScore], query: QueryBundle, store: StoreAccess
    ) -> tuple[Float[np.ndarray, " candidates"], list[dict[str, object]]]:
        check_list_prompt(self.embed_model.profile)
        stored = fetch_vectors([each.node for each in candidates], self.embed_model, store=store)
        shown = candidates[: self.prompt_candidates]
        texts = [candidate.node.get_content(metadata_mode=MetadataMode.NONE) for candidate in shown]
        prompt = LIST_PROMPTS[self.embed_model.profile.family.list_prompt]
        listed = embed_list(self.embed_model.encoder, query.query_str, texts, prompt=prompt)
        counts = zip(listed.shown_tokens, listed.total_tokens, strict=True)
        notes: list[dict[str, object]] = [{SHOWN_TOKENS: f"{part}/{whole}"} for part, whole in counts]
        notes += [{} for _ in candidates[len(notes) :]]
        vector = listed.vector[: self.embed_model.dim].numpy().astype(np.float64)
        # One by one: a matrix product rounds its rows differently, and equal vectors must stay tied.
        cosines = [float(one @ vector / np.linalg.norm(one) / np.linalg.norm(vector)) for one in stored]
        return np.array(cosines), notes

    def _check_fingerprints(self, nodes: Sequence[BaseNode]) -> None:
        own = self.embed_model.fingerprint()
        for node in nodes:
            stamp = ChunkStamp.from_node(node)
            if stamp is None or stamp.fingerprint == own:
                continue
            if stamp.fingerprint is None:
                raise FingerprintMismatchError(
                    f"node {node.node_id!r} was parsed to be embedded in its document, and its vector was "
                    "made without it. Index it again with LateChunkingNodeParser(embed_model=...)"
                )
            raise FingerprintMismatchError(
                f"node {node.node_id!r} has a vector of {stamp.fingerprint!r}; this reranker makes {own!r}. "
                "Rerank with the embed_model that the collection was built with"
            )

    def __getstate__(self) -> dict[str, Any]:
        # A store holds a connection or a folder lock: it stays in its process, like callbacks.
        return make_state(self, local={"callback_manager", "vector_store"})


def _with_score(candidate: NodeWithScore, score: float | None, notes: Mapping[str, object]) -> NodeWithScore:
    """Copy a candidate with its new score; what is known of the stages goes into the metadata."""
    node = with_hidden_metadata(candidate.node, {RETRIEVAL_SCORE: candidate.score, **notes})
    return NodeWithScore(node=node, score=score)
