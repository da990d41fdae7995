"""A whole comparison, as the command line runs it: a set made ready, arms chosen, measured, described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_embed.evaluation.arms import ALPHAS, choose_arms, make_arms
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.chunking import rechunk_set
from rag_embed.evaluation.harness import evaluate
from rag_embed.evaluation.machine import describe_machine
from rag_embed.evaluation.proxies import make_proxy_queries
from rag_embed.evaluation.results import Evaluation
from rag_embed.evaluation.sets import EvalSet, sample_set
from rag_embed.evaluation.vectors import OnStep, be_silent, with_options
from rag_embed.llamaindex import ContextualEmbedding

PROXY_QUERIES = 200


def prepare_set(
    evalset: EvalSet,
    *,
    chunk_size: int | None = None,
    documents: int | None = None,
    queries: int | None = None,
    without_titles: bool = False,
    within_document: bool = False,
) -> EvalSet:
    """Draw a sample, cut it anew, and make queries where there are none.

    Args:
        evalset: As it was read.
        chunk_size: Most tokens of a chunk; None keeps the chunks.
        documents: Draw so many of them; None keeps all.
        queries: Draw so many of them, or make so many if there are none; None keeps all, or makes 200.
        without_titles: Leave titles out.
        within_document: Queries do not say which document they are about.

    Raises:
        InputError: No query is left, or none can be made.
    """
    has_queries = bool(evalset.queries)
    evalset = sample_set(evalset, documents=documents, queries=queries if has_queries else None)
    if chunk_size is not None:
        from llama_index.core.node_parser import SentenceSplitter

        evalset = rechunk_set(evalset, SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0))
    if not has_queries:
        evalset = make_proxy_queries(evalset, queries or PROXY_QUERIES)
    return replace(
        evalset,
        has_titles=evalset.has_titles and not without_titles,
        is_within_document=evalset.is_within_document or within_document,
    )


def compare_arms(
    evalset: EvalSet,
    model: ContextualEmbedding,
    *,
    names: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    with_rerank: bool = False,
    with_weights: bool = False,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_step: OnStep = be_silent,
) -> Evaluation:
    """Measure all arms that a model has on a set, or some of them.

    Args:
        evalset: Chunked documents, queries and answers.
        model: Its own strategy and adapter are the arm marked as default.
        names: Of the arms; isolated chunks are always among them. None takes all.
        alphas: Shares of context in the blends; None takes the usual ones.
        with_rerank: Whether each contextual arm is there a second time, reranked.
        with_weights: Whether the weights of words and late interaction are fitted on the queries.
        cache: Folder where vectors are kept; None keeps them in memory.
        settings: What else the report should say.
        on_step: Told of progress.

    Raises:
        InputError: There is no arm of a name, or weights are to be fitted and cannot be.
    """
    arms = make_arms(model, has_titles=evalset.has_titles, alphas=alphas or ALPHAS, with_rerank=with_rerank)
    if names is not None:
        arms = choose_arms(arms, names)
    adapter = model.located_adapter or with_options(model, strategy="late").located_adapter
    return evaluate(
        evalset,
        arms,
        model=model,
        cache=VectorCache(cache),
        settings={
            "adapter": adapter.name if adapter else "none",
            "machine": describe_machine(),
            **(settings or {}),
        },
        with_costs=True,
        with_weights=with_weights,
        on_step=on_step,
    )
