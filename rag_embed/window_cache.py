"""What windows gave, on disk: of an edited document only the windows that the edit changed are read again.

Windows are cut by content (`chunk_windows.py`), so an insertion leaves those further on as they were. One is
found again by all that its states depend on: its tokens, how they are cut into chunks, and the recipe. With a
cache every pass has one length, whatever is read in it, so that a window gives the same bits in any company.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from rag_embed.chunk_windows import NO_CHUNK, Piece
from rag_embed.errors import InputError
from rag_embed.late_interaction import SpanTokens
from rag_embed.max_sim import KeptTokens
from rag_embed.shared_layers import SharedLayers, WindowTexts
from rag_embed.shared_reading import Halves, SharedReading

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS windows (key BLOB PRIMARY KEY, content BLOB, checksum BLOB) WITHOUT ROWID"
)
_KEYS_PER_QUERY = 500
_TIMEOUT_S = 60.0
_SHARED_PASSES = 4
"""How many of the passes that short documents share make one here, so that a window fits in."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A window on its way through the cache: which one, by which key, and what the encoder is to see."""

    pieces: Sequence[Piece]
    key: bytes
    texts: WindowTexts


class WindowCache:
    """Halves and token vectors of windows, by key, in one SQLite file that several processes may use.

    It saves work and decides nothing: a row whose checksum is wrong counts as absent. It only grows; whoever
    deletes it has it filled again.

    Args:
        path: The file, made at the first write.
        space: Names everything beside the tokens that states depend on.
    """

    def __init__(self, path: Path, *, space: str) -> None:
        self._path = path.expanduser()
        self._space = space

    def read(self, layers: SharedLayers, reading: SharedReading) -> Halves:
        """Read a document, and send only the windows through the encoder that are not here.

        A window with a part of a chunk that is longer than a window is always read again where token vectors
        are kept: neighbours are averaged across its parts.

        Raises:
            InputError: The file is damaged, or cannot be written.
        """
        windows = [
            _Window(pieces, self._key(reading, pieces, texts), texts)
            for pieces, texts in zip(reading.windows, reading.texts, strict=True)
        ]
        found = self._get([window.key for window in windows])
        missing = (window.texts for window in windows if window.key not in found)
        states = layers.encode(missing, pass_tokens=_SHARED_PASSES * layers.encoder.shared_pass_tokens)
        piece_counts = Counter(piece.row for window in windows for piece in window.pieces)
        pooled = []
        made: dict[bytes, bytes] = {}
        for window in windows:
            rows = [piece.row for piece in window.pieces if piece.row != NO_CHUNK]
            if window.key in found:
                pooled.append(_unpack(found[window.key], reading, rows))
                continue
            halves = reading.pool(window.pieces, next(states))
            pooled.append(Halves(halves.alone.cpu(), halves.in_context.cpu()))
            if not reading.readers or all(piece_counts[row] == 1 for row in rows):
                made[window.key] = _pack(pooled[-1], reading, rows)
        self._put(made)
        return reading.join(pooled)

    def _key(self, reading: SharedReading, pieces: Sequence[Piece], texts: WindowTexts) -> bytes:
        kept = [reader.form for reader in reading.readers[:1] if isinstance(reader, SpanTokens)]
        cut = [[len(text) for text in texts], [piece.row == NO_CHUNK for piece in pieces]]
        digest = hashlib.sha256(json.dumps([self._space, [str(form) for form in kept], cut]).encode())
        digest.update(np.concatenate(texts).tobytes())
        return digest.digest()

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        if not self._path.exists():
            return found
        with self._connected() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = list(keys[start : start + _KEYS_PER_QUERY])
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT * FROM windows WHERE key IN ({marks})", some)
                found |= {key: content for key, content, sum_ in rows if sum_ == _checksum(key, content)}
        return found

    def _put(self, made: Mapping[bytes, bytes]) -> None:
        if not made:
            return
        rows = [(key, content, _checksum(key, content)) for key, content in made.items()]
        with self._connected() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO windows VALUES (?, ?, ?)", rows)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=_TIMEOUT_S)) as connection:
                connection.execute(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"the window cache {self._path} cannot be used ({error}); expected a file that this process "
                "may read and write. Delete it if it is damaged, name another, or leave window_cache out"
            ) from error


def _pack(halves: Halves, reading: SharedReading, rows: Sequence[int]) -> bytes:
    tensors = {"alone": halves.alone, "in_context": halves.in_context}
    for number, row in enumerate(rows if reading.readers else []):
        reader = reading.readers[row]
        assert isinstance(reader, SpanTokens)
        tensors[f"tokens {number}"] = torch.from_numpy(reader.kept()[0])
    return save(tensors)


def _unpack(content: bytes, reading: SharedReading, rows: Sequence[int]) -> Halves:
    tensors = load(content)
    for number, row in enumerate(rows if reading.readers else []):
        reader = reading.readers[row]
        assert isinstance(reader, SpanTokens)
        kept: KeptTokens = tensors[f"tokens {number}"].numpy()
        reader.restore(0, kept)
    return Halves(tensors["alone"], tensors["in_context"])


def _checksum(key: bytes, content: bytes) -> bytes:
    """Of the key too: what stands in another's row is no more usable than what is broken."""
    return hashlib.blake2b(key + content, digest_size=16).digest()
