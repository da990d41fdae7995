"""What a payload can hold: refused when it is written, rather than altered or unreadable afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rag_embed.errors import InputError

MAX_LEVELS = 64
"""Engines read JSON of about 120 levels, those around metadata included; more make a store unreadable."""


def check_metadata(metadata: Mapping[str, object], what: str) -> None:
    """Refuse metadata that would not come back as they are.

    Args:
        metadata: Of a node, or of its relation to another.
        what: Whose they are, for messages.

    Raises:
        InputError: NaN or infinity, which JSON turns into null; or more levels than engines read back.
    """
    for key, value in metadata.items():
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
    if isinstance(value, Mapping):
        for item in value.values():
            _check(item, where, level + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check(item, where, level + 1)
