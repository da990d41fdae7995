"""LlamaIndex queries as searches: checked, translated, or refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from pydantic import BaseModel, ValidationError
from qdrant_client import models

from rag_embed.errors import InputError, UnsupportedQueryError
from rag_embed.qdrant.filters import all_of, has_node_ids, is_of_documents, to_condition
from rag_embed.qdrant.points import check_vector
from rag_embed.qdrant.port import Search
from rag_embed.qdrant.schema import CollectionSchema

LEXICAL_MODES = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH)
MMR_CANDIDATES_PER_RESULT = 4

_ANY = ("qdrant_filters",)
_BY_VECTOR = (*_ANY, "search_params")
_WITH_TOKENS = (*_BY_VECTOR, "query_tokens", "token_weight")
MODE_OPTIONS: Mapping[VectorStoreQueryMode, tuple[str, ...]] = {
    VectorStoreQueryMode.DEFAULT: _WITH_TOKENS,
    VectorStoreQueryMode.HYBRID: (*_WITH_TOKENS, "fusion"),
    **dict.fromkeys(LEXICAL_MODES, _ANY),
    VectorStoreQueryMode.MMR: (*_BY_VECTOR, "mmr_threshold", "mmr_prefetch_k", "mmr_prefetch_factor"),
}
"""The modes, and what LlamaIndex's `vector_store_kwargs` may hold in each."""

SHARD_OPTION = "shard_identifier"
"""What every method takes beside its own: the shards of a cluster that it is about."""

Model = TypeVar("Model", bound=BaseModel)


def check_options(options: Mapping[str, object], *, method: str, known: tuple[str, ...] = ()) -> None:
    """Refuse what a method would otherwise ignore.

    Args:
        options: As given; None counts as not given.
        method: Whose they are, for messages.
        known: Names that it takes.

    Raises:
        InputError: An unknown name.
    """
    for name, value in options.items():
        if value is None or name in (*known, SHARD_OPTION):
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        expected = ", ".join(known) or "no further arguments"
        raise InputError(f"{method} knows no {name!r}; expected {expected}{hint}")


def check_query(query: VectorStoreQuery, options: Mapping[str, object]) -> None:
    """Refuse what no collection could answer.

    Raises:
        UnsupportedQueryError: A mode that is not in `MODE_OPTIONS`, or a filter that Qdrant cannot evaluate.
        InputError: No vector, or no results wanted, or options that would be ignored.
        NonFiniteError: A vector with NaN or infinity.
    """
    known = dict.fromkeys(name for names in MODE_OPTIONS.values() for name in names)
    check_options(options, known=tuple(known), method="query")
    _check_mode(query.mode)
    _check_mode_options(query.mode, options)
    _read_model(options, "qdrant_filters", models.Filter)
    _read_model(options, "search_params", models.SearchParams)
    for name in ("similarity_top_k", "sparse_top_k", "hybrid_top_k"):
        count = getattr(query, name)
        if count is not None and not 1 <= count < 2**32:
            raise InputError(f"{name} is {count}; expected at least 1 and less than 2**32")
    if query.mode not in LEXICAL_MODES:
        if query.query_embedding is None:
            is_blank = query.query_str is not None and not query.query_str.strip()  # no retriever embeds it
            remedy = "its text is empty; expected a question" if is_blank else "embed the question first"
            raise InputError(f"the query has no query_embedding; {remedy}")
        check_vector(query.query_embedding, "the query vector")
    to_condition(query.filters)


def to_query_condition(query: VectorStoreQuery, options: Mapping[str, object]) -> models.Filter | None:
    """Say which chunks may be found: by ids, documents and filters of both kinds, all of which must hold."""
    return all_of(
        # VectorStoreIndex.as_retriever passes [] for "any node"; an empty list of documents means none.
        has_node_ids(query.node_ids) if query.node_ids else None,
        is_of_documents(query.doc_ids) if query.doc_ids is not None else None,
        to_condition(query.filters),
        _read_model(options, "qdrant_filters", models.Filter),
    )


