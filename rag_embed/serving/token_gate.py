"""Who may talk to a server of ours: everybody on this machine, elsewhere whoever knows the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from rag_embed.errors import InputError

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "rag_embed_token"
MIN_TOKEN_LENGTH = 16


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token, and tokens that can be guessed.

    Raises:
        InputError: With how to put it right.
    """
    if token is None and not is_loopback(host):
        raise InputError(
            f"the address is {host}, which other machines reach, and there is no token; pass --token (or set "
            "RAG_EMBED_TOKEN), or leave out --host to serve this machine only"
        )
    if token is not None and (
        len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable()
    ):
        raise InputError(
            f"the token has {len(token)} characters; expected at least {MIN_TOKEN_LENGTH} printable ASCII "
            "characters, such as those of `openssl rand -hex 16`"
        )


class TokenGate:
    """Lets requests and web sockets through that carry the token.

    Programs send it as "Authorization: Bearer TOKEN". A person opens the page once with "?token=TOKEN": a
    cookie carries it from then on, and the address is left without it.

    Args:
        app: What stands behind the gate.
        token: What is asked for.
    """

    def __init__(self, app: App, token: str) -> None:
        self.app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self._is_known(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] == "GET" and self._matches(_query_token(scope)):
            await _answer(send, 303, "", [(b"location", _path(scope)), (b"set-cookie", self._cookie())])
        else:
            await _answer(
                send,
                401,
                "This server asks for its token: send the header 'Authorization: Bearer TOKEN', or open the "
                "page once with ?token=TOKEN.\n",
                [(b"www-authenticate", b"Bearer")],
            )

    def _is_known(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer " and self._matches(value[7:]):
                return True
            if name == b"cookie" and self._matches(_cookie_token(value)):
                return True
        return False

    def _matches(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)

    def _cookie(self) -> bytes:
        cookie: SimpleCookie = SimpleCookie({COOKIE: self._token.decode()})
        morsel = cookie[COOKIE]
        morsel["path"], morsel["httponly"], morsel["samesite"] = "/", True, "Strict"
        return morsel.OutputString().encode("latin-1")


def _cookie_token(header: bytes) -> bytes:
    try:
        found = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return b""
    return found.value.encode("utf-8") if found is not None else b""


def _query_token(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("token", [""])[0].encode()


def _path(scope: Scope) -> bytes:
    # Two slashes at the beginning would lead to another server.
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return b"/" + path.lstrip(b"/\\")


async def _answer(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})


def run_behind_token(app: App, *, host: str, port: int, token: str | None) -> None:
    """Serve an app until the process is ended.

    Args:
        app: Any ASGI app.
        host: Address to bind; `check_binding` says which need a token.
        port: To listen at.
        token: What requests must carry; None lets everybody on this machine in.
    """
    import uvicorn

    uvicorn.run(app if token is None else TokenGate(app, token), host=host, port=port, log_level="warning")
