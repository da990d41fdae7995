"""One message and an exit code, whatever files, people and systems do; and all other documents are there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter, get_leaf_nodes
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import NodeWithScore
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from qdrant_client import AsyncQdrantClient

from rag_embed import (
    ContextualEmbedding,
    LateChunkingNodeParser,
    ListwiseRerank,
    QdrantChunkStore,
    RagEmbedError,
)
from rag_embed.cli import main
from rag_embed.files import reading
from rag_embed.llamaindex.corpus import Corpus
from tests.evalsets import make_set, write_chunked
from tests.probes.asking import as_json, edit_json, node, one_message, texts, write
from tests.probes.conftest import Run

TEXT = "The river is old. It runs to the city. Its people built a bridge. They live by it. " * 4
SECRET = "sesame-0123456789"


# --- documents that cannot be indexed


def test_a_path_that_is_too_long_for_a_chunk_is_named_and_the_other_documents_are_indexed(
    run: Run, tmp_path: Path
) -> None:
    """The splitter's ValueError ended the run; documents after it were never indexed."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread.", "z.txt": "Salt."})
    write(
        docs / "/".join(f"department-{i}-of-the-ministry-for-long-names" for i in range(8)),
        {"b.txt": "Deep."},
    )
    result = run("index", docs, "--chunk-size", "64")
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert "b.txt" in result.stderr
    assert set(texts(tmp_path / "store")) == {"docs/a.txt", "docs/z.txt"}


def test_a_file_name_that_is_not_utf8_ends_no_run(run: Run, tmp_path: Path) -> None:
    """A raw UnicodeEncodeError."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread."})
    try:
        Path(os.fsdecode(os.fsencode(docs) + b"/caf\xe9.txt")).write_text("Coffee.")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    result = run("index", docs)
    assert result.exit_code == 0, f"{result.stderr} {result.exception!r}"
    assert sorted(texts(tmp_path / "store").values()) == ["Bread.", "Coffee."]
    assert run("search", "coffee").exit_code == 0


def test_half_a_character_in_a_text_is_one_clear_error(model: ContextualEmbedding, tmp_path: Path) -> None:
    """PDFs hold lone surrogates; they came out as UnicodeEncodeError of the tokenizer or of the engine."""
    for place in ({"location": ":memory:"}, {"path": tmp_path}):
        with QdrantChunkStore("docs", **place) as store:  # type: ignore[arg-type]
            for bad in (
                node("a", text="half \ud83d"),
                node("a", title="half \ud83d"),
                node("a", **{"half \ud83d": 1}),
                node("a", document="half \ud83d"),
            ):
                with pytest.raises(RagEmbedError, match="surrogate"):
                    store.add([bad])
    with QdrantChunkStore("docs", location=":memory:") as store, pytest.raises(RagEmbedError):
        Corpus(store, embed_model=model).sync([Document(text="half \ud83d of it", id_="d")])


@pytest.mark.parametrize(
    "words", [("caf\udce9",), ("x", "--filter", "a=\udce9"), ("x", "--filter", "\udce9=a")]
)
def test_a_question_or_filter_that_is_no_utf8_is_one_message(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A raw UnicodeEncodeError."""
    run("index", write(tmp_path / "docs", {"a.txt": "Bread."}))
    one_message(run("search", *words))


def test_an_encrypted_pdf_says_that_it_is_encrypted(run: Run, tmp_path: Path) -> None:
    """`RetryError[<Future ...>]`, or the file's source was taken for its text."""
    office = pytest.importorskip("tests.office_files")
    shut = office.encrypt_pdf(office.make_pdf("It says salt."), "secret")
    result = run("index", write(tmp_path / "docs", {"a.txt": "Bread.", "shut.pdf": shut}))
    said = [line for line in result.stderr.splitlines() if "docs/shut.pdf" in line]
    assert len(said) == 1
    assert "encrypted" in said[0]
    assert "Future" not in result.stderr
    assert set(texts(tmp_path / "store")) == {"docs/a.txt"}


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_a_file_without_text_is_named(run: Run, tmp_path: Path, content: bytes) -> None:
    """It counted as unchanged, and nothing said that it can never be found."""
    docs = write(tmp_path / "docs", {"a.txt": "Bread.", "empty.txt": content})
    for _ in range(2):
        assert "docs/empty.txt" in run("index", docs).stderr


