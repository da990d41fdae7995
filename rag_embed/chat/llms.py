"""Any LLM of LlamaIndex, by its name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from llama_index.core.llms import LLM

from rag_embed.chat.filters import parse_value
from rag_embed.errors import InputError


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
