"""Traces: one question is one tree of spans, as OpenInference's LlamaIndex instrumentation sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.instrumentation.span import active_span_id
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rag_embed import ContextualEmbedding
from rag_embed.chat.conversation import Conversation
from rag_embed.chat.searching import Searcher
from rag_embed.chat.turns import Turn
from tests.chats import ScriptedLLM, open_store

# The instrumentation's own call; an error inside it would cost the LLM its span.
pytestmark = pytest.mark.filterwarnings("ignore:The `json` method is deprecated")

QUESTION = "When does the café open?"
ANSWER = "It opens at seven [1], they say."


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    LlamaIndexInstrumentor().instrument(tracer_provider=provider)
    yield kept
    LlamaIndexInstrumentor().uninstrument()


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return Searcher(open_store(), ContextualEmbedding(strategy="late"), rerank="late-interaction")


@pytest.fixture(autouse=True)
def _forget(exporter: InMemorySpanExporter, searcher: Searcher) -> None:
    exporter.clear()


def one_trace(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans by their names; they are of one trace, and none lasts longer than the one around it."""
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    assert len({span.context.trace_id for span in spans}) == 1
    assert sum(span.parent is None for span in spans) == 1
    for span in spans:
        if span.parent is not None:
            around = by_id[span.parent.span_id]
            assert (around.start_time or 0) <= (span.start_time or 0)
            assert (span.end_time or 0) <= (around.end_time or 0)
    return {span.name: span for span in spans}


def read_documents(span: ReadableSpan, what: str) -> list[dict[str, Any]]:
    """Documents of a span: id, score and metadata."""
    attributes = dict(span.attributes or {})
    found = []
    while (key := f"{what}.{len(found)}.document") and f"{key}.id" in attributes:
        metadata = json.loads(str(attributes[f"{key}.metadata"]))
        found.append({"id": attributes[f"{key}.id"], "score": attributes[f"{key}.score"], **metadata})
    return found


def path(span: ReadableSpan, spans: dict[str, ReadableSpan]) -> Sequence[str]:
    """Names from the outermost span to this one."""
    by_id = {other.context.span_id: other for other in spans.values()}
    around = () if span.parent is None else path(by_id[span.parent.span_id], spans)
    return [*around, span.name]


def ask(conversation: Conversation, how: str) -> Turn:
    if how == "ask":
        return conversation.ask(QUESTION)
    if how == "stream":
        *_, turn = conversation.stream(QUESTION)
    else:

        async def run() -> list[Any]:
            return [piece async for piece in conversation.astream(QUESTION)]

        *_, turn = asyncio.run(run())
    assert isinstance(turn, Turn)
    return turn


@pytest.mark.parametrize("how", ["ask", "stream", "astream"])
def test_one_question_is_one_trace_with_both_legs_the_reranking_and_the_llm(
    exporter: InMemorySpanExporter, searcher: Searcher, how: str
) -> None:
    turn = ask(Conversation(searcher, ScriptedLLM(ANSWER)), how)
    assert turn.answer == ANSWER
    spans = one_trace(exporter)

    root = spans[f"Conversation.{how}"]
    assert json.loads(str((root.attributes or {})["input.value"]))["question"] == QUESTION
    assert ANSWER in str((root.attributes or {})["output.value"])

    retrieval = spans["VectorIndexRetriever.retrieve"]
    assert path(retrieval, spans) == [root.name, "Searcher.search", retrieval.name]
    found = read_documents(retrieval, "retrieval.documents")
    assert len(found) > 1
    assert all(-1 <= each["dense_score"] <= 1 and each["lexical_score"] >= 0 for each in found)
    assert found[0]["lexical_score"] > 0  # "café" and "open" stand in it
    store = spans["QdrantChunkStore.query"]
    assert path(store, spans)[:3] == path(retrieval, spans)
    assert '"hybrid"' in str((store.attributes or {})["input.value"])

    rerank = spans["ListwiseRerank._postprocess_nodes"]
    assert path(rerank, spans) == [root.name, "Searcher.search", rerank.name]
    after = read_documents(rerank, "reranker.output_documents")
    assert {each["id"] for each in after} <= {each["id"] for each in found}
    scores = [each["score"] for each in after]
    assert scores == sorted(scores, reverse=True)
    assert all("late_interaction_score" in each for each in after)

    llm = spans["ScriptedLLM.chat" if how == "ask" else "ScriptedLLM.stream_chat"]
    assert path(llm, spans) == [root.name, llm.name]
    assert QUESTION in str(dict(llm.attributes or {}))
    assert ANSWER in str((llm.attributes or {})["output.value"])


def test_an_answer_of_quotes_is_one_trace(exporter: InMemorySpanExporter, searcher: Searcher) -> None:
    turn = ask(Conversation(searcher), "stream")
    spans = one_trace(exporter)
    assert turn.citations[0].quote is not None
    quoting = spans["Searcher.quote_best"]
    assert path(quoting, spans) == ["Conversation.stream", quoting.name]
    assert turn.citations[0].quote.text[:20] in str((quoting.attributes or {})["output.value"])


def test_a_search_alone_is_one_trace(exporter: InMemorySpanExporter, searcher: Searcher) -> None:
    asyncio.run(searcher.asearch(QUESTION))
    spans = one_trace(exporter)
    assert path(spans["ListwiseRerank._postprocess_nodes"], spans)[0] == "Searcher.search"


def test_what_the_reader_of_a_stream_does_is_no_part_of_its_trace(
    exporter: InMemorySpanExporter, searcher: Searcher
) -> None:
    for piece in Conversation(searcher, ScriptedLLM(ANSWER)).stream(QUESTION):
        assert active_span_id.get() is None
        if isinstance(piece, str):
            ContextualEmbedding(strategy="late").get_text_embedding(piece)
    spans = exporter.get_finished_spans()
    pieces = [span for span in spans if span.name == "ContextualEmbedding.get_text_embedding"]
    assert pieces
    assert all(span.parent is None for span in pieces)


def test_a_stopped_answer_ends_its_span(exporter: InMemorySpanExporter, searcher: Searcher) -> None:
    conversation = Conversation(searcher, ScriptedLLM(ANSWER))
    stream = conversation.stream(QUESTION)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    root = next(span for span in exporter.get_finished_spans() if span.name == "Conversation.stream")
    assert "stopped" in str((root.attributes or {})["output.value"])
    assert conversation.turns[0].error == "the answer was stopped before its end"


@pytest.mark.parametrize("how", ["stream", "astream"])
def test_an_llm_that_fails_is_an_error_in_its_span(
    exporter: InMemorySpanExporter, searcher: Searcher, how: str
) -> None:
    turn = ask(Conversation(searcher, ScriptedLLM(ANSWER, breaks_after=2)), how)
    assert turn.error is not None
    spans = one_trace(exporter)
    assert "the line went dead" in str(spans["ScriptedLLM.stream_chat"].status.description)
    assert "broke off after" in str((spans[f"Conversation.{how}"].attributes or {})["output.value"])