def test_a_scanned_pdf_is_named(run: Run, tmp_path: Path) -> None:
    """It counted as unchanged."""
    office = pytest.importorskip("tests.office_files")
    result = run("index", write(tmp_path / "docs", {"a.txt": "Bread.", "scan.pdf": office.make_pdf("")}))
    assert "docs/scan.pdf" in result.stderr
    assert set(texts(tmp_path / "store")) == {"docs/a.txt"}


# --- places that cannot be read or written


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let a folder be read only; root, who may write everywhere, is somebody else meanwhile."""
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    above = [parent for parent in folder.parents if str(parent).startswith("/tmp/")]
    modes |= {path: path.stat().st_mode for path in above}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.parametrize("command", [("search", "bread"), ("info",)])
def test_an_index_that_i_may_only_read_is_one_message(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A raw OSError of the lock file."""
    run("index", write(tmp_path / "docs", {"a.txt": "Bread."}))
    with read_only(tmp_path / "store"):
        result = run(*command)
    if result.exit_code != 0:
        assert str(tmp_path / "store" / "documents") in one_message(result)


def test_a_record_that_is_a_folder_is_one_message(run: Run, tmp_path: Path) -> None:
    """A raw IsADirectoryError."""
    (tmp_path / "store" / "documents" / "collection.json").mkdir(parents=True)
    assert "collection.json" in one_message(run("info"))
    assert "collection.json" in one_message(run("search", "bread"))


class PanicException(BaseException):
    """What engines written in Rust raise."""


def test_a_panic_of_the_engine_is_one_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PanicException is no Exception; it went past every handler."""

    def panic(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    run("index", write(tmp_path / "docs", {"a.txt": "Bread."}))
    monkeypatch.setattr(QdrantChunkStore, "query", panic)
    monkeypatch.setattr(QdrantChunkStore, "count", panic)
    for command in (("search", "bread"), ("info",)):
        assert "index out of bounds" in one_message(run(*command))


def test_a_report_that_cannot_be_written_is_said_before_the_work(run: Run, tmp_path: Path) -> None:
    """`--html /missing/r.html` raised after everything was measured, and nothing was printed."""
    folder, cache = write_chunked(tmp_path / "set", make_set(4)), tmp_path / "cache"
    words = ("evaluate", "--set", folder, "--cache", cache, "--arms", "isolated")
    one_message(run(*words, "--html", tmp_path / "missing" / "r.html"))
    assert not cache.exists()


def test_a_damaged_state_of_training_is_one_message(run: Run, tmp_path: Path) -> None:
    """A raw UnpicklingError."""
    pytest.importorskip("peft")
    folder = write_chunked(tmp_path / "set", make_set(8))
    write(tmp_path / "adapter", {"unfinished.pt": b"no state at all"})
    result = run("train", "--set", folder, "--out", tmp_path / "adapter", "--steps", "1")
    if result.exit_code != 0:  # a state that is kept in another file is not looked at
        assert "unfinished.pt" in one_message(result)


# --- checkpoints


class Hang(BaseException):
    """It took too long."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no heads": ("config.json", {"num_attention_heads": 0}),
    "epsilon as text": ("config.json", {"layer_norm_eps": "small"}),
    "layers without end": ("config.json", {"num_hidden_layers": 100_000}),
}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_malformed_checkpoint_is_one_message(
    run: Run, tmp_path: Path, tiny_folder: Path, fault: str
) -> None:
    """Raw errors of libraries, or a model of 100,000 layers that was never done."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file, changes = CHECKPOINTS[fault]
    edit_json(folder / file, changes)
    refuses(run, tmp_path, folder)


def refuses(run: Run, tmp_path: Path, folder: Path) -> str:
    docs = write(tmp_path / "docs", {"a.txt": "Bread.", "b.txt": "Salt."})
    with time_limit(8):
        result = run("index", docs, "--model", folder)
    said = one_message(result)
    assert "Hang" not in said
    assert "unforeseen" not in said
    return said


def test_weights_that_are_an_endless_device_are_one_message(
    run: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    """They were read for ever."""
    if not Path("/dev/zero").exists():
        pytest.skip("needs an endless device")
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    assert "model.safetensors" in refuses(run, tmp_path, folder)


def test_a_checkpoint_whose_modules_leave_its_folder_is_refused(
    run: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    """Files elsewhere on the disk were read."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere/1_Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    refuses(run, tmp_path, folder)


# --- questions


