"""Conversations that go on, each belonging to one browser, whether or not a page looks at them just now."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from weakref import WeakValueDictionary

from llama_index.core.llms import LLM
from llama_index.core.vector_stores.types import MetadataFilters

from rag_embed.chat.conversation import Conversation
from rag_embed.chat.filters import parse_filters
from rag_embed.chat.searching import Rerank, Searcher
from rag_embed.chat.turns import Turn
from rag_embed.errors import InputError
from rag_embed.web.archive import Archive
from rag_embed.web.library import Library

logger = logging.getLogger(__name__)

QUOTES = "Quotes, no LLM"
"""The choice that answers by quoting."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person has chosen for a conversation.

    Attributes:
        collection: Where is searched.
        llm: Name of the LLM that answers, or `QUOTES`.
        filters: "key=value" pairs that passages must have.
    """

    collection: str
    llm: str = QUOTES
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """How all conversations search.

    Attributes:
        top_k: Most passages.
        candidates: How many the reranker chooses from.
        rerank: How they are reranked.
        filters: What every passage must have, whatever a person chooses.
    """

    top_k: int = 8
    candidates: int = 50
    rerank: Rerank = "auto"
    filters: MetadataFilters | None = None


@dataclass(slots=True)
class Answering:
    """An answer on its way.

    Attributes:
        question: What was asked.
        text: What there is of the answer.
        task: Writes it.
    """

    question: str
    text: str = ""
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Session:
    """One conversation and the answer that is being written.

    Attributes:
        owner: Id of the browser it belongs to.
        session_id: Its own id.
        choices: What was chosen for it.
        turns: What was asked and answered, oldest first.
        answering: The answer on its way; None if nobody waits for one.
        failure: Why the last question could not even be asked, or be saved; None if it could.
    """

    owner: str
    session_id: str
    choices: Choices
    turns: list[Turn] = field(default_factory=list)
    answering: Answering | None = None
    failure: str | None = None


class Sessions:
    """All conversations of a server. All methods are called on its event loop.

    Pages and running answers keep a conversation in memory; all others are in the archive only.

    Args:
        library: What is searched.
        archive: Where conversations are kept.
        llms: What may be chosen, by name.
        finding: How is searched.
    """

    def __init__(self, library: Library, archive: Archive, llms: Mapping[str, LLM], finding: Finding) -> None:
        self.library = library
        self.archive = archive
        self.llm_names: Sequence[str] = [*llms, QUOTES]
        self._llms = llms
        self._finding = finding
        self._open: WeakValueDictionary[tuple[str, str], Session] = WeakValueDictionary()
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, owner: str, choices: Choices | None = None) -> Session:
        """Begin a conversation, of which nothing is kept until something is asked."""
        chosen = choices or Choices(self.library.first, self.llm_names[0])
        session = Session(owner, uuid.uuid4().hex, chosen)
        self._open[owner, session.session_id] = session
        return session

    def find(self, owner: str, session_id: str) -> Session | None:
        """Find a conversation of a browser again; None if it has none of that id.

        Raises:
            InputError: It cannot be read.
        """
        if (known := self._open.get((owner, session_id))) is not None:
            return known
        data = self.archive.load(owner, session_id)
        if data is None:
            return None
        choices = Choices(**{**data["choices"], "filters": tuple(data["choices"]["filters"])})
        if choices.llm not in self.llm_names:
            choices = Choices(choices.collection, self.llm_names[0], choices.filters)
        turns = [Turn.from_dict(turn) for turn in data["turns"]]
        session = Session(owner, session_id, choices, turns)
        self._open[owner, session_id] = session
        return session

    def ask(self, session: Session, question: str) -> None:
        """Begin to answer a question; the answer grows in `session.answering` and ends in `session.turns`.

        Raises:
            InputError: The question is blank, or another one is being answered.
        """
        if not question.strip():
            raise InputError("the question is empty; expected some words")
        if session.answering is not None:
            raise InputError("the last question is still being answered; wait for it, or stop it")
        session.failure = None
        session.answering = Answering(question)
        task = asyncio.create_task(self._answer(session, session.answering))
        session.answering.task = task
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def stop(self, session: Session) -> None:
        """Stop the answer that is being written; what there is of it stays."""
        if session.answering is not None and session.answering.task is not None:
            session.answering.task.cancel()

    def retry(self, session: Session) -> None:
        """Ask the last question again, whose answer is forgotten.

        Raises:
            InputError: There is none, or one is being answered.
        """
        if session.answering is not None or not session.turns:
            raise InputError("there is no answer to try again; ask something, or wait for the answer")
        self.ask(session, session.turns.pop().question)

    def forget(self, session: Session) -> None:
        """Delete a conversation."""
        self.stop(session)
        self._open.pop((session.owner, session.session_id), None)
        self.archive.delete(session.owner, session.session_id)

    async def _answer(self, session: Session, answering: Answering) -> None:
        conversation: Conversation | None = None
        kept = len(session.turns)
        try:
            conversation = await asyncio.to_thread(self._open_conversation, session)
            filters = parse_filters(session.choices.filters)
            async with aclosing(conversation.astream(answering.question, filters=filters)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        answering.text += piece
        except asyncio.CancelledError:
            pass  # somebody stopped it; the conversation has kept what there is
        except Exception as error:
            logger.exception("a question was not answered")
            session.failure = str(error)
        finally:
            new = conversation.turns[kept:] if conversation is not None else []
            session.turns += new or [
                Turn(answering.question, answering.text, error=session.failure or "the answer was stopped")
            ]
            session.answering = None
            self._save(session)

    def _open_conversation(self, session: Session) -> Conversation:
        """Make a conversation of what was said so far; encoder and store are shared by all."""
        shelf = self.library.shelf(session.choices.collection)
        searcher = Searcher(
            shelf.store,
            shelf.embed_model,
            top_k=self._finding.top_k,
            candidates=self._finding.candidates,
            rerank=self._finding.rerank,
            filters=self._finding.filters,
        )
        conversation = Conversation(searcher, self._llms.get(session.choices.llm))
        conversation.turns[:] = session.turns
        return conversation

    def _save(self, session: Session) -> None:
        data = {
            "choices": asdict(session.choices),
            "turns": [turn.to_dict() for turn in session.turns],
        }
        try:
            self.archive.save(session.owner, session.session_id, title=session.turns[0].question, data=data)
        except OSError as error:
            session.failure = (
                f"the conversation could not be saved ({error}); it is lost when the server ends"
            )
