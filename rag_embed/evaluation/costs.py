"""What an arm costs beside its quality: bytes, milliseconds and seconds, measured in the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rag_embed.evaluation.arms import Arm
from rag_embed.evaluation.lexical import WordIndex
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.sets import EvalDocument
from rag_embed.evaluation.vectors import embed_nodes
from rag_embed.stamp import tokens_of

_CHUNKS, _QUERIES, _LONGEST = 32, 12, 64
FLOAT_BYTES = 4
"""A number of a dense vector, as a collection keeps it by default."""
TERM_BYTES = 8
"""A word of a chunk: its number and its weight."""
TOKEN_BYTES = 0.5
"""A number of a token vector, as `QdrantChunkStore(tokens=True)` keeps it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one arm costs.

    Attributes:
        bytes_per_chunk: Of its vectors and words; text, metadata and the graph are the same for all arms.
        query_ms: From the question's text to the order of chunks: median of some questions, one by one.
        ingestion_s: To read all chunks, scaled up from some; writing them into a store comes on top.
    """

    bytes_per_chunk: float
    query_ms: float
    ingestion_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What all arms cost, and how that was measured.

    Attributes:
        by_arm: By the arm's name.
        note: What was measured, for people.
    """

    by_arm: dict[str, Cost]
    note: str


@dataclass(frozen=True, slots=True)
class _Reading:
    """How long it takes to read a chunk, and what is kept of its tokens."""

    seconds_per_chunk: float
    token_bytes: float


def measure_costs(searcher: Searcher, arms: Sequence[Arm]) -> Costs:
    """Measure every arm in turn on the same documents and questions.

    Whatever lies in a cache is measured anew, on a sample: 32 chunks of whole documents (of very long ones
    the first 64), 12 questions.

    Args:
        searcher: Of the run; its vectors are there already.
        arms: To be measured.
    """
    evalset = searcher.evalset
    documents = _draw_documents(evalset.documents)
    queries = _draw_queries(searcher.queries)
    total = len(evalset.chunk_ids)
    readings: dict[tuple[str, bool], _Reading] = {}
    words = {
        with_title: _time_words(searcher, with_title)
        for with_title in {arm.with_title for arm in arms if arm.method != "vectors"}
    }
    by_arm = {}
    for arm in arms:
        seconds, size = 0.0, 0.0
        if arm.method != "bm25":
            key = (str(sorted(arm.options.items(), key=str)), arm.with_title)
            if key not in readings:
                readings[key] = _time_reading(searcher, arm, documents)
            seconds += readings[key].seconds_per_chunk * total
            size += FLOAT_BYTES * (searcher.model.dim or searcher.model.profile.dim)
            size += readings[key].token_bytes if arm.is_reranked else 0.0
        if arm.method != "vectors":
            seconds += words[arm.with_title]
            size += TERM_BYTES * searcher.words(arm.with_title).term_count / total
        by_arm[arm.name] = Cost(round(size, 1), _time_queries(searcher, arm, queries), round(seconds, 6))
    sampled = sum(len(document.spans) for document in documents)
    return Costs(
        by_arm,
        f"Measured in this run. Milliseconds per query: median of {len(queries)} questions one by one, from "
        "the text to the order, compared with every chunk in memory; a store adds its request and "
        f"saves comparisons. Ingestion: reading {sampled} chunks of {len(documents)} documents, scaled to "
        f"{total:,} chunks, without writing them. Bytes: dense vectors as float32, a word as 8 bytes, token "
        "vectors as half a byte per number, without text and graph.",
    )


def _draw_documents(documents: Sequence[EvalDocument]) -> list[EvalDocument]:
    """Draw whole documents until there are chunks enough."""
    drawn: list[EvalDocument] = []
    for index in np.random.default_rng(0).permutation(len(documents)):
        document = documents[index]
        if not document.spans:
            continue
        spans = document.spans[:_LONGEST]
        cut = document.text if len(spans) == len(document.spans) else document.text[: spans[-1].end]
        drawn.append(replace(document, text=cut, spans=spans))
        if sum(len(each.spans) for each in drawn) >= _CHUNKS:
            break
    return drawn


def _draw_queries(queries: Sequence[str]) -> list[str]:
    """Draw some, in equal steps."""
    steps = np.linspace(0, len(queries) - 1, min(_QUERIES, len(queries)))
    return [queries[round(step)] for step in steps]


def _time_reading(searcher: Searcher, arm: Arm, documents: Sequence[EvalDocument]) -> _Reading:
    model = arm.make_model(searcher.model)
    first = documents[0]
    beginning = replace(first, text=first.text[: first.spans[0].end], spans=first.spans[:1])
    embed_nodes(model, beginning, with_title=arm.with_title)  # weights are loaded by now
    start = time.perf_counter()
    nodes = [node for each in documents for node in embed_nodes(model, each, with_title=arm.with_title)]
    seconds = time.perf_counter() - start
    kept = [tokens.size for node in nodes if (tokens := tokens_of(node)) is not None]
    return _Reading(seconds / len(nodes), TOKEN_BYTES * float(np.mean(kept)) if kept else 0.0)


def _time_words(searcher: Searcher, with_title: bool) -> float:
    """Seconds for all chunks: it is quick enough to do all of them again."""
    texts = searcher.worded_texts(with_title)
    start = time.perf_counter()
    WordIndex(texts)
    return time.perf_counter() - start


def _time_queries(searcher: Searcher, arm: Arm, queries: Sequence[str]) -> float:
    search = searcher.prepare(arm)
    search(queries[0])
    found = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        found.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(found)), 2)
