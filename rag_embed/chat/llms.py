"""Any LLM of LlamaIndex, by its name."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Sequence

from llama_index.core.llms import LLM

from rag_embed.chat.filters import parse_value
from rag_embed.errors import InputError

_NAME = re.compile(r"(?P<module>[\w.]+):(?P<label>(?P<attribute>\w+)(?:\((?P<inline>.*)\))?)", re.DOTALL)


def load_llms(names: Sequence[str], arguments: Sequence[str]) -> dict[str, LLM]:
    """Make several LLMs, to choose from; see `load_llm`.

    Returns:
        By what is written behind the module, such as "Ollama" or "Ollama(model='llama3.2')".

    Raises:
        InputError: As for one; or two of them would have the same name.
    """
    llms: dict[str, LLM] = {}
    for name in names:
        llm = load_llm(name, arguments)
        label = name.partition(":")[2]
        if label in llms:
            raise InputError(
                f"two LLMs are called {label!r}; expected names that differ, such as {label}(model='...')"
            )
        llms[label] = llm
    return llms


def load_llm(name: str, arguments: Sequence[str] = ()) -> LLM:
    """Make an LLM of LlamaIndex.

    Args:
        name: "package.module:Class", with arguments of its own behind it if it has any, written as in Python:
            "package.module:Class(model='llama3.2', temperature=0)".
        arguments: More of them as "key=value", whose values are JSON or plain text.

    Raises:
        InputError: There is no such class, it is no LLM, or it does not take the arguments.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"the LLM is {name!r}; expected package.module:Class, such as llama_index.llms.ollama:Ollama, or "
            "package.module:Class(key=value, ...)"
        )
    options = _read_inline(name, match["inline"] or "")
    try:
        llm_class = getattr(importlib.import_module(match["module"]), match["attribute"])
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the LLM {name!r} cannot be imported ({error}); install its package, or correct it"
        ) from error
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


def _read_inline(name: str, inline: str) -> dict[str, object]:
    """Read keyword arguments as Python writes them; values are literals."""
    try:
        call = ast.parse(f"f({inline})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("there is more than key=value")
        if any(word.arg is None for word in call.keywords):
            raise ValueError("** is no key")
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(
            f"the LLM {name!r} has arguments that cannot be read ({error}); expected them as in Python, with "
            "literal values, such as (model='llama3.2', temperature=0)"
        ) from error
