"""The parser that a `LateChunkingNodeParser` wraps, made or adjusted by the arguments that it was given."""

from __future__ import annotations

import inspect
from typing import Any

from llama_index.core.node_parser import NodeParser, SentenceSplitter

from rag_embed.errors import InputError

_FLAGS = ("include_metadata", "include_prev_next_rel")
_OWN = {*_FLAGS, "callback_manager", "id_func"}
_SPLITTER_ARGUMENTS = set(inspect.signature(SentenceSplitter.__init__).parameters) - {"self"} - _OWN


def configure_inner(given: dict[str, Any]) -> dict[str, Any]:
    """Let the arguments that only an inner parser can obey reach it.

    Raises:
        InputError: An inner parser, and arguments that would make another one.
    """
    rest = {name: value for name, value in given.items() if name not in _SPLITTER_ARGUMENTS}
    of_splitter = {name: value for name, value in given.items() if name in _SPLITTER_ARGUMENTS}
    if of_splitter:
        if "node_parser" in rest:
            raise InputError(
                f"LateChunkingNodeParser was given node_parser= and {', '.join(of_splitter)}; expected "
                "one of both. Give these to the inner parser"
            )
        rest["node_parser"] = SentenceSplitter(**of_splitter)
    switched_off = {name: False for name in _FLAGS if rest.get(name) is False}
    if switched_off:
        rest["node_parser"] = _switch_off(rest.get("node_parser") or SentenceSplitter(), switched_off)
    return rest


def _switch_off(part: Any, flags: dict[str, bool]) -> Any:
    """Copy a parser, with the parsers inside it, without what the flags name."""
    if isinstance(part, dict):
        return {name: _switch_off(value, flags) for name, value in part.items()}
    if not isinstance(part, NodeParser):
        return part
    inner = {name: _switch_off(getattr(part, name), flags) for name in type(part).model_fields}
    return part.model_copy(update={**inner, **flags})
