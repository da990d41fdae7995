"""Documents cut by a LlamaIndex splitter, and answers found again in the new chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import BaseNode, Document, TextNode

from rag_embed.errors import AlignmentError
from rag_embed.evaluation.sets import EvalDocument, EvalSet, GoldSpan, name_chunk
from rag_embed.llamaindex import LateChunkingNodeParser
from rag_embed.spans import CharSpan


def rechunk_set(evalset: EvalSet, splitter: NodeParser) -> EvalSet:
    """Cut all documents anew; the answers of each query become the chunks that hold them.

    Args:
        evalset: Its answers as characters decide; a query that has none of them is answered by the characters
            of its old chunks.
        splitter: Any node parser.
    """
    documents = tuple(doc for doc in (cut_document(doc, splitter) for doc in evalset.documents) if doc.spans)
    if evalset.unit == "document":
        return replace(evalset, documents=documents)
    golds = map_golds(documents, list_gold_spans(evalset))
    lost = [query for query in evalset.queries if query not in golds]
    warnings = evalset.warnings
    if lost:
        warnings += (f"{len(lost)} queries were left out: no chunk holds any of their answers' characters",)
    return replace(
        evalset,
        documents=documents,
        queries={query: text for query, text in evalset.queries.items() if query in golds},
        golds=golds,
        warnings=warnings,
    )


def cut_document(document: EvalDocument, splitter: NodeParser) -> EvalDocument:
    """Cut one document; a blank one has no chunks."""
    if not document.text.strip():
        return replace(document, spans=())
    parser = LateChunkingNodeParser(node_parser=splitter)
    nodes = parser.get_nodes_from_documents([Document(text=document.text, id_=document.doc_id)])
    spans = sorted({_place(node) for node in nodes})
    return replace(document, spans=tuple(spans))


def _place(node: BaseNode) -> CharSpan:
    assert isinstance(node, TextNode)
    if node.start_char_idx is None or node.end_char_idx is None:
        raise AlignmentError(
            f"the splitter rewrites document {node.ref_doc_id!r}, so its chunks have no place in it; "
            "expected one that cuts and nothing else, because answers are found again by their characters"
        )
    return CharSpan(node.start_char_idx, node.end_char_idx)


def list_gold_spans(evalset: EvalSet) -> dict[str, tuple[GoldSpan, ...]]:
    """Answers of every query as characters."""
    places = {
        name_chunk(doc.doc_id, index): (doc.doc_id, span)
        for doc in evalset.documents
        for index, span in enumerate(doc.spans)
    }
    return {
        query: evalset.gold_spans.get(query)
        or tuple(GoldSpan(*places[chunk], relevance) for chunk, relevance in evalset.golds[query].items())
        for query in evalset.queries
    }


def map_golds(
    documents: Sequence[EvalDocument], gold_spans: dict[str, tuple[GoldSpan, ...]]
) -> dict[str, dict[str, int]]:
    """Find the chunks that hold the answers.

    A chunk answers if it holds at least half of the answer, or consists of it for at least half; so a short
    answer has one chunk, or two if they overlap, and a long one has all chunks inside it. Where no chunk
    reaches a half, the one that holds most of it answers.

    Returns:
        Relevance by chunk and query; a query is absent if no chunk holds a character of its answers.
    """
    by_id = {doc.doc_id: doc for doc in documents}
    golds: dict[str, dict[str, int]] = {}
    for query, answers in gold_spans.items():
        found: dict[str, int] = {}
        for answer in answers:
            doc = by_id.get(answer.doc_id)
            for index in _holders(doc.spans, answer.span) if doc else []:
                chunk = name_chunk(answer.doc_id, index)
                found[chunk] = max(found.get(chunk, 0), answer.relevance)
        if found:
            golds[query] = found
    return golds


def _holders(spans: Sequence[CharSpan], answer: CharSpan) -> list[int]:
    shared = [max(0, min(span.end, answer.end) - max(span.start, answer.start)) for span in spans]
    size = answer.end - answer.start
    halves = [
        index
        for index, (span, count) in enumerate(zip(spans, shared, strict=True))
        if count and 2 * count >= min(size, span.end - span.start)
    ]
    if halves or not any(shared):
        return halves
    return [max(range(len(spans)), key=shared.__getitem__)]
