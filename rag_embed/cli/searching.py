"""Search an index: retrieve candidates, rerank them, and say exactly where each passage stands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llama_index.core import VectorStoreIndex
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from rag_embed.cli.decoding import check_unicode
from rag_embed.errors import ContextOverflowError, InputError
from rag_embed.llamaindex import ContextualEmbedding, ListwiseRerank
from rag_embed.qdrant import CollectionSchema, QdrantChunkStore
from rag_embed.qdrant.legs import NO_LEGS
from rag_embed.stage_scores import (
    DENSE_SCORE,
    LEXICAL_SCORE,
    RETRIEVAL_SCORE,
    SHOWN_TOKENS,
    SKIPPED,
    TOKEN_SCORE,
)

Rerank = Literal["auto", "none", "late-interaction", "listwise"]


_STAGES = {"meaning": DENSE_SCORE, "words": LEXICAL_SCORE, "tokens": TOKEN_SCORE}


@dataclass(frozen=True, slots=True)
class Passage:
    """One chunk of an answer.

    Attributes:
        rank: From 1.
        score: After reranking.
        retrieval_score: Before reranking; equal to `score` without it.
        document: Id of the document.
        start: First character of the chunk in the document.
        end: One past its last character.
        text: The document's characters from `start` to `end`.
        shown_tokens: How much of it the list prompt held, such as "24/181"; None if nothing did.
        stages: Scores of the stages that looked at it: "meaning", "words" and "tokens".
    """

    rank: int
    score: float
    retrieval_score: float
    document: str
    start: int
    end: int
    text: str
    shown_tokens: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Cite it: "document:start-end"."""
        return f"{self.document}:{self.start}-{self.end}"


class FirstStageRerank(BaseNodePostprocessor):
    """Reranks, and keeps the first stage's order where a question is too long for that.

    Attributes:
        reranker: What reranks.
        top_n: Most nodes to return.
        unranked: Why the last call did not rerank; None if it did.
    """

    reranker: BaseNodePostprocessor
    top_n: int
    unranked: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "FirstStageRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        try:
            result = self.reranker.postprocess_nodes(nodes, query_bundle=query_bundle)
            reason = next((found.node.metadata.get(SKIPPED) for found in result), None)
        except ContextOverflowError as error:
            result, reason = nodes[: self.top_n], str(error)
        self.unranked = f"not reranked, the passages stand as they were found: {reason}" if reason else None
        return result


class Searcher:
    """Retriever and reranker over one index.

    Args:
        store: The index.
        embed_model: The model it was made with.
        top_k: Most passages in a result.
        candidates: How many the reranker chooses from.
        rerank: How; "none" takes the first stage's order, "auto" reranks where the index keeps token vectors
            or the model was trained for a list prompt.
        schema: What the index holds: with words, chunks are found by meaning and by words.
        filters: What the chunks' metadata must be.
    """

    def __init__(
        self,
        store: QdrantChunkStore,
        embed_model: ContextualEmbedding,
        *,
        top_k: int,
        candidates: int = 50,
        rerank: Rerank = "auto",
        schema: CollectionSchema | None = None,
        filters: MetadataFilters | None = None,
    ) -> None:
        self.embed_model = embed_model
        self.postprocessors: list[BaseNodePostprocessor] = []
        self._rerank: FirstStageRerank | None = None
        legs = schema.legs if schema is not None else NO_LEGS
        pays = legs.tokens is not None or embed_model.profile.has_list_prompt
        is_reranked = pays if rerank == "auto" else rerank != "none"
        if is_reranked:
            method = None if rerank == "auto" else rerank.replace("-", "_")
            reranker = ListwiseRerank(embed_model=embed_model, vector_store=store, method=method, top_n=top_k)
            self._rerank = FirstStageRerank(reranker=reranker, top_n=top_k)
            self.postprocessors.append(self._rerank)
        self.retriever: BaseRetriever = VectorStoreIndex.from_vector_store(
            store, embed_model=embed_model
        ).as_retriever(
            similarity_top_k=max(top_k, candidates) if is_reranked else top_k,
            vector_store_query_mode="hybrid" if legs.lexical is not None else "default",
            filters=filters,
        )

    def retrieve(self, query: str) -> list[NodeWithScore]:
        """Find the best chunks, best first.

        Raises:
            InputError: The question is blank.
        """
        if not query.strip():
            raise InputError("the question is empty; expected some words")
        bundle = QueryBundle(query)
        nodes = self.retriever.retrieve(bundle)
        for postprocessor in self.postprocessors:
            nodes = postprocessor.postprocess_nodes(nodes, query_bundle=bundle)
        return nodes

    @property
    def unranked(self) -> str | None:
        """Why the last question's passages stand in the order of the first stage; None if they do not."""
        return self._rerank.unranked if self._rerank else None

    def search(self, query: str) -> list[Passage]:
        """Find the best passages, best first."""
        return to_passages(self.retrieve(query))


def to_passages(nodes: Sequence[NodeWithScore]) -> list[Passage]:
    """Describe retrieved chunks."""
    return [_to_passage(rank, found) for rank, found in enumerate(nodes, start=1)]


def _to_passage(rank: int, found: NodeWithScore) -> Passage:
    node = found.node
    score = float(found.score or 0.0)
    before = node.metadata.get(RETRIEVAL_SCORE)
    start, end = (node.start_char_idx, node.end_char_idx) if isinstance(node, TextNode) else (None, None)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return Passage(
        rank=rank,
        score=score,
        retrieval_score=score if before is None else float(before),
        document=node.ref_doc_id or node.node_id,
        start=start or 0,
        end=len(text) if end is None else end,
        text=text,
        shown_tokens=node.metadata.get(SHOWN_TOKENS),
        stages={name: node.metadata[key] for name, key in _STAGES.items() if key in node.metadata},
    )


def parse_filters(pairs: Sequence[str]) -> MetadataFilters | None:
    """Read "key=value" pairs, all of which must hold.

    A reader may have stored a number, a number's digits or a truth value, and nobody who asks knows which:
    what JSON reads as one of them is looked for as that and as text. A quoted string is text alone.
    A key with a dot is the key of that name as well as a path into a dict.

    Raises:
        InputError: A pair without a key or without "=", or with characters that no text may hold.
    """
    filters: list[MetadataFilter | MetadataFilters] = []
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not key or not separator:
            raise InputError(f"the filter is {pair!r}; expected key=value, such as source=docs")
        check_unicode(pair, "the filter")
        keys = [f'"{key}"', key] if _is_path(key) else [key]
        ways = [_is_equal(name, value) for name in keys for value in _possible_values(text)]
        filters.append(MetadataFilters(filters=ways, condition=FilterCondition.OR))
    return MetadataFilters(filters=filters) if filters else None


def parse_value(text: str) -> object:
    """Read a value as JSON where it is JSON, else as text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _possible_values(text: str) -> list[str | int | float]:
    """What a stored value that is written like this may be."""
    value = parse_value(text)
    if isinstance(value, str):
        return [value]
    if isinstance(value, int):
        return [text, value] if -(2**63) <= value < 2**63 else [text]
    return [text, value] if isinstance(value, float) and math.isfinite(value) else [text]


def _is_path(key: str) -> bool:
    return any(character in key for character in ".[]") and '"' not in key


def _is_equal(key: str, value: str | int | float) -> MetadataFilter:
    if isinstance(value, bool):
        # LlamaIndex's filters know no truth values; the store does.
        fields: dict[str, Any] = {"key": key, "value": value, "operator": FilterOperator.EQ}
        return MetadataFilter.model_construct(**fields)
    return MetadataFilter(key=key, value=value)
