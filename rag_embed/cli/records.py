"""Results as JSON objects, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_embed.chat.passages import Passage
    from rag_embed.chat.turns import Citation, Quote, Turn
    from rag_embed.indexes.filling import Filled


def filled_as_json(filled: Filled) -> dict[str, object]:
    """Turn what became of one folder into a JSON object."""
    reading, report = filled.reading, filled.report
    return {
        "source": reading.source,
        "added": list(report.added),
        "changed": list(report.changed),
        "removed": list(report.removed),
        "kept": list(report.kept),
        "unchanged": len(report.unchanged),
        "failed": reading.failed,
        "skipped": reading.skipped,
        "empty": list(reading.empty),
        "chunks": report.chunks,
        "embedded": report.embedded,
        "seconds": round(filled.seconds, 3),
    }


def passages_as_json(passages: Sequence[Passage]) -> list[dict[str, object]]:
    """Turn passages into JSON objects."""
    return [asdict(passage) for passage in passages]


def turn_as_json(turn: Turn) -> dict[str, object]:
    """Turn a question and its answer into a JSON object; passages carry no text, only places."""

    def place(of: Passage | Quote, score: float) -> dict[str, object]:
        return {"document": of.document, "start": of.start, "end": of.end, "score": score}

    def cite(citation: Citation) -> dict[str, object]:
        quote = citation.quote
        quoted = None if quote is None else {"start": quote.start, "end": quote.end, "text": quote.text}
        return {**place(citation.cited, citation.passage.score), "quote": quoted}

    return {
        "question": turn.question,
        "answer": turn.answer,
        "citations": [cite(citation) for citation in turn.citations],
        "unknown_numbers": turn.unknown_numbers,
        "left_out": [place(passage, passage.score) for passage in turn.left_out],
        "cut": None if turn.cut is None else {"shown_tokens": turn.cut[0], "total_tokens": turn.cut[1]},
        "searched": turn.searched or turn.question,
        "unranked": turn.unranked,
        "error": turn.error,
    }