def test_a_question_of_500_words_is_answered(run: Run, tmp_path: Path) -> None:
    """The reranker's ContextOverflowError ended `search` and `chat`."""
    run("index", write(tmp_path / "docs", {f"{i}.txt": f"The museum {i} opens at seven." for i in range(3)}))
    question = "When does the museum open? " * 100
    result = run("search", question, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(as_json(result)["passages"]) == 3
    assert run("chat", input=f"{question}\n").exit_code == 0


def test_a_reranker_keeps_the_first_order_where_the_question_is_too_long(model: ContextualEmbedding) -> None:
    """A ContextOverflowError in the middle of a query engine."""
    chunks = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=24, chunk_overlap=0), embed_model=model
    )([Document(text=TEXT, id_="d")])
    with QdrantChunkStore("docs", location=":memory:") as store:
        store.add(chunks)
        found = [NodeWithScore(node=chunk, score=1 - i / 10) for i, chunk in enumerate(chunks[:4])]
        reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=4)
        again = reranker.postprocess_nodes(found, query_str="When does the museum open? " * 100)
    assert [hit.node.node_id for hit in again] == [hit.node.node_id for hit in found]


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_is_called_empty(model: ContextualEmbedding, question: str) -> None:
    """Told to embed the question first, or to pass one."""
    chunks = LateChunkingNodeParser(embed_model=model)([Document(text=TEXT, id_="d")])
    with QdrantChunkStore("docs", location=":memory:") as store:
        store.add(chunks)
        index = VectorStoreIndex.from_vector_store(store, embed_model=model)
        with pytest.raises(RagEmbedError, match="expected a question"):
            index.as_retriever().retrieve(question)
        reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=1)
        with pytest.raises(RagEmbedError, match="expected a question"):
            reranker.postprocess_nodes([NodeWithScore(node=chunks[0], score=0.5)], query_str=question)


class Killed(BaseException):
    """The process would be dead now."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_a_run_with_one_line_and_an_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    """Ctrl-C printed "Aborted!" or nothing; SIGTERM was no more than death."""

    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    def die(*_: object) -> None:
        raise Killed

    docs = write(tmp_path / "docs", {"a.txt": "Bread."})
    monkeypatch.setattr(reading, "read_folder", interrupted)
    monkeypatch.setattr(sys, "argv", ["rag-embed", "index", str(docs), "--store", str(tmp_path / "store")])
    before = signal.signal(signal.SIGTERM, die)
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- filters


@pytest.fixture
def filtered(tmp_path: Path, model: ContextualEmbedding) -> str:
    """An index of one document with metadata, as a reader's."""
    metadata = {"page_label": "2", "file.name": "x", "draft": True, "file": {"name": "y"}, "isbn": "007"}
    with QdrantChunkStore("documents", path=tmp_path / "store") as store:
        Corpus(store, embed_model=model).sync([Document(text="Bread is baked.", id_="d", metadata=metadata)])
    return "d"


@pytest.mark.parametrize(
    ("condition", "is_found"),
    [
        ("page_label=2", True),
        ("file.name=x", True),
        ("file.name=y", True),
        ("file.name=z", False),
        ("draft=true", True),
        ("draft=false", False),
        ("isbn=007", True),
    ],
)
def test_a_filter_finds_what_it_reads_like(run: Run, filtered: str, condition: str, is_found: bool) -> None:
    """Page numbers are stored as text and were looked for as numbers; dots were paths; booleans were text."""
    result = run("search", "bread", "--filter", condition, "--json")
    assert [passage["document"] for passage in as_json(result)["passages"]] == [filtered] * is_found


# --- what is shown


def test_a_document_cannot_send_commands_to_my_terminal(run: Run, tmp_path: Path) -> None:
    """Escape sequences of texts and file names reached it."""
    evil = {"a.txt": "Bread \x1b]0;owned\x07 and \x9b31m salt.", "b\x1b[2J.txt": "Salt."}
    shown = [
        run("index", write(tmp_path / "docs", evil)),
        run("search", "bread"),
        run("chat", input="bread\n"),
    ]
    for result in shown:
        assert result.exit_code == 0, result.stderr
        assert not set(result.stdout + result.stderr) & set("\x1b\x07\x9b")


@pytest.mark.parametrize("command", [("info",), ("search", "bread"), ("index", "docs")])
def test_a_password_in_a_url_is_not_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """The message of a server that does not answer held the whole URL."""
    import time

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.chdir(write(tmp_path, {"docs/a.txt": "Bread."}))
    result = run(*command, "--url", f"http://user:{SECRET}@127.0.0.1:1")
    assert SECRET not in one_message(result) + result.stdout


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://[::1", "http://127.0.0.1:abc", "http://127.0.0.1:99999", "::"]
)
def test_an_address_that_names_no_server_is_one_message(run: Run, url: str) -> None:
    """Raw errors of urllib3 and httpx."""
    assert url in one_message(run("info", "--url", url))


