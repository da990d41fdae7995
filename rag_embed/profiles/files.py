"""The files of a checkpoint folder: which may be opened, and JSON out of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import cast

from rag_embed.errors import UnsupportedModelError

_READ_BY_LIBRARIES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.metadata")


def check_files(folder: Path) -> None:
    """Refuse a folder in which a file that libraries read is none: a device or a pipe never ends.

    Raises:
        UnsupportedModelError: There is such a thing, or a link that leads nowhere.
    """
    for pattern in _READ_BY_LIBRARIES:
        for path in sorted(folder.glob(pattern)):
            if not path.is_file():
                kind = "a broken link" if not path.exists() else "no regular file"
                raise UnsupportedModelError(
                    f"{path} is {kind}; expected a file. The checkpoint is damaged: download it again"
                )


def locate_inside(root: Path, name: str) -> Path:
    """Find what a file of a checkpoint names, which must lie in the checkpoint's folder.

    Raises:
        UnsupportedModelError: The name leads out of the folder, by itself or through a link.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    path = root / parts
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise UnsupportedModelError(
            f"a file of {root.name} names {name!r}, which leads out of its folder; expected a path "
            "inside it. Such files are not followed: check where the checkpoint comes from"
        )
    # Files of the hub's cache are links to blobs beside it; its folders are none.
    if path.is_dir() and not path.resolve().is_relative_to(root.resolve()):
        raise UnsupportedModelError(
            f"{path} is a link out of the checkpoint's folder; expected a folder inside it"
        )
    return path


def read_json(path: Path, default: Mapping[str, object] | None = None) -> Mapping[str, object]:
    """Read a JSON object, or give the default if there is no such file.

    Raises:
        UnsupportedModelError: The file is missing, unreadable, or holds something else.
    """
    if not path.is_file():
        if default is not None and not path.is_symlink():
            return default
        raise UnsupportedModelError(
            f"{path.name} is missing in {path.parent}; expected a whole checkpoint folder"
        )
    content = parse_json(path)
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} holds {type(content).__name__}; expected a JSON object")
    return content


def parse_json(path: Path) -> object:
    """Read any JSON value.

    Raises:
        UnsupportedModelError: The file cannot be read, or is not JSON.
    """
    try:
        return cast("object", json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} is not JSON: {error}; the checkpoint is damaged") from error
    except OSError as error:
        raise UnsupportedModelError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
