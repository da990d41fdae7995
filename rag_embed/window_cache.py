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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save

from rag_embed.chunk_windows import NO_CHUNK, Piece
from rag_embed.errors import InputError
from rag_embed.late_interaction import SpanTokens
from rag_embed.shared_layers import SharedLayers, TwoReadings, WindowTexts
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

        Raises:
            InputError: The file is damaged, or cannot be written.
        """
        piece_counts = Counter(piece.row for pieces in reading.windows for piece in pieces)
        whole = {row for row, count in piece_counts.items() if count == 1}
        windows = [
            _Window(pieces, self._key(reading, pieces, texts, whole), texts)
            for pieces, texts in zip(reading.windows, reading.texts, strict=True)
        ]
        found = self._get([window.key for window in windows])
        missing = (window.texts for window in windows if window.key not in found)
        states = layers.encode(missing, pass_tokens=_SHARED_PASSES * layers.encoder.shared_pass_tokens)
        pooled = []
        made: dict[bytes, bytes] = {}
        for window in windows:
            if window.key in found:
                pooled.append(_unpack(found[window.key], reading, window.pieces, whole))
                continue
            readings = next(states)
            halves = reading.pool(window.pieces, readings)
            pooled.append(Halves(halves.alone.cpu(), halves.in_context.cpu()))
            made[window.key] = _pack(pooled[-1], readings, reading, window.pieces, whole)
        self._put(made)
        return reading.join(pooled)

    def _key(
        self, reading: SharedReading, pieces: Sequence[Piece], texts: WindowTexts, whole: Collection[int]
    ) -> bytes:
        kept = [reader.form for reader in reading.readers[:1] if isinstance(reader, SpanTokens)]
        kinds = ["gap" if p.row == NO_CHUNK else "whole" if p.row in whole else "part" for p in pieces]
        cut = [[len(text) for text in texts], kinds]
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
                query = f"SELECT key, content, checksum FROM windows WHERE key IN ({marks})"
                found |= {
                    key: content
                    for key, content, checksum in connection.execute(query, some)
                    if isinstance(content, bytes) and checksum == _checksum(key, content)
                }
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


def _pack(
    halves: Halves,
    readings: Sequence[TwoReadings],
    reading: SharedReading,
    pieces: Sequence[Piece],
    whole: Collection[int],
) -> bytes:
    """Means, and what token vectors are made of.

    Args:
        halves: Of the window.
        readings: Its states.
        reading: Of the document.
        pieces: Of the window.
        whole: Chunks of one piece, whose token vectors are made. Of others, whose neighbours are averaged
            across pieces, the states are kept: they are longer than a window, and rare.
    """
    tensors = {"alone": halves.alone, "in_context": halves.in_context}
    for number, (piece, states) in enumerate(zip(pieces, readings[-len(pieces) :], strict=True)):
        reader = _find_reader(reading, piece)
        if reader is not None:
            is_whole = piece.row in whole
            kept = torch.from_numpy(reader.kept()[0]) if is_whole else reading.own_states(states).cpu()
            tensors[str(number)] = kept.contiguous()
    return save(tensors)


def _unpack(
    content: bytes, reading: SharedReading, pieces: Sequence[Piece], whole: Collection[int]
) -> Halves:
    """Give the means back, and to the document's readers what was kept for them."""
    tensors = load(content)
    for number, piece in enumerate(pieces):
        reader = _find_reader(reading, piece)
        if reader is not None and piece.row in whole:
            reader.restore(0, tensors[str(number)].numpy())
        elif reader is not None:
            reader.add(tensors[str(number)], piece.start)
    return Halves(tensors["alone"], tensors["in_context"])


def _find_reader(reading: SharedReading, piece: Piece) -> SpanTokens | None:
    if piece.row == NO_CHUNK or not reading.readers:
        return None
    reader = reading.readers[piece.row]
    assert isinstance(reader, SpanTokens)
    return reader


def _checksum(key: bytes, content: bytes) -> bytes:
    """Of the key too: what stands in another's row is no more usable than what is broken."""
    return hashlib.blake2b(key + content, digest_size=16).digest()
