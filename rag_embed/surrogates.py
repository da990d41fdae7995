"""Halves of characters, which Python's strings can hold and no file, request or model can."""

from __future__ import annotations

from rag_embed.errors import InputError

REPLACEMENT = "\ufffd"


def mend_surrogates(text: str) -> tuple[str, int]:
    """Join halves of pairs that stand together, and replace those that stand alone, which no file can hold.

    Returns:
        The text, and how many characters were replaced.
    """
    mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return mended, mended.count(REPLACEMENT) - text.count(REPLACEMENT)


def check_unicode(text: str, what: str) -> None:
    """Refuse text with halves of characters, as a shell hands over bytes that are no UTF-8.

    Raises:
        InputError: There are some.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{what} is {text!r}, which is no text in UTF-8; expected what can be written so")
