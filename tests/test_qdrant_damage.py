"""A damaged folder never answers without a word: what `check` finds, and what it says to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rag_embed.cli.app import app
from rag_embed.qdrant import QdrantChunkStore
from tests.qdrant_cases import make_nodes, where
from tests.qdrant_damage import build

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    build(folder)
    return folder


def count_outcomes(folder: Path, first: int, last: int) -> tuple[Counter[str], list[str]]:
    """Damage copies of the folder; a run that kills its process is counted too, and the next goes on."""
    outcomes: dict[int, tuple[str, str]] = {}
    while first < last:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.qdrant_damage",
            str(folder),
            str(first),
            str(last),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        for line in done.stdout.splitlines():
            seed, outcome, why = json.loads(line)
            outcomes[seed] = (outcome, f"{seed} {outcome}: {why}")
        if done.returncode == 0:
            break
        first = max(outcomes) + 1
        assert outcomes[first - 1][0] == "started", done.stderr[-2000:]
    wrong = [why for outcome, why in outcomes.values() if outcome not in ("reported", "refused", "harmless")]
    return Counter(outcome for outcome, _ in outcomes.values()), wrong


def test_no_damage_of_a_closed_folder_is_silent(closed: Path) -> None:
    outcomes, wrong = count_outcomes(closed, 0, 8)
    assert wrong == []
    assert outcomes.total() == 8
    assert outcomes["reported"] + outcomes["refused"] >= 1


@pytest.mark.slow
def test_none_of_300_damages_of_a_closed_folder_is_silent(closed: Path) -> None:
    outcomes, wrong = count_outcomes(closed, 0, 300)
    assert wrong == []
    assert outcomes.total() == 300
    assert outcomes["reported"] + outcomes["refused"] >= 60


def test_everything_that_is_written_passes_the_check(tmp_path: Path) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.check() == type(store.check())(0)
        store.add(make_nodes(30, document="a", prefix="a"))
        store.add(make_nodes(30, document="b", prefix="b", seed=1))
        store.add(make_nodes(30, document="a", prefix="a", seed=2))  # over the old ones
        store.replace_document("b", make_nodes(5, document="b", prefix="new"))
        store.delete_nodes(["a-3", "nobody"])
        store.delete_nodes(filters=where("index", 4))
        report = store.check()
        assert (report.points, report.faults, report.documents) == (32, (), ())
        store.optimize()
        assert store.check() == report
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.check() == report
        store.clear()
        store.add(make_nodes(3))
        assert store.check().points == 3


def test_a_folder_without_a_ledger_gets_one(tmp_path: Path) -> None:
    """As every folder did that was written before there were ledgers."""
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add(make_nodes(30))
    (tmp_path / "docs" / "ledger.db").unlink()
    record = tmp_path / "docs" / "collection.json"
    record.write_text(record.read_text().replace('"version": 2', '"version": 1', 1))
    for _ in range(2):
        with QdrantChunkStore("docs", path=tmp_path) as store:
            assert store.check().is_sound
            assert store.check().points == 30


def test_writes_count_although_the_log_was_lost(tmp_path: Path) -> None:
    """The engine numbers writes by its log, and points ignore those with lower numbers than their last."""
    nodes = make_nodes(20)
    with QdrantChunkStore("docs", path=tmp_path) as store:
        for node in nodes:
            store.add([node])
    shutil.rmtree(tmp_path / "docs" / "shard" / "wal")
    for _ in range(2):
        with QdrantChunkStore("docs", path=tmp_path) as store:
            store.delete_nodes(["node-19"])
            store.add(make_nodes(19, kind="later", seed=7))
            assert store.count() == store.count(where("kind", "later")) == 19
            assert store.check().is_sound


def flip_vector(folder: Path) -> None:
    path = next(folder.rglob("chunk_0.mmap"))
    with path.open("r+b") as file:
        file.seek(2)
        byte = file.read(1)
        file.seek(2)
        file.write(bytes([byte[0] ^ 4]))


def lose_point(folder: Path) -> None:
    next(folder.rglob("mutable_id_tracker.mappings")).write_bytes(b"")
    for path in folder.rglob("wal/open-*"):
        path.unlink()


def lose_ledger(folder: Path) -> None:
    (folder / "docs" / "ledger.db").unlink()


@pytest.mark.parametrize(
    ("harm", "fault", "documents"),
    [
        (flip_vector, "1 point(s) are not what was written", ["first"]),
        (lose_point, "40 point(s) are missing", ["first", "second"]),
        (lose_ledger, "the ledger is missing", []),
    ],
)
def test_info_check_says_which_documents_to_index_again(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    fault: str,
    documents: list[str],
) -> None:
    with QdrantChunkStore("docs", path=tmp_path) as store:
        for seed, document in enumerate(["first", "second"]):
            store.add(make_nodes(20, document=document, prefix=document, seed=seed, fingerprint="A"))
    ask = ["info", "--check", "--store", str(tmp_path), "--collection", "docs"]
    sound = CliRunner().invoke(app, [*ask, "--json"])
    assert (sound.exit_code, json.loads(sound.stdout)["faults"]) == (0, [])
    assert not caplog.records
    harm(tmp_path)
    damaged = CliRunner().invoke(app, [*ask, "--json"])
    told = json.loads(damaged.stdout)
    assert any(fault in found for found in told["faults"]), told
    assert told["index again"] == documents
    assert damaged.exit_code == 1
    assert "--rebuild" in CliRunner().invoke(app, ask).output
    if fault != "1 point(s) are not what was written":  # what opening alone can see
        assert "`rag-embed info --check` says what is damaged" in caplog.text


def test_a_check_of_memory_reads_and_counts() -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        assert store.check().points == 0
        store.add(make_nodes(1_100))
        report = store.check()
        assert (report.points, report.is_sound) == (1_100, True)


async def test_a_check_awaits() -> None:
    async with QdrantChunkStore("docs", location=":memory:") as store:
        await store.async_add(make_nodes(3))
        assert (await store.acheck()).points == 3
