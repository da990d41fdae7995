"""Vectors on disk, found again by what they were made of."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "rows dim"]

_FILE = "vectors.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, dim INTEGER, floats BLOB) WITHOUT ROWID"
_KEYS_PER_QUERY = 500


def make_key(*content: object) -> bytes:
    """Name a matrix by everything that it was made of."""
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()


class VectorCache:
    """Matrices of float32 by key, in one SQLite file.

    What was put in by one call is there entirely or not at all, whatever interrupts the process. Several
    processes may use one file.

    Args:
        folder: Where the file is, made at the first write; None keeps everything in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[bytes, Matrix] = {}

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Matrix]:
        """Find what is there."""
        if self._folder is None:
            return {key: self._memory[key] for key in keys if key in self._memory}
        if not (self._folder / _FILE).is_file():
            return {}
        found: dict[bytes, Matrix] = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = list(keys[start : start + _KEYS_PER_QUERY])
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT key, dim, floats FROM vectors WHERE key IN ({marks})", part
                )
                for key, dim, floats in rows:
                    values = np.frombuffer(floats, dtype="<f4").reshape(-1, dim)
                    found[key] = torch.from_numpy(values.astype(np.float32))
        return found

    def put(self, matrices: Mapping[bytes, Matrix]) -> None:
        """Keep matrices, all or none of them."""
        if self._folder is None:
            self._memory.update(matrices)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = [
            (key, matrix.shape[1], matrix.numpy().astype("<f4").tobytes()) for key, matrix in matrices.items()
        ]
        with closing(self._connect()) as connection, connection:
            connection.execute(_TABLE)
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        assert self._folder is not None
        return sqlite3.connect(self._folder / _FILE, timeout=60)
