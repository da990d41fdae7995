"""A new encoder for an index: all is found at any moment, by vectors of one space, and ends as made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_edge", reason="needs the extra local")
pytest.importorskip("typer", reason="needs the extra cli")
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from typer.testing import CliRunner, Result

from rag_embed import ContextualEmbedding, ListwiseRerank, QdrantChunkStore
from rag_embed.cli.app import app
from rag_embed.errors import FingerprintMismatchError, InputError
from rag_embed.indexes.migrating import Migration, drop_former, learn_from, migrate, recall_for_asking
from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.llamaindex.mapped_embedding import MappedEmbedding
from rag_embed.llamaindex.reembedding import Reembedding
from rag_embed.query_map import learn_map
from tests.checkpoints import tiny_bert
from tests.kills import HOUSES, read_everything, write_documents

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def newer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another encoder: other weights, another digest."""
    return tiny_bert(tmp_path_factory.mktemp("checkpoints") / "newer", seed=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_command(*words: object, store: str = "store") -> Result:
        given = [str(word) for word in (*words, "--store", tmp_path / store)]
        return CliRunner().invoke(app, given)

    return run_command


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("documents", tmp_path / "store")


@pytest.fixture
def indexed(run: Run, tmp_path: Path, tiny_folder: Path) -> Path:
    """An index by the old encoder, of six documents, whose files are gone."""
    index(run, tmp_path / "docs", tiny_folder)
    write_documents(tmp_path / "docs", version=3)  # half of the files are gone; the index has them all
    return tmp_path / "docs"


def index(run: Run, docs: Path, model: Path, *words: object, store: str = "store") -> None:
    write_documents(docs)
    succeed(run("index", docs, "--model", model, "--chunk-size", 48, "--tokens", *words, store=store))


def succeed(result: Result) -> Any:
    assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    return json.loads(result.stdout) if result.stdout.startswith("{") else None


def to_unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def documents_of(store: QdrantChunkStore) -> set[str]:
    return {Path(name).stem for name in store.count_by_document()}


@pytest.mark.parametrize("strategy", ["blend", pytest.param("isolated", marks=pytest.mark.slow)])
def test_a_migrated_index_is_one_made_of_the_files(
    run: Run, tmp_path: Path, tiny_folder: Path, newer_folder: Path, strategy: str
) -> None:
    """Text, metadata, vectors, words and token vectors, bit for bit; the files are not read."""
    words = ("--strategy", strategy, *(["--no-tokens"] if strategy == "isolated" else []))
    index(run, tmp_path / "docs", newer_folder, *words, store="fresh")
    index(run, tmp_path / "docs", tiny_folder, *words)
    (tmp_path / "docs").rename(tmp_path / "elsewhere")
    done = succeed(run("migrate", "--to-model", newer_folder, "--json"))
    assert (done["embedded"], done["left"], done["switched"]) == (6, 0, True)
    assert read_everything(tmp_path / "store") == read_everything(tmp_path / "fresh")
    facts = succeed(run("info", "--json"))
    assert facts["fingerprint"] == done["fingerprint"]
    assert facts["collection"] == done["to"] == f"documents-{done['fingerprint'][-12:]}"
    found = succeed(run("search", "old apple trees", "--model", newer_folder, "--json"))
    wanted = succeed(run("search", "old apple trees", "--model", newer_folder, "--json", store="fresh"))
    assert found == wanted
    (tmp_path / "elsewhere").rename(tmp_path / "docs")
    again = succeed(run("index", tmp_path / "docs", "--model", newer_folder, "--chunk-size", 48, "--json"))
    assert again["sources"][0]["embedded"] == 0


def assert_all_scores_are_with(
    vectors: dict[str, np.ndarray], store: QdrantChunkStore, model: ContextualEmbedding
) -> list[float]:
    """Ask for everything: these chunks are found and no others, each scored by its vector among these."""
    query = model.get_query_embedding("the bridge of stone")
    result = store.query(VectorStoreQuery(query_embedding=query, similarity_top_k=2 * len(vectors)))
    assert set(result.ids) == set(vectors)
    expected = [float(to_unit(np.array(query)) @ vectors[node_id]) for node_id in result.ids]
    assert result.similarities == pytest.approx(expected, abs=1e-5)
    return query


def test_a_search_while_a_migration_runs_never_mixes_scores_of_two_spaces(
    place: Place, indexed: Path, tiny_folder: Path, newer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked after every write, by the old model and by the new one; after the switch by the new one."""
    with place.open() as store:
        old = {node.node_id: np.array(node.embedding) for node in store.get_nodes()}
    by_whom: list[str] = []

    replace_document = QdrantChunkStore.replace_document

    def replace_and_search(self: QdrantChunkStore, *arguments: Any) -> list[str]:
        written = replace_document(self, *arguments)
        with place.open() as store:
            schema = store.info()
            assert schema is not None
            for folder in (tiny_folder, newer_folder):
                model = recall_for_asking(place, ModelOptions(str(folder)), store, schema)
                assert_all_scores_are_with(old, store, model)
                by_whom.append(type(model).__name__)
        return written

    monkeypatch.setattr(QdrantChunkStore, "replace_document", replace_and_search)
    done = migrate(place, ModelOptions(str(newer_folder)))
    assert done.is_switched
    assert by_whom == ["ContextualEmbedding", "MappedEmbedding"] * len(HOUSES)
    with place.open() as store:
        new = {node.node_id: np.array(node.embedding) for node in store.get_nodes()}
        assert new.keys() == old.keys()
        assert not any(np.allclose(new[node_id], old[node_id], atol=1e-2) for node_id in new)
        schema = store.info()
        assert schema is not None
        model = recall_for_asking(place, ModelOptions(str(newer_folder)), store, schema)
        assert_all_scores_are_with(new, store, model)


def test_at_any_moment_all_is_found_by_vectors_of_one_space(
    run: Run, place: Place, indexed: Path, tiny_folder: Path, newer_folder: Path
) -> None:
    """Until the switch every score is that of a query, old or mapped, with an old vector."""
    with place.open() as store:
        old = {node.node_id: np.array(node.embedding) for node in store.get_nodes()}
    everything = (str(len(old)), "--rerank", "none", "--json")
    for left in (5, 2):
        step = run("migrate", "--to-model", newer_folder, "--most", 1 if left == 5 else 3, "--json")
        assert step.exit_code == 4
        assert json.loads(step.stdout)["left"] == left
        with place.open() as store:
            schema = store.info()
            assert schema is not None
            for options in (ModelOptions(str(tiny_folder)), ModelOptions(str(newer_folder))):
                model = recall_for_asking(place, options, store, schema)
                query = assert_all_scores_are_with(old, store, model)
            migration = Migration.read(store)
            assert migration is not None
            with place.open_named(migration.target) as target:
                pairs = {node.node_id: node.embedding for node in target.get_nodes()}
            assert isinstance(model, MappedEmbedding)
            assert model.query_map.pairs == len(pairs)
            shared = sorted(pairs)
            slow = learn_map(
                "procrustes", np.array([pairs[i] for i in shared]), np.array([old[i] for i in shared])
            )
            plain = ContextualEmbedding(model=str(newer_folder)).embed_query("the bridge of stone").numpy()
            assert query == pytest.approx(to_unit(slow.apply(plain)).tolist(), abs=1e-5)
        shown = run("search", "a bridge", "--model", newer_folder, "-k", *everything)
        assert len(succeed(shown)["passages"]) == len(old)
        assert f"learned from {len(pairs)} chunks" in shown.stderr
        facts = succeed(run("info", "--json"))
        assert facts["embedded anew"] == len(pairs)
    assert succeed(run("migrate", "--to-model", newer_folder, "--json"))["embedded"] == 2
    with place.open() as store:
        assert documents_of(store) == set(HOUSES)
        assert (
            store.info().fingerprint
            == ContextualEmbedding(model=str(newer_folder), strategy="late").fingerprint()
        )


class Killed(BaseException):
    """Stands for the end of the process; real ones are killed in tests/e2e/test_kills.py."""


@pytest.mark.parametrize("numbers", [(18,), pytest.param(tuple(range(1, 21)), marks=pytest.mark.slow)])
def test_ended_before_or_after_any_write_it_is_all_there_and_ends_as_made_anew(
    numbers: tuple[int, ...],
    place: Place,
    run: Run,
    indexed: Path,
    tmp_path: Path,
    newer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tmp_path / "store", tmp_path / "kept")
    options = ModelOptions(str(newer_folder))
    assert migrate(place, options).is_switched
    wanted = read_everything(tmp_path / "store")
    calls: list[str] = []
    last: list[int] = []

    def watch(name: str) -> None:
        original = getattr(QdrantChunkStore, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            for moment in ("before", "after"):
                calls.append(f"{moment} {name}")
                if [len(calls)] == last:
                    raise Killed
                result = original(*args, **kwargs) if moment == "before" else result
            return result

        monkeypatch.setattr(QdrantChunkStore, name, write)

    for name in ("replace_document", "update_metadata"):
        watch(name)
    for number in numbers:
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "kept", tmp_path / "store")
        calls.clear()
        last[:] = [number]
        with pytest.raises(Killed):
            migrate(place, options)
        with place.open() as store:
            assert documents_of(store) == set(HOUSES), calls
            # Announced, six documents, what is known of the old one copied; then one write changes over.
            assert store.info().fingerprint.startswith("newer" if number > 17 else "tiny_bert")
        last.clear()
        assert migrate(place, options).is_switched
        assert read_everything(tmp_path / "store") == wanted, calls


def test_between_spaces_of_two_sizes(run: Run, place: Place, indexed: Path, tiny_folder: Path) -> None:
    run("migrate", "--to-model", "all-MiniLM-L6-v2", "--most", 3)
    with place.open() as store:
        model = recall_for_asking(place, ModelOptions("all-MiniLM-L6-v2"), store, store.info())
        assert model.query_map.rotation.shape == (384, 32)
        assert len(model.get_query_embedding("a bridge")) == 32
    # A question for token vectors that are kept, by an encoder that did not make them.
    shown = run("search", "a bridge", "--model", "all-MiniLM-L6-v2", "--rerank", "late-interaction")
    assert shown.exit_code == 1
    assert "mapped into another space" in shown.stderr
    assert succeed(run("migrate", "--to-model", "all-MiniLM-L6-v2", "--json"))["switched"]
    with place.open() as store:
        assert (store.info().dim, store.info().legs.tokens) == (384, "int4")


def test_what_is_written_meanwhile_is_migrated_too(
    place: Place, run: Run, indexed: Path, tmp_path: Path, tiny_folder: Path, newer_folder: Path
) -> None:
    passes: list[int] = []

    def begin(chunks: int) -> Callable[[str, int], None]:
        passes.append(chunks)
        if len(passes) == 2:  # the first pass has been over all documents: half change, half go
            write_documents(indexed, version=2)
            (indexed / "museum.md").unlink()
            succeed(run("index", indexed, "--model", tiny_folder, "--chunk-size", 48))
        return lambda document_id, count: None

    done = migrate(place, ModelOptions(str(newer_folder)), begin=begin)
    assert done.is_switched
    assert [len(report.embedded) for report in done.passes] == [6, 3, 0]
    assert [len(report.removed) for report in done.passes] == [0, 1, 0]
    write_documents(tmp_path / "docs", version=2)
    (tmp_path / "docs" / "museum.md").unlink()
    words = ("--model", newer_folder, "--strategy", "late", "--chunk-size", 48, "--tokens")
    succeed(run("index", tmp_path / "docs", *words, store="fresh"))
    assert read_everything(tmp_path / "store") == read_everything(tmp_path / "fresh")


def test_a_document_that_cannot_be_embedded_is_named_and_stays(
    run: Run, place: Place, indexed: Path, tiny_folder: Path, newer_folder: Path
) -> None:
    with place.open() as store:
        lost = next(node for node in store.get_nodes() if node.ref_doc_id == "docs/castle.md")
        store.delete_nodes([lost.node_id])
    result = run("migrate", "--to-model", newer_folder, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["failed"] == ["docs/castle.md"]
    assert "characters are missing" in result.stderr
    with place.open() as store:
        assert "castle" in documents_of(store)
        assert store.info().fingerprint.startswith("tiny_bert")
    write_documents(indexed)
    succeed(run("index", indexed, "--model", tiny_folder, "--chunk-size", 48))
    assert succeed(run("migrate", "--to-model", newer_folder, "--json"))["embedded"] == 1


def test_old_vectors_go_when_they_are_told_to_and_the_way_back_is_another_migration(
    run: Run, place: Place, indexed: Path, tiny_folder: Path, newer_folder: Path, tmp_path: Path
) -> None:
    before = read_everything(tmp_path / "store")
    succeed(run("migrate", "--to-model", newer_folder))
    with QdrantChunkStore("documents", path=tmp_path / "store") as root:
        assert root.count() == before["count"]
    assert succeed(run("migrate", "--drop-old", "--json")) == {"dropped": before["count"]}
    with QdrantChunkStore("documents", path=tmp_path / "store") as root:
        assert root.count() == 0
    assert succeed(run("migrate", "--to-model", newer_folder, "--json"))["embedded"] == 0
    back = succeed(run("migrate", "--to-model", tiny_folder, "--drop-old", "--json"))
    assert back["dropped"] == before["count"]
    assert read_everything(tmp_path / "store") == before
    assert drop_former(place) == 0
    write_documents(indexed)
    succeed(run("index", indexed, "--model", newer_folder, "--chunk-size", 48, "--rebuild"))
    with QdrantChunkStore("documents", path=tmp_path / "store") as root:
        assert root.count() == before["count"]
        assert root.info().fingerprint.startswith("newer")


def test_what_cannot_be_migrated_is_refused(
    run: Run, place: Place, tiny_folder: Path, newer_folder: Path, tmp_path: Path
) -> None:
    nothing = run("migrate", "--to-model", newer_folder)
    assert nothing.exit_code == 1
    assert "make it with `rag-embed index FOLDER`" in nothing.stderr
    assert not (tmp_path / "store").exists()
    assert run("migrate").exit_code == 2
    index(run, tmp_path / "docs", tiny_folder)
    with place.open() as store:
        (stored,) = store.get_nodes(limit=1)
        text = TextNode(text="without a document", embedding=stored.embedding)
        text.relationships = stored.relationships
    missing = run("migrate", "--to-model", tmp_path / "nowhere")
    assert missing.exit_code == 1
    assert "embedded anew" not in succeed(run("info", "--json"))
    run("migrate", "--to-model", newer_folder, "--most", 1)
    stranger = run("search", "a bridge", "--model", "all-MiniLM-L6-v2")
    assert "stores vectors made by" in stranger.stderr


def test_chunks_without_a_document_are_not_left_behind(newer_folder: Path) -> None:
    source, target = (QdrantChunkStore(name, location=":memory:") for name in ("old", "new"))
    source.add([TextNode(text="alone", embedding=[1.0, 0.0])])
    with pytest.raises(InputError, match="holds 1 chunks that belong to no document"):
        Reembedding(source, target, embed_model=ContextualEmbedding(model=str(newer_folder))).run()


def test_a_mapped_model_only_asks(tiny_folder: Path, newer_folder: Path) -> None:
    model = ContextualEmbedding(model=str(newer_folder), strategy="isolated")
    vectors = np.random.default_rng(0).standard_normal((2, 9, 32))
    query_map = learn_map("procrustes", *vectors)
    mapped = MappedEmbedding.of(model, query_map)
    assert mapped.strategy == "isolated"
    plain = np.array([model.get_query_embedding("a bridge"), model.get_text_embedding("a wall")])
    query, text = (to_unit(each) for each in query_map.apply(plain))
    assert mapped.get_query_embedding("a bridge") == pytest.approx(query, abs=1e-5)
    assert mapped.get_text_embedding("a wall") == pytest.approx(text, abs=1e-5)
    with pytest.raises(InputError, match="expected queries alone"):
        mapped([TextNode(text="a bridge")])
    with QdrantChunkStore("docs", location=":memory:") as store, pytest.raises(InputError):
        learn_from(store, store)


def test_a_reranker_refuses_chunks_of_the_other_encoder(
    place: Place, run: Run, indexed: Path, newer_folder: Path
) -> None:
    model = ContextualEmbedding(model=str(newer_folder))
    with place.open() as store:
        nodes = [NodeWithScore(node=node, score=1.0) for node in store.get_nodes(limit=3)]
        mapped = MappedEmbedding.of(model, learn_map("shift", np.eye(32), np.eye(32)))
        with pytest.raises(FingerprintMismatchError):
            ListwiseRerank(embed_model=mapped, vector_store=store).postprocess_nodes(nodes, QueryBundle("a"))
