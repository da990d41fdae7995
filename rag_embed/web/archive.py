"""Conversations on disk, so that a browser finds its own again."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_embed.errors import InputError

_ID = re.compile(r"[0-9a-f-]{8,64}")
_TITLE_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class ArchivedConversation:
    """One conversation in a list.

    Attributes:
        conversation_id: Its id.
        title: Its first question, or the beginning of it.
        saved_at: Seconds since 1970 when it was saved last.
    """

    conversation_id: str
    title: str
    saved_at: float


class Archive:
    """A folder with a folder for each browser, and a file for each conversation in it.

    Args:
        folder: Made when it is first needed, readable by its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder, which is there from now on."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder

    def read_secret(self) -> str:
        """Read the key that signs cookies; made once, so that browsers are known after a restart."""
        path = self.folder / "cookie-key"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii")
        secret = secrets.token_hex(32)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret)
        return secret

    def list_conversations(self, owner: str) -> list[ArchivedConversation]:
        """List a browser's conversations, latest first; what cannot be read is listed by its id."""
        found = []
        for path in self._place(owner).glob("*.json"):
            try:
                title = str(_read(path)["title"])
            except InputError:
                title = f"{path.stem} (cannot be read)"
            found.append(ArchivedConversation(path.stem, title, path.stat().st_mtime))
        return sorted(found, key=lambda each: each.saved_at, reverse=True)

    def load(self, owner: str, conversation_id: str) -> dict[str, Any] | None:
        """Read a conversation; None if this browser has none of that id.

        Raises:
            InputError: The file is there and is none that `save` wrote.
        """
        path = self._path(owner, conversation_id)
        return _read(path) if path.is_file() else None

    def save(self, owner: str, conversation_id: str, *, title: str, data: Mapping[str, Any]) -> None:
        """Write a conversation, all of it or nothing."""
        path = self._path(owner, conversation_id)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        title = " ".join(title.split())
        shown = title if len(title) <= _TITLE_CHARACTERS else f"{title[: _TITLE_CHARACTERS - 1]}…"
        text = json.dumps({**data, "title": shown}, ensure_ascii=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def delete(self, owner: str, conversation_id: str) -> None:
        """Forget a conversation; nothing happens if there is none."""
        self._path(owner, conversation_id).unlink(missing_ok=True)

    def _place(self, owner: str) -> Path:
        return self.folder / "conversations" / _checked(owner)

    def _path(self, owner: str, conversation_id: str) -> Path:
        return self._place(owner) / f"{_checked(conversation_id)}.json"


def _checked(name: str) -> str:
    """Let no address of a page name a file that is not a conversation."""
    if not _ID.fullmatch(name):
        raise InputError(
            f"{name[:80]!r} is no id of a conversation; open one from the list, or begin a new one"
        )
    return name


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise InputError(f"{path} is not what was saved ({error}); move it away, or put it back") from error
    if not isinstance(data, dict) or "title" not in data:
        raise InputError(f"{path} is not what was saved (it has no title); move it away, or put it back")
    return data
