"""A conversation over an index, with any LLM of LlamaIndex or with none."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import CompactAndRefine

from rag_embed.cli.decoding import check_unicode
from rag_embed.cli.extracting import ExtractiveChatEngine
from rag_embed.cli.fitting import ContextFit, passage_budget
from rag_embed.cli.searching import Passage, Searcher, parse_value
from rag_embed.errors import InputError, ModelError, RagEmbedError

QUIT, RESET = "/quit", "/reset"

PROMPT = (
    "Answer from the numbered passages below and cite each one you use by its number, such as [1]. "
    "If they do not answer the question, say so.\n\n{context_str}\n\n"
)

# LlamaIndex computes the room for passages with the longer of its two prompts, so this one stays the shorter;
# it is not used where passages fit. Its own would take 400 tokens.
REFINE_PROMPT = "Improve the answer by these passages.\n\n{context_msg}\n\nAnswer:\n{existing_answer}\n\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        question: As asked.
        answer: Of the LLM, or quotes.
        citations: The passages that the numbers in the answer mean.
        left_out: Passages that were found and did not fit into the LLM's context.
        cut: Tokens of the first passage shown and in all, if not even that one fitted whole.
        unranked: Why the passages stand in the order of the first stage; None if they were reranked as asked.
        searched: What was searched, where that is not the question itself.
        error: Why there is no answer; None if there is one.
    """

    question: str
    answer: str
    citations: Sequence[Passage]
    left_out: Sequence[Passage] = ()
    cut: tuple[int, int] | None = None
    searched: str | None = None
    unranked: str | None = None
    error: str | None = None


class _FittedChatEngine(CondensePlusContextChatEngine):
    """Gives the passages the room that the base class keeps for refining: fitted passages need one prompt."""

    def _get_response_synthesizer(
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> CompactAndRefine:
        synthesizer = super()._get_response_synthesizer(chat_history, streaming)
        synthesizer._response_padding_size = 0
        return synthesizer


class Conversation:
    """Questions and answers that know of each other.

    Args:
        searcher: Retriever and reranker.
        llm: Writes the answers from the passages; None quotes them.
    """

    def __init__(self, searcher: Searcher, llm: LLM | None = None) -> None:
        self._llm = llm
        self._searcher = searcher
        self._fit = ContextFit()
        self.engine: BaseChatEngine
        if llm is None:
            self.engine = ExtractiveChatEngine(searcher)
            return
        # The oldest messages go first: a long conversation must not take the room of the passages.
        self._memory = ChatMemoryBuffer.from_defaults(token_limit=max(1, llm.metadata.context_window // 4))
        self.engine = _FittedChatEngine.from_defaults(
            retriever=searcher.retriever,
            llm=llm,
            memory=self._memory,
            context_prompt=PROMPT,
            context_refine_prompt=REFINE_PROMPT,
            node_postprocessors=[*searcher.postprocessors, self._fit],
        )

    def ask(self, question: str) -> Turn:
        """Answer one question.

        Raises:
            ContextOverflowError: Question and conversation leave no room for passages in the LLM's context.
            ModelError: The LLM failed.
        """
        if self._llm is None:
            response = self.engine.chat(question)
            details = getattr(response, "metadata", None) or {}
            searched = str(details["searched"])
            return Turn(
                question,
                str(response),
                details["quotes"],
                searched=searched if searched != question else None,
                unranked=self._searcher.unranked,
            )
        history: list[ChatMessage] = self._memory.get(input=question)
        self._fit.max_tokens = passage_budget(self._llm, prompt=PROMPT, history=history, message=question)
        try:
            response = self.engine.chat(question)
        except RagEmbedError:
            raise
        except Exception as error:  # LLMs are third-party code and raise what they like
            raise ModelError(
                f"{type(self._llm).__name__} gave no answer ({type(error).__name__}: {error}); check that it "
                "is reachable and what --llm-arg tells it"
            ) from error
        return Turn(
            question,
            str(response),
            self._fit.kept,
            self._fit.left_out,
            self._fit.cut,
            unranked=self._searcher.unranked,
        )

    def reset(self) -> None:
        """Forget what was said."""
        self.engine.reset()


def converse(conversation: Conversation, lines: Iterable[str]) -> Iterator[Turn]:
    """Answer line after line, until they end or one says /quit; /reset forgets what was said.

    A question that does not fit into the LLM's context or holds no word, or an LLM that fails, does not end
    the conversation: the turn carries the error.
    """
    for line in lines:
        question = line.strip()
        if question == QUIT:
            return
        if question == RESET:
            conversation.reset()
        elif question:
            try:
                check_unicode(question, "the question")
                yield conversation.ask(question)
            except (ModelError, InputError) as error:
                yield Turn(question, "", (), error=str(error))


def load_llm(name: str, arguments: Sequence[str]) -> LLM:
    """Make an LLM from "package.module:Class" and "key=value" arguments, whose values are JSON or plain text.

    Raises:
        InputError: There is no such class, it is no LLM, or it does not take the arguments.
    """
    module, separator, attribute = name.partition(":")
    if not module or not separator or not attribute:
        raise InputError(
            f"the LLM is {name!r}; expected package.module:Class, such as llama_index.llms.ollama:Ollama"
        )
    try:
        llm_class = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the LLM {name!r} cannot be imported ({error}); install its package, or correct it"
        ) from error
    options: dict[str, object] = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not key or not separator:
            raise InputError(f"the LLM argument is {argument!r}; expected key=value, such as temperature=0")
        options[key] = parse_value(text)
    if not (isinstance(llm_class, type) and issubclass(llm_class, LLM)):
        raise InputError(f"{name!r} is {llm_class!r}; expected a subclass of llama_index.core.llms.LLM")
    try:
        return llm_class(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not take {options}: {error}") from error
