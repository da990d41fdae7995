"""The draft of an answer: how it is written, by an LLM from passages or by quoting them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms import LLM, LLMMetadata
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.vector_stores.types import MetadataFilters

from rag_embed.chat.fitting import fit_passages, passage_budget
from rag_embed.chat.follow_ups import complete
from rag_embed.chat.passages import Passage
from rag_embed.chat.searching import Searcher
from rag_embed.chat.turns import Citation, Turn, find_numbers
from rag_embed.errors import ModelError

INSTRUCTIONS = (
    "Answer from the numbered passages below and cite each one you use by its number, such as [1]. "
    "If they do not answer the question, say so."
)
NO_ANSWER = "Nothing in the index answers that."
STOPPED = "the answer was stopped before its end"
QUOTED_PASSAGES, MOST_QUOTES = 3, 3


@dataclass(slots=True)
class Draft:
    """One answer while it is written.

    Attributes:
        question: As asked.
        filters: What the passages' metadata must be as well.
        answer: What there is of it.
        searched: What was searched.
        citations: What its numbers mean.
        left_out: Passages that did not fit.
        cut: Tokens of the only passage shown and in all, if it did not fit whole.
        unranked: Why passages stand as they were found.
        finished: The turn, once there is one.
    """

    question: str
    filters: MetadataFilters | None = None
    answer: str = ""
    searched: str | None = None
    citations: list[Citation] = field(default_factory=list)
    left_out: Sequence[Passage] = ()
    cut: tuple[int, int] | None = None
    unranked: str | None = None
    finished: Turn | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is a turn of it."""
        return self.finished is not None

    @property
    def turn(self) -> Turn:
        """The turn that came of it."""
        assert self.finished is not None, "write the draft first"
        return self.finished

    def finish(self, error: str | None) -> Turn:
        """Make the turn, with the reason if it ends early."""
        self.finished = Turn(
            self.question,
            self.answer,
            tuple(self.citations),
            tuple(self.left_out),
            self.cut,
            searched=self.searched if self.searched != self.question else None,
            unranked=self.unranked,
            error=error,
        )
        return self.finished

    def write(
        self, searcher: Searcher, llm: LLM | None, turns: Sequence[Turn], *, by_tokens: bool
    ) -> Iterator[str]:
        """Give the answer in pieces; all else is in the attributes afterwards.

        Args:
            searcher: Finds the passages.
            llm: Writes; None quotes.
            turns: What was said before.
            by_tokens: Whether the LLM is asked to stream, which not every LLM can.

        Raises:
            RagEmbedError: Question, store or LLM let nothing (more) be written.
        """
        if llm is None:
            yield from self._quote(searcher, turns)
        else:
            yield from self._write_with(llm, searcher, turns, by_tokens)

    def _quote(self, searcher: Searcher, turns: Sequence[Turn]) -> Iterator[str]:
        self.searched = self._complete(turns)
        passages = self._search(searcher, self.searched)
        quotes = searcher.quote_best(self.searched, passages[:QUOTED_PASSAGES], most=MOST_QUOTES)
        self.citations = [
            Citation(number, passage, quote, is_quoted=True)
            for number, (passage, quote) in enumerate(quotes, start=1)
        ]
        for citation in self.citations:
            assert citation.quote is not None
            joint = "\n\n" if citation.number > 1 else ""
            yield f"{joint}{citation.quote.text}\n[{citation.number}] {citation.place}"
        if not self.citations:
            yield NO_ANSWER

    def _write_with(
        self, llm: LLM, searcher: Searcher, turns: Sequence[Turn], by_tokens: bool
    ) -> Iterator[str]:
        limits = _read_limits(llm)
        history = recall_messages(turns, max_tokens=max(1, limits.context_window // 4))
        budget = passage_budget(limits, prompt=INSTRUCTIONS, history=history, message=self.question)
        self.searched = self._condense(llm, history)
        fitted = fit_passages(self._search(searcher, self.searched), max_tokens=budget)
        self.left_out, self.cut = fitted.left_out, fitted.cut
        self.citations = [Citation(number, each) for number, each in enumerate(fitted.kept, start=1)]
        system = ChatMessage(role=MessageRole.SYSTEM, content=f"{INSTRUCTIONS}\n\n{fitted.text}")
        asked = ChatMessage(role=MessageRole.USER, content=self.question)
        try:
            yield from _chat(llm, [system, *history, asked], by_tokens)
        except Exception as error:  # LLMs are third-party code and raise what they like
            raise _explain(llm, error, after=self.answer) from error
        if not self.answer.strip():
            raise ModelError(f"{type(llm).__name__} gave an empty answer; ask again, or take another LLM")
        self._mark_quotes(searcher, self._complete(turns))

    def _mark_quotes(self, searcher: Searcher, query: str) -> None:
        """Find the sentence that answers in each passage that the LLM cites, or else in the first."""
        numbers = find_numbers(self.answer)
        cited = [each for each in self.citations if each.number in numbers]
        marked = cited or self.citations[:QUOTED_PASSAGES]
        quotes = searcher.quote_passages(query, [each.passage for each in marked])
        for citation, quote in zip(marked, quotes, strict=True):
            self.citations[citation.number - 1] = replace(citation, quote=quote)

    def _complete(self, turns: Sequence[Turn]) -> str:
        said = [(turn.question, turn.searched or turn.question) for turn in turns if turn.answer]
        return complete(self.question, said)

    def _condense(self, llm: LLM, history: Sequence[ChatMessage]) -> str:
        """Let the LLM make a follow-up a question that can be searched."""
        if not history:
            return self.question
        said = "\n".join(f"{message.role.value}: {message.content}" for message in history)
        prompt = (
            "Rewrite the last question so that it can be understood without the conversation. Write nothing "
            f"but the question.\n\nConversation:\n{said}\n\nLast question: {self.question}\n"
            "Rewritten question:"
        )
        try:
            condensed = str(llm.complete(prompt)).strip()
        except Exception as error:  # as above
            raise _explain(llm, error, after="") from error
        return condensed or self.question

    def _search(self, searcher: Searcher, query: str) -> Sequence[Passage]:
        found = searcher.search(query, filters=self.filters)
        self.unranked = found.unranked
        return found.passages


def recall_messages(turns: Sequence[Turn], *, max_tokens: int) -> list[ChatMessage]:
    """What an LLM is shown of a conversation: its end, in so many tokens.

    The oldest messages go first: a long conversation must not take the room of the passages.
    """
    messages = [
        ChatMessage(role=role, content=text)
        for turn in turns
        if turn.answer
        for role, text in ((MessageRole.USER, turn.question), (MessageRole.ASSISTANT, turn.answer))
    ]
    return ChatMemoryBuffer.from_defaults(chat_history=messages, token_limit=max_tokens).get()


def _read_limits(llm: LLM) -> LLMMetadata:
    """Ask an LLM how much it reads and answers, for which some of them ask their server."""
    try:
        return llm.metadata
    except Exception as error:  # LLMs are third-party code and raise what they like
        raise _explain(llm, error, after="") from error


def _chat(llm: LLM, messages: Sequence[ChatMessage], by_tokens: bool) -> Iterator[str]:
    if not by_tokens:
        yield llm.chat(messages).message.content or ""
        return
    for response in llm.stream_chat(messages):
        if response.delta:
            yield response.delta


def _explain(llm: LLM, error: Exception, *, after: str) -> ModelError:
    what = f"broke off after {len(after)} characters" if after else "gave no answer"
    return ModelError(
        f"{type(llm).__name__} {what} ({type(error).__name__}: {error}); check that it is reachable and what "
        "arguments it was given, then ask again"
    )