@pytest.mark.parametrize("key", ["a\\b", "a[99999999999999999999]", '"a\\b"'])
def test_a_filter_key_that_no_engine_can_read_is_answered_alike_by_all(tmp_path: Path, key: str) -> None:
    """A raw ValueError of the embedded engine, where memory gave an answer."""
    answers = set()
    for place in ({"location": ":memory:"}, {"path": tmp_path}):
        with QdrantChunkStore("docs", **place) as store:  # type: ignore[arg-type]
            store.add([node("a", **{"a\\b": 1, "a": 1})])
            try:
                wanted = MetadataFilters(filters=[MetadataFilter(key=key, value=1)])
                answers.add(str([found.node_id for found in store.get_nodes(filters=wanted)]))
            except RagEmbedError as error:
                answers.add(type(error).__name__)
    assert len(answers) == 1


def test_numbers_beyond_what_an_engine_counts_are_one_clear_error(run: Run, tmp_path: Path) -> None:
    """A raw TypeError for an integer of 400 digits, a raw OverflowError for as many passages."""
    with QdrantChunkStore("docs", path=tmp_path / "numbers") as store:
        with pytest.raises(RagEmbedError, match="'number'"):
            store.add([node("a", number=10**400)])
        assert store.count() == 0
    run("index", write(tmp_path / "docs", {"a.txt": "Bread."}))
    result = run("search", "bread", "--top-k", 10**30)
    if result.exit_code != 0:
        assert "unforeseen" not in one_message(result)


# --- what the components say


def test_part_of_a_document_is_refused_by_the_name_of_the_document(model: ContextualEmbedding) -> None:
    """The AlignmentError said neither which document nor what to do."""
    chunks = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=24, chunk_overlap=0))(
        [Document(text=TEXT, id_="the-annual-report")]
    )
    with pytest.raises(RagEmbedError, match="the-annual-report"):
        model(chunks[:2])


def test_a_parser_that_rewrites_text_is_taken_or_named() -> None:
    """The AlignmentError named neither the document nor the parser."""

    class Shouting(SentenceSplitter):
        def split_text(self, text: str) -> list[str]:
            return [chunk.upper() for chunk in super().split_text(text)]

        def split_text_metadata_aware(self, text: str, metadata_str: str) -> list[str]:
            return self.split_text(text)

    try:
        chunks = LateChunkingNodeParser(node_parser=Shouting(chunk_size=24, chunk_overlap=0))(
            [Document(text=TEXT, id_="the-annual-report")]
        )
    except RagEmbedError as error:
        assert "the-annual-report" in str(error)
        assert "Shouting" in str(error)
    else:
        assert all(chunk.get_content().isupper() for chunk in chunks)


def test_parents_out_of_a_docstore_are_reranked_or_the_message_says_how(model: ContextualEmbedding) -> None:
    """AutoMergingRetriever's parents have no vector in the store; the advice was to add them to it again."""
    inner = HierarchicalNodeParser.from_defaults(chunk_sizes=[60, 24], chunk_overlap=0)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([Document(text=TEXT, id_="d")])
    docstore = SimpleDocumentStore()
    docstore.add_documents([chunk.model_copy(update={"embedding": None}) for chunk in nodes])
    with QdrantChunkStore("docs", location=":memory:") as store:
        context = StorageContext.from_defaults(docstore=docstore, vector_store=store)
        leaves = get_leaf_nodes(nodes)
        index = VectorStoreIndex(leaves, storage_context=context, embed_model=model)
        merged = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), context).retrieve(
            "river"
        )
        reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=2)
        try:
            assert len(reranker.postprocess_nodes(merged, query_str="river")) == min(2, len(merged))
        except RagEmbedError as error:
            assert "AutoMergingRetriever" in str(error)


async def test_a_reranker_over_a_store_with_an_async_client_alone_can_be_awaited(
    model: ContextualEmbedding,
) -> None:
    """There was no async postprocessing: it asked the store blocking, which such a store refuses."""
    aclient = AsyncQdrantClient(location=":memory:")
    store = QdrantChunkStore("docs", aclient=aclient)
    chunks = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=24, chunk_overlap=0), embed_model=model
    )([Document(text=TEXT, id_="d")])
    await store.async_add(chunks)
    bare = [
        NodeWithScore(node=chunk.model_copy(update={"embedding": None}), score=0.5) for chunk in chunks[:4]
    ]
    reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=3)
    assert len(await reranker.apostprocess_nodes(bare, query_str="river")) == 3
    await aclient.close()
