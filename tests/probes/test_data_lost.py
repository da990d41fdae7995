"""What is stored, or a user's own, is there afterwards."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from rag_embed import QdrantChunkStore, RagEmbedError
from tests.probes.asking import edit_json, node, one_message, texts, write
from tests.probes.conftest import Run
from tests.qdrant_standin import serve


def test_opening_a_folder_that_has_a_folder_of_mine_in_it_deletes_none_of_my_files(tmp_path: Path) -> None:
    """Making the store object removed <path>/<collection>/shard when no collection.json lay beside it."""
    mine = write(tmp_path / "docs" / "shard", {"thesis.txt": "three years of work", "data/a.csv": "1"})
    with QdrantChunkStore("docs", path=tmp_path) as store:
        assert store.count() == 0
    assert (mine / "thesis.txt").read_text() == "three years of work"
    assert (mine / "data" / "a.csv").is_file()


@pytest.mark.parametrize("command", [("info",), ("search", "bread")])
def test_a_command_on_an_index_that_lost_its_record_deletes_no_index(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """With collection.json lost, `info` and `search` removed all chunks before they looked."""
    monkeypatch.chdir(write(tmp_path, {"docs/a.txt": "Bread is baked here."}))
    run("index", "docs")
    (tmp_path / "store" / "documents" / "collection.json").unlink()
    run(*command)
    assert run("info").exit_code == 0
    assert texts(tmp_path / "store") == {"docs/a.txt": "Bread is baked here."}


class Meeting(QdrantClient):
    """A client whose deletions wait until both writers have written."""

    barrier = threading.Barrier(2)

    def delete(self, *args: Any, **options: Any) -> Any:
        try:
            self.barrier.wait(timeout=0.5)
        except threading.BrokenBarrierError:
            self.barrier.reset()
        return super().delete(*args, **options)


def test_two_users_replacing_one_document_at_the_same_moment_do_not_lose_it() -> None:
    """Each writer stored its own chunks and deleted all others, the other's among them: nothing was left."""
    with serve() as server:
        clients = [Meeting(url=server.url, check_compatibility=False) for _ in range(2)]
        stores = [QdrantChunkStore("docs", client=client) for client in clients]
        stores[0].add([node("old")])
        versions = [[node(f"{name}-{i}") for i in range(3)] for name in ("left", "right")]
        threads = [
            threading.Thread(target=store.replace_document, args=("doc", version))
            for store, version in zip(stores, versions, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = {found.node_id for found in stores[0].get_nodes()}
        assert left in [{chunk.node_id for chunk in version} for version in versions]
        for client in clients:
            client.close()


def test_threads_that_first_use_a_store_in_memory_together_lose_none_of_their_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each thread that came first opened a database of its own; all but one were forgotten."""
    make = QdrantClient.__init__

    def make_slowly(self: QdrantClient, *args: Any, **options: Any) -> None:
        threading.Event().wait(0.05)
        make(self, *args, **options)

    monkeypatch.setattr(QdrantClient, "__init__", make_slowly)
    store = QdrantChunkStore("docs", location=":memory:")
    start = threading.Barrier(6)

    def add(number: int) -> None:
        start.wait()
        store.add([node(f"thread-{number}", document=f"{number}")])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 6
    store.close()


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a folder be unreadable, for root as well."""
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_i_may_not_read_today_is_not_forgotten(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lay in an unreadable folder counted as deleted by the user, and left the index."""
    wiki = write(tmp_path / "wiki", {"a.txt": "Bread.", "hr/b.txt": "Holidays."})
    run("index", wiki)
    with monkeypatch.context() as patch:
        hide(patch, "/hr")
        result = run("index", wiki)
    assert "wiki/hr" in result.stderr
    assert result.exit_code != 0
    assert texts(tmp_path / "store") == {"wiki/a.txt": "Bread.", "wiki/hr/b.txt": "Holidays."}


def test_a_mount_that_is_away_is_not_forgotten(run: Run, tmp_path: Path) -> None:
    """The empty folder of a mount that is not there counted as deleted documents."""
    wiki = write(tmp_path / "wiki", {"a.txt": "Bread.", "share/b.txt": "Salt."})
    run("index", wiki)
    (wiki / "share" / "b.txt").unlink()
    run("index", wiki)
    assert "wiki/share/b.txt" in texts(tmp_path / "store")


def test_a_folder_that_became_a_link_is_not_forgotten_without_a_word(run: Run, tmp_path: Path) -> None:
    """Links to folders are not followed; what lay behind one counted as deleted documents."""
    wiki = write(tmp_path / "wiki", {"a.txt": "Bread.", "hr/b.txt": "Salt."})
    run("index", wiki)
    (wiki / "hr").rename(tmp_path / "elsewhere")
    (wiki / "hr").symlink_to(tmp_path / "elsewhere")
    result = run("index", wiki)
    assert "wiki/hr" in result.stderr
    assert "wiki/hr/b.txt" in texts(tmp_path / "store")


def test_a_second_folder_called_docs_does_not_replace_the_first(run: Run, tmp_path: Path) -> None:
    """Ids begin with the folder's own name, so the second one's documents took the first one's place."""
    shop = write(tmp_path / "shop" / "docs", {"a.txt": "The shop.", "only.txt": "Opening hours."})
    blog = write(tmp_path / "blog" / "docs", {"a.txt": "The blog."})
    assert run("index", shop).exit_code == 0
    run("index", blog)
    assert set(texts(tmp_path / "store").values()) >= {"The shop.", "Opening hours."}


def test_a_folder_inside_an_indexed_folder_is_not_stored_twice(run: Run, tmp_path: Path) -> None:
    """`index docs` and `index docs/guide` gave one file two ids, and searches found it twice."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread.", "guide/b.txt": "Salt."})
    assert run("index", docs).exit_code == 0
    run("index", docs / "guide")
    assert sorted(texts(tmp_path / "store").values()) == ["Bread.", "Salt."]


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_nearly_full_is_one_message_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's memory-mapped files ended the process by SIGBUS; nothing looked at the disk before."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread."})
    run("index", docs)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 4096, 4096))
        write(docs, {"b.txt": "Salt."})
        for command in (("index", docs), ("search", "bread"), ("info",)):
            said = one_message(run(*command))
            assert "4,096 bytes free" in said
            assert str(tmp_path / "store" / "documents") in said
    assert texts(tmp_path / "store") == {"docs/a.txt": "Bread."}


def nest(levels: int, kind: str) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if kind == "list" else {"a": value}
    return value


@pytest.mark.parametrize("levels", [127, 200])
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_one_chunk_with_deeply_nested_metadata_does_not_make_the_others_unreadable(
    tmp_path: Path, levels: int, kind: str
) -> None:
    """It was stored, and then every read and deletion of other chunks raised."""
    with QdrantChunkStore("docs", path=tmp_path) as store:
        store.add([node("good", document="good")])
        with pytest.raises(RagEmbedError):
            store.add([node("bad", document="bad", deep=nest(levels, kind))])
        assert [found.node_id for found in store.get_nodes()] == ["good"]
        store.delete("good")
        assert store.get_nodes() == []


@pytest.mark.parametrize("fault", ["config", "weights"])
def test_rebuilding_with_a_model_that_does_not_load_keeps_the_index_that_is_there(
    run: Run, tmp_path: Path, tiny_folder: Path, fault: str
) -> None:
    """`--rebuild` deleted the collection first, and then found that the model cannot be loaded."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread."})
    run("index", docs)
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    if fault == "config":
        edit_json(broken / "config.json", {"num_attention_heads": 0})
    else:
        (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    run("index", docs, "--rebuild", "--model", broken)
    assert texts(tmp_path / "store") == {"docs/a.txt": "Bread."}


def test_rebuilding_forgets_nothing_that_cannot_be_read_today(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that may not be read is named, and its documents are gone all the same."""
    wiki = write(tmp_path / "wiki", {"a.txt": "Bread.", "hr/b.txt": "Holidays."})
    run("index", wiki)
    with monkeypatch.context() as patch:
        hide(patch, "/hr")
        run("index", wiki, "--rebuild")
    assert "wiki/hr/b.txt" in texts(tmp_path / "store")


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, {float("nan"): 1}, [{None: 1, "None": 2}]], ids=str)
def test_two_keys_in_metadata_do_not_become_one(tmp_path: Path, value: Any) -> None:
    """JSON writes 1 and "1" alike: one of the values was lost. NaN came back as "None"."""
    with QdrantChunkStore("docs", path=tmp_path) as store:
        with pytest.raises(RagEmbedError, match="'by_page'"):
            store.add([node("a", by_page=value)])
        assert store.count() == 0
