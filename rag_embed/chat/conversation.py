"""A conversation over an index, with any LLM of LlamaIndex or with none."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from llama_index.core.llms import LLM
from llama_index.core.vector_stores.types import MetadataFilters

from rag_embed.chat.drafting import STOPPED, Draft
from rag_embed.chat.searching import Searcher
from rag_embed.chat.tracing import trace_pieces
from rag_embed.chat.turns import Turn
from rag_embed.errors import InputError, RagEmbedError
from rag_embed.surrogates import check_unicode

QUIT, RESET = "/quit", "/reset"
VERSION = 1

Piece: TypeAlias = str | Turn
"""What a stream gives: pieces of the answer as they come, and in the end the turn."""


class Conversation:
    """Questions and answers that know of each other.

    Whatever goes wrong with a question is said in its turn, and nothing of the conversation is lost: what an
    LLM wrote before it failed, or before somebody stopped it, stays in the turn. Each question is one trace
    of LlamaIndex's instrumentation, with its search, its reranking and its LLM calls inside.

    Args:
        searcher: Finds the passages; may be exchanged at any time.
        llm: Writes the answers from the passages; None quotes them. May be exchanged at any time.

    Attributes:
        turns: What was asked and answered, oldest first.
    """

    def __init__(self, searcher: Searcher, llm: LLM | None = None) -> None:
        self.searcher = searcher
        self.llm = llm
        self.turns: list[Turn] = []
        self._lock = threading.Lock()

    def ask(self, question: str, *, filters: MetadataFilters | None = None) -> Turn:
        """Answer one question.

        Args:
            question: What to answer.
            filters: What the passages' metadata must be as well, this time.

        Returns:
            The turn, which stands in `turns` too. Errors of question, store and LLM are in it.
        """
        draft = Draft(question, filters)
        for _ in self._write(draft, "ask"):
            pass
        return draft.turn

    async def aask(self, question: str, *, filters: MetadataFilters | None = None) -> Turn:
        """Do the same on a worker thread."""
        return await asyncio.to_thread(self.ask, question, filters=filters)

    def stream(self, question: str, *, filters: MetadataFilters | None = None) -> Iterator[Piece]:
        """Answer one question piece by piece.

        Closing the iterator stops the answer; its turn then says so.

        Yields:
            Pieces of the answer, which joined are the answer, and last of all the turn.
        """
        draft = Draft(question, filters)
        yield from self._write(draft, "stream")
        yield draft.turn

    async def astream(
        self, question: str, *, filters: MetadataFilters | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Do what `stream` does; the work is done on a thread of its own, so that the event loop is free.

        Closing the iterator, or cancelling the task that awaits it, stops the answer at its next token.
        """
        draft = Draft(question, filters)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

        def work() -> None:
            outcome: BaseException | None = None
            try:
                for piece in self._write(draft, "astream"):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except BaseException as error:
                outcome = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, outcome)

        context = contextvars.copy_context()  # traces go on across the thread
        threading.Thread(target=context.run, args=(work,), name="rag-embed answer", daemon=True).start()
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
            yield draft.turn
        finally:
            self._keep(draft, STOPPED)

    def reset(self) -> None:
        """Forget what was said."""
        self.turns.clear()

    def take_back(self) -> Turn | None:
        """Forget the last turn and return it, to ask its question again; None if there is none."""
        return self.turns.pop() if self.turns else None

    def export(self) -> dict[str, Any]:
        """Turn what was said into plain data, which JSON can hold."""
        return {"version": VERSION, "turns": [turn.to_dict() for turn in self.turns]}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on with a conversation that `export` gave; what was said here before is forgotten.

        Raises:
            InputError: The data are something else.
        """
        if data.get("version") != VERSION or not isinstance(data.get("turns"), list):
            raise InputError(
                f"this is no conversation of version {VERSION} (it has {sorted(map(str, data))}); expected "
                "what Conversation.export() gave"
            )
        self.turns[:] = [Turn.from_dict(turn) for turn in data["turns"]]

    def _write(self, draft: Draft, method: str) -> Iterator[str]:
        """Write a draft and keep its turn, whatever happens, in one span."""
        signature = inspect.signature(getattr(self, method))
        return trace_pieces(
            self._write_untraced(draft, by_tokens=method != "ask"),
            instance=self,
            method=method,
            arguments=signature.bind(draft.question, filters=draft.filters),
            outcome=lambda: draft.finished,
        )

    def _write_untraced(self, draft: Draft, *, by_tokens: bool) -> Iterator[str]:
        error: str | None = None
        try:
            check_unicode(draft.question, "the question")
            for piece in draft.write(self.searcher, self.llm, self.turns, by_tokens=by_tokens):
                if draft.is_done:  # stopped from outside
                    return
                draft.answer += piece
                yield piece
        except (RagEmbedError, OSError) as failure:
            error = str(failure)
        except GeneratorExit:
            error = STOPPED
            raise
        except BaseException as failure:
            error = f"unforeseen: {type(failure).__name__}: {failure}"
            raise
        finally:
            self._keep(draft, error)

    def _keep(self, draft: Draft, error: str | None) -> None:
        with self._lock:  # who stops an answer and who writes it are two threads
            if not draft.is_done:
                self.turns.append(draft.finish(error))


def converse(conversation: Conversation, lines: Iterable[str]) -> Iterator[Turn]:
    """Answer line after line, until they end or one says /quit; /reset forgets what was said."""
    for line in lines:
        question = line.strip()
        if question == QUIT:
            return
        if question == RESET:
            conversation.reset()
        elif question:
            yield conversation.ask(question)
