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

from rag_embed.cli.extracting import ExtractiveChatEngine
from rag_embed.cli.fitting import ContextFit, passage_budget
from rag_embed.cli.searching import Passage, Searcher, parse_value
from rag_embed.errors import InputError

QUIT, RESET = "/quit", "/reset"

PROMPT = (
    "Answer from the numbered passages below and cite each one you use by its number, such as [1]. "
    "If they do not answer the question, say so.\n\n{context_str}\n\n"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        question: As asked.
        answer: Of the LLM, or quotes.
        citations: The passages that the numbers in the answer mean.
        left_out: Passages that were found and did not fit into the LLM's context.
        cut: Tokens of the first passage shown and in all, if not even that one fitted whole.
        searched: What was searched, where that is not the question itself.
    """

    question: str
    answer: str
    citations: Sequence[Passage]
    left_out: Sequence[Passage] = ()
    cut: tuple[int, int] | None = None
    searched: str | None = None


class Conversation:
    """Questions and answers that know of each other.

    Args:
        searcher: Retriever and reranker.
        llm: Writes the answers from the passages; None quotes them.
    """

    def __init__(self, searcher: Searcher, llm: LLM | None = None) -> None:
        self._llm = llm
        self._fit = ContextFit()
        self.engine: BaseChatEngine
        if llm is None:
            self.engine = ExtractiveChatEngine(searcher)
            return
        # The oldest messages go first: a long conversation must not take the room of the passages.
        self._memory = ChatMemoryBuffer.from_defaults(token_limit=max(1, llm.metadata.context_window // 4))
        self.engine = CondensePlusContextChatEngine.from_defaults(
            retriever=searcher.retriever,
            llm=llm,
            memory=self._memory,
            context_prompt=PROMPT,
            node_postprocessors=[*searcher.postprocessors, self._fit],
        )

    def ask(self, question: str) -> Turn:
        """Answer one question.

        Raises:
            ContextOverflowError: Question and conversation leave no room for passages in the LLM's context.
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
            )
        history: list[ChatMessage] = self._memory.get(input=question)
        self._fit.max_tokens = passage_budget(self._llm, prompt=PROMPT, history=history, message=question)
        response = self.engine.chat(question)
        return Turn(question, str(response), self._fit.kept, self._fit.left_out, self._fit.cut)

    def reset(self) -> None:
        """Forget what was said."""
        self.engine.reset()


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
