"""Digests of a checkpoint's files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' bytes, one after the other, as hexadecimal digits.

    Files are read once per process and again only when their size or time has changed: a fingerprint is asked
    for with every document.
    """
    files = [(path, path.stat()) for path in paths]
    return _hash_unchanged(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in files))


@lru_cache(maxsize=32)
def _hash_unchanged(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
