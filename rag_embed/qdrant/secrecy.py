"""What of a connection may be shown, written down or sent to another process: no credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rag_embed.errors import InputError

KEY_VARIABLE = "QDRANT_API_KEY"
"""Environment variable from which an unpickled store takes the key that its original had."""


def without_credentials(url: str) -> str:
    """Leave user and password out of an address."""
    if "@" not in url:
        return url
    parts = urlsplit(url if "//" in url else f"//{url}")
    shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return shown if "//" in url else shown.removeprefix("//")


def check_address(url: str | None) -> None:
    """Refuse an address with user and password, or one that names no server.

    Raises:
        InputError: It has them, and the client would drop them without a word; or it is no address.
    """
    if url is None or url == ":memory:":
        return
    if without_credentials(url) != url:
        raise InputError(
            f"the url of {without_credentials(url)} carries a user or password, which Qdrant's client does "
            "not send; expected an address alone. Pass api_key=, or for a proxy with basic authentication "
            'client_options={"headers": {"Authorization": "Basic ..."}}'
        )
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        names_server = bool(parts.hostname) and " " not in parts.netloc and parts.port != 0
        is_address = names_server and parts.scheme in ("", "http", "https")
    except ValueError:  # a port that is no number, a bracket that is not closed
        is_address = False
    if not is_address:
        raise InputError(f"the url is {url!r}; expected an address such as http://127.0.0.1:6333")


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a client's options what cannot be a secret: numbers, switches and the path prefix."""
    return {
        name: value
        for name, value in options.items()
        if value is None or isinstance(value, bool | int | float) or name == "prefix"
    }
