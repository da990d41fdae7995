"""What a payload can hold: refused when it is written, rather than altered or unreadable afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic_core import from_json, to_json

from rag_embed.errors import InputError

MAX_LEVELS = 64
"""Engines read JSON of about 120 levels, those around metadata included; more make a store unreadable."""

MAX_BITS = 1023
"""Larger integers are no double either, and no engine takes them."""


def check_metadata(metadata: Mapping[str, object], what: str) -> None:
    """Refuse metadata that would not come back as they are.

    Args:
        metadata: Of a node, or of its relation to another.
        what: Whose they are, for messages.

    Raises:
        InputError: NaN or infinity, which JSON turns into null; integers or levels beyond what engines read
            back; keys with half of a character, or that JSON cannot tell apart.
    """
    for key, value in metadata.items():
        check_text(key, f"a metadata key of {what}")
        _check(value, f"metadata {key!r} of {what}", 1)


def check_text(text: str, what: str) -> str:
    """Refuse text that no engine can be sent.

    Raises:
        InputError: It holds a lone surrogate, half of a character.
    """
    if is_unicode(text):
        return text
    raise InputError(
        f"{what} is {text!r}, which holds a lone surrogate; expected Unicode text. Decode it again"
    )


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: it holds no lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _check(value: object, where: str, level: int) -> None:
    if level > MAX_LEVELS:
        raise InputError(
            f"{where} is nested more than {MAX_LEVELS} levels deep; a store that held it could not be read. "
            "Flatten it, or keep it as text"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(
            f"{where} holds {value}, which JSON cannot; it would come back as None. Leave it out, or write "
            "None or text instead"
        )
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise InputError(
            f"{where} holds an integer of {value.bit_length()} bits; engines cannot read it. Write text"
        )
    if isinstance(value, Mapping):
        _check_keys(value, where)
        for item in value.values():
            _check(item, where, level + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check(item, where, level + 1)


def _check_keys(mapping: Mapping[object, object], where: str) -> None:
    """Refuse keys that would come back as others, or as one."""
    for key in mapping:
        check_text(str(key), f"a key in {where}")
        if isinstance(key, float) and not math.isfinite(key):
            raise InputError(f"{where} has the key {key}, which would come back as 'None'; expected text")
    if not all(isinstance(key, str) for key in mapping):
        spelled = from_json(to_json(dict.fromkeys(mapping, 0), fallback=str))
        if len(spelled) < len(mapping):
            raise InputError(
                f"{where} has keys that JSON writes alike, such as 1 and '1', and one value would be lost; "
                "expected text"
            )
