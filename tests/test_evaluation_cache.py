"""The cache of vectors: what is damaged in it is computed again, and never decides a result."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from rag_embed.evaluation import VectorCache, evaluate, make_arms
from rag_embed.evaluation.cache import make_key
from rag_embed.llamaindex import ContextualEmbedding
from tests.evalsets import make_set

KEYS = [make_key("chunk", number) for number in range(40)]
MATRICES = {key: torch.full((2, 3), float(number)) for number, key in enumerate(KEYS)}
Damage = Callable[[Path], None]


def overwrite(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content) and None


def execute(*statements: str) -> Damage:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def cut(share: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)]) and None


def flip(count: int, seed: int) -> Damage:
    def damage(path: Path) -> None:
        content, generator = bytearray(path.read_bytes()), random.Random(seed)
        for _ in range(count):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)

    return damage


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def leave_a_journal(path: Path) -> None:
    path.write_bytes(b"no database")
    Path(f"{path}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))


def swap_two_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        (a, b) = connection.execute("SELECT key, floats, checksum FROM matrices LIMIT 2").fetchall()
        for key, floats, checksum in ((a[0], *b[1:]), (b[0], *a[1:])):
            connection.execute(
                "UPDATE matrices SET floats = ?, checksum = ? WHERE key = ?", (floats, checksum, key)
            )


DAMAGES: dict[str, Damage] = {
    "nothing in it": overwrite(b""),
    "zeros": overwrite(bytes(4096)),
    "another file": overwrite(b"PK\x03\x04 this is no database" * 300),
    "half of it": cut(0.5),
    "its header alone": cut(0.01),
    "a folder": become_a_folder,
    "a stale journal": leave_a_journal,
    "no table": execute("DROP TABLE matrices"),
    "other columns": execute("DROP TABLE matrices", "CREATE TABLE matrices (key, value)"),
    "a view": execute("DROP TABLE matrices", "CREATE VIEW matrices AS SELECT 1 AS key"),
    "the table of an earlier version": execute(
        "DROP TABLE matrices",
        "CREATE TABLE vectors (key BLOB PRIMARY KEY, dim INTEGER, floats BLOB) WITHOUT ROWID",
    ),
    "no numbers": execute("UPDATE matrices SET floats = NULL"),
    "text for numbers": execute("UPDATE matrices SET floats = 'abc'"),
    "a part of the numbers": execute("UPDATE matrices SET floats = substr(floats, 1, 7)"),
    "one row more": execute("UPDATE matrices SET floats = floats || floats"),
    "other numbers": execute("UPDATE matrices SET floats = zeroblob(24)"),
    "not a number": execute(f"UPDATE matrices SET floats = x'{'0000c07f' * 6}'"),
    "another width": execute("UPDATE matrices SET dim = 2"),
    "width zero": execute("UPDATE matrices SET dim = 0"),
    "no width": execute("UPDATE matrices SET dim = NULL"),
    "no checksum": execute("UPDATE matrices SET checksum = NULL"),
    "two rows exchanged": swap_two_rows,
    **{f"{count} bits flipped, {seed}": flip(count, seed) for count in (1, 30, 400) for seed in range(4)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_absent_and_can_be_put_again(tmp_path: Path, damage: Damage) -> None:
    VectorCache(tmp_path).put(MATRICES)
    damage(tmp_path / "vectors.sqlite")
    for _ in range(3):  # a write can uncover what no read met before
        cache = VectorCache(tmp_path)
        found = cache.get(KEYS)
        assert all(torch.equal(found[key], MATRICES[key]) for key in found), "never another matrix"
        cache.put({key: MATRICES[key] for key in KEYS if key not in found})
    assert VectorCache(tmp_path).get(KEYS).keys() == MATRICES.keys()


def test_a_damaged_file_is_renamed_and_not_deleted(tmp_path: Path) -> None:
    VectorCache(tmp_path).put(MATRICES)
    become_a_folder(tmp_path / "vectors.sqlite")
    VectorCache(tmp_path).put(MATRICES)
    assert (tmp_path / "vectors.sqlite.damaged" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "damage", ["two rows exchanged", "other numbers", "another file", "30 bits flipped, 1"]
)
def test_an_evaluation_over_a_damaged_cache_is_the_same(
    tmp_path: Path, tiny_folder: Path, damage: str
) -> None:
    model = ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")
    arms = make_arms(model, has_titles=True)
    evalset = make_set(3)
    whole = evaluate(evalset, arms, model=model, cache=VectorCache(tmp_path))
    DAMAGES[damage](tmp_path / "vectors.sqlite")
    found = evaluate(evalset, arms, model=model, cache=VectorCache(tmp_path))
    assert found.as_json() == whole.as_json()


def test_where_nothing_can_be_written_vectors_are_kept_in_memory_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("mine")
    cache = VectorCache(tmp_path / "file")
    cache.put(MATRICES)
    cache.put(MATRICES)
    assert cache.get(KEYS).keys() == MATRICES.keys()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "vectors are kept in memory only, and the next run computes them again" in caplog.text
    assert (tmp_path / "file").read_text() == "mine"


def test_a_busy_file_is_not_taken_for_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_embed.evaluation.cache._TIMEOUT_S", 0.01)
    VectorCache(tmp_path).put(MATRICES)
    with closing(sqlite3.connect(tmp_path / "vectors.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache = VectorCache(tmp_path)
        assert cache.get(KEYS) == {}
        cache.put(MATRICES)
        assert cache.get(KEYS).keys() == MATRICES.keys(), "in memory meanwhile"
        other.execute("ROLLBACK")
    assert VectorCache(tmp_path).get(KEYS).keys() == MATRICES.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.sqlite"]
