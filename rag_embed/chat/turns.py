"""One question and what came of it, also as plain data that outlives the process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import Self

from rag_embed.chat.passages import Passage
from rag_embed.errors import InputError

_NUMBER = re.compile(r"\[(\d{1,3})\]")


@dataclass(frozen=True, slots=True)
class Quote:
    """Characters of a document that answer a question.

    Attributes:
        document: Its id.
        start: First character in the document.
        end: One past the last.
        text: The document's characters from `start` to `end`.
        score: How near they are to the question; comparable within one answer.
    """

    document: str
    start: int
    end: int
    text: str
    score: float

    @property
    def place(self) -> str:
        """Cite it: "document:start-end"."""
        return f"{self.document}:{self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class Citation:
    """What a number in an answer means.

    Attributes:
        number: From 1, as in the answer.
        passage: The passage that was found.
        quote: What in it, or right beside it, is nearest to the question; None if it holds no sentence.
        is_quoted: Whether the answer is the quote itself, not written from the passage.
    """

    number: int
    passage: Passage
    quote: Quote | None = None
    is_quoted: bool = False

    @property
    def cited(self) -> Passage | Quote:
        """What the answer has it from: the quote where it is quoted, else the passage."""
        return self.quote if self.quote is not None and self.is_quoted else self.passage

    @property
    def place(self) -> str:
        """Where that is: "document:start-end"."""
        return self.cited.place


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        question: As asked.
        answer: Of the LLM, or quotes; with an error what had come before it.
        citations: What the numbers in the answer mean.
        left_out: Passages that were found and did not fit into the LLM's context.
        cut: Tokens of the first passage shown and in all, if not even that one fitted whole.
        searched: What was searched, where that is not the question itself.
        unranked: Why the passages stand in the order of the first stage; None if they were reranked as asked.
        error: Why the answer is missing or ends early; None if it is whole.
    """

    question: str
    answer: str = ""
    citations: Sequence[Citation] = ()
    left_out: Sequence[Passage] = ()
    cut: tuple[int, int] | None = None
    searched: str | None = None
    unranked: str | None = None
    error: str | None = None

    @property
    def unknown_numbers(self) -> list[int]:
        """Numbers that the answer cites and that mean nothing, as an LLM makes them up."""
        known = {citation.number for citation in self.citations}
        cited = {int(number) for number in _NUMBER.findall(self.answer)} if self.citations else set()
        is_written = not any(citation.is_quoted for citation in self.citations)
        return sorted(cited - known) if is_written else []

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain data, which JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make it of what `to_dict` gave.

        Raises:
            InputError: It gave something else.
        """
        try:
            given = dict(data)
            given["citations"] = tuple(_to_citation(each) for each in given.get("citations", ()))
            given["left_out"] = tuple(Passage(**each) for each in given.get("left_out", ()))
            given["cut"] = tuple(given["cut"]) if given.get("cut") else None
            return cls(**given)
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"this is no turn of a conversation ({error}); expected what Conversation.export() gave"
            ) from error


def _to_citation(data: Mapping[str, Any]) -> Citation:
    quote = data["quote"]
    return Citation(
        data["number"],
        Passage(**data["passage"]),
        Quote(**quote) if quote is not None else None,
        data["is_quoted"],
    )
