"""Vectors on disk, found again by what they were made of."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "rows dim"]

logger = logging.getLogger(__name__)

_FILE = "vectors.sqlite"
_COMPANIONS = ("", "-journal", "-wal", "-shm")
_COLUMNS = ("key", "dim", "floats", "checksum")
_SCHEMA = """
DROP TABLE IF EXISTS vectors;
CREATE TABLE IF NOT EXISTS matrices (key BLOB PRIMARY KEY, dim INTEGER, floats BLOB, checksum BLOB)
WITHOUT ROWID;
"""  # `vectors` was the table of an earlier version, without checksums
_KEYS_PER_QUERY = 500
_TIMEOUT_S = 60.0
_FAILURES = (
    sqlite3.Error,
    ValueError,
)  # a message of SQLite's that quotes broken bytes is a UnicodeDecodeError
_NO_DAMAGE = ("locked", "busy", "readonly", "is full", "unable to open", "no such table")


def make_key(*content: object) -> bytes:
    """Name a matrix by everything that it was made of."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """Matrices of float32 by key, in one SQLite file.

    What was put in by one call is there entirely or not at all, whatever interrupts the process. Several
    processes may use one file.

    The cache saves work and never decides a result: each row carries a checksum of its key and its numbers,
    and a row or a file that cannot be used counts as absent. A damaged file is renamed when vectors are kept
    the next time; where nothing can be written, a warning says so and vectors are kept in memory.

    Args:
        folder: Where the file is, made at the first write; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[bytes, Matrix] = {}
        self._is_damaged = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Matrix]:
        """Find what is there and whole."""
        found = {key: self._memory[key] for key in keys if key in self._memory}
        if self._folder is None:
            return found
        path = self._folder / _FILE
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            try:
                found |= _read(path, keys[start : start + _KEYS_PER_QUERY])
            except (*_FAILURES, OSError) as error:
                logger.info("%s cannot be read (%s)", path, error)
                # Some damage is met by reading alone; it would be met again in every run.
                self._is_damaged |= _tells_damage(error)
        return found

    def put(self, matrices: Mapping[bytes, Matrix]) -> None:
        """Keep matrices, all or none of them."""
        if self._folder is None:
            self._memory.update(matrices)
            return
        rows = [_make_row(key, matrix) for key, matrix in matrices.items()]
        path = self._folder / _FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._is_damaged or path.is_dir():
                self._set_aside(path)
            try:
                _write(path, rows)
            except _FAILURES as error:
                if not _tells_damage(error):
                    raise
                self._set_aside(path)
                _write(path, rows)
        except (*_FAILURES, OSError) as error:
            if not self._memory:
                logger.warning(
                    "vectors are kept in memory only, and the next run computes them again: %s cannot be "
                    "written (%s)",
                    path,
                    error,
                )
            self._memory.update(matrices)

    def _set_aside(self, path: Path) -> None:
        """Rename a file that is of no use, with what SQLite would take for a part of its successor."""
        aside = path.with_name(f"{path.name}.damaged")
        for companion in _COMPANIONS:
            if (old := Path(f"{path}{companion}")).exists():
                old.replace(f"{aside}{companion}")
        self._is_damaged = False
        logger.warning("%s is damaged; it is %s now, and vectors are computed again", path, aside.name)


def _read(path: Path, keys: Sequence[bytes]) -> dict[bytes, Matrix]:
    marks = ",".join("?" * len(keys))
    query = f"SELECT key, dim, floats, checksum FROM matrices WHERE key IN ({marks})"
    if not path.is_file():
        return {}
    with closing(_connect(path)) as connection:
        rows = connection.execute(query, list(keys)).fetchall()
    return {
        key: torch.from_numpy(np.frombuffer(floats, dtype="<f4").reshape(-1, dim).astype(np.float32))
        for key, dim, floats, checksum in rows
        if isinstance(floats, bytes) and isinstance(dim, int) and checksum == _checksum(key, dim, floats)
    }


def _write(path: Path, rows: Iterable[tuple[bytes, int, bytes, bytes]]) -> None:
    with closing(_connect(path)) as connection:
        connection.executescript(_SCHEMA)
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(matrices)")]
        if columns != list(_COLUMNS):
            raise sqlite3.DatabaseError(f"its table has the columns {columns}")
        with connection:
            connection.executemany("INSERT OR REPLACE INTO matrices VALUES (?, ?, ?, ?)", rows)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_TIMEOUT_S)


def _make_row(key: bytes, matrix: Matrix) -> tuple[bytes, int, bytes, bytes]:
    dim, floats = matrix.shape[1], matrix.numpy().astype("<f4").tobytes()
    return key, dim, floats, _checksum(key, dim, floats)


def _checksum(key: bytes, dim: int, floats: bytes) -> bytes:
    """Of the key too: numbers that stand in another's row are no more usable than broken ones."""
    return hashlib.blake2b(b"%d " % dim + key + floats, digest_size=16).digest()


def _tells_damage(error: Exception) -> bool:
    """Whether trying again is of no use: a busy file, a full disk and a closed folder are no damage."""
    return isinstance(error, _FAILURES) and not any(words in str(error) for words in _NO_DAMAGE)