def to_search(
    query: VectorStoreQuery,
    schema: CollectionSchema,
    condition: models.Filter | None,
    *,
    with_vectors: bool,
    options: Mapping[str, object],
) -> Search:
    """Translate a checked query by vectors for a collection.

    Args:
        query: Mode DEFAULT or MMR, ids, documents, filters and number of results.
        schema: Of the collection.
        condition: Only chunks that satisfy it are candidates.
        with_vectors: Whether the results carry their vectors.
        options: LlamaIndex's `vector_store_kwargs`.

    Raises:
        DimensionMismatchError: A vector of another length than the collection's.
        InputError: Options that are no numbers, or out of range.
    """
    vector = check_vector(query.query_embedding or [], "the query vector")
    schema.check_dim(len(vector), "the query vector")
    diversity, candidates = _mmr(query, options)
    return Search(
        vector=vector,
        vector_name=schema.vector_name,
        limit=query.similarity_top_k,
        condition=condition,
        with_vector=with_vectors,
        diversity=diversity,
        candidates=candidates,
        prefix=schema.prefix,
        oversampling=schema.oversampling,
        params=_read_model(options, "search_params", models.SearchParams),
    )


def _check_mode(mode: VectorStoreQueryMode) -> None:
    if mode not in MODE_OPTIONS:
        known = ", ".join(mode.name for mode in MODE_OPTIONS)
        raise UnsupportedQueryError(
            f"query mode {mode.name} ({mode.value!r}) is not supported; expected one of {known}. HYBRID "
            "finds by meaning and by words"
        )


def _check_mode_options(mode: VectorStoreQueryMode, options: Mapping[str, object]) -> None:
    """Refuse what another mode would take, and what another option makes meaningless."""
    for name in options:
        if name not in MODE_OPTIONS[mode]:
            takers = " or ".join(other.name for other, names in MODE_OPTIONS.items() if name in names)
            raise InputError(
                f"query mode {mode.name} takes no {name}; expected it with mode {takers}. Ask in such a "
                f"mode, or leave {name} out"
            )
    if "token_weight" in options and "query_tokens" not in options:
        raise InputError(
            "token_weight was given without query_tokens; it is the share of late interaction, which needs "
            "them. Give both, or leave token_weight out"
        )
    if {"mmr_prefetch_k", "mmr_prefetch_factor"} <= options.keys():
        raise InputError(
            "mmr_prefetch_k and mmr_prefetch_factor were both given; expected one number of candidates. "
            "Leave one of them out"
        )


def _mmr(query: VectorStoreQuery, options: Mapping[str, object]) -> tuple[float | None, int]:
    """Read diversity (None without MMR) and number of candidates, in LlamaIndex's words."""
    if query.mode != VectorStoreQueryMode.MMR:
        return None, 0
    threshold = query.mmr_threshold
    if threshold is None:
        threshold = _number(options, "mmr_threshold", 0.5)
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"mmr_threshold is {threshold}; expected 0 (varied) to 1 (relevant)")
    factor = _number(options, "mmr_prefetch_factor", MMR_CANDIDATES_PER_RESULT)
    candidates = _number(options, "mmr_prefetch_k", factor * query.similarity_top_k)
    return 1.0 - threshold, max(int(candidates), query.similarity_top_k)


def _number(options: Mapping[str, object], name: str, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, int | float):
        raise InputError(f"{name} is {value!r}; expected a number")
    return float(value)


def _read_model(options: Mapping[str, object], name: str, kind: type[Model]) -> Model | None:
    """Read one of Qdrant's own models, or a dict of its fields."""
    value = options.get(name)
    if value is None or isinstance(value, kind):
        return value
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(
            f"{name} is {value!r}; expected a qdrant_client.models.{kind.__name__}, or a dict of "
            f"its fields ({error})"
        ) from error
